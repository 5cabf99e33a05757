"""pypoll beside the interpreter's own select and selectors, in the same run, as ratios.

    python benchmarks/side_by_side.py

The subjects take turns, and the best of many turns counts for each: so a ratio survives a machine
that others use too. Times are only for orientation.
"""

from __future__ import annotations

import os
import platform
import resource
import select
import selectors
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pypoll

Work = Callable[[], object]
TURNS = 30
CALLS_IN_A_TURN = 20_000


@contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    opened = [os.pipe() for _ in range(count)]
    yield opened
    for pair in opened:
        for fd in pair:
            os.close(fd)


def seconds(work: Work, calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - begun) / calls


def compare(name: str, works: list[Work], calls: int) -> None:
    """Print a row: microseconds of each, and the ratios of the last one to the others."""
    best = [float("inf")] * len(works)
    for _ in range(TURNS):
        for index, work in enumerate(works):
            best[index] = min(best[index], seconds(work, calls))
    times = "".join(f"{each * 1e6:>10.3f}" for each in best)
    ratios = "".join(f"{best[-1] / each:>7.2f}" for each in best[:-1])
    print(f"{name:<34}{times}{ratios}", flush=True)


def heading(title: str, *subjects: str) -> None:
    columns = "".join(f"{subject:>10}" for subject in subjects)
    print(f"\n{title:<34}{columns}{'ratio' if len(subjects) == 2 else 'ratios':>7}")


def compare_sets(count: int) -> None:
    calls = max(50, CALLS_IN_A_TURN // count)
    with pipes(count) as opened:
        fds = [reading for reading, _ in opened]
        middle = fds[count // 2]

        def registered(module: Any) -> Any:
            poller = module.poll()
            for fd in fds:
                poller.register(fd, module.POLLIN)
            return poller

        def polled(module: Any) -> Work:
            poll = registered(module).poll
            return lambda: poll(0)

        def replaced(module: Any) -> Work:
            poller, mask = registered(module), module.POLLIN

            def work() -> None:
                poller.unregister(middle)
                poller.register(middle, mask)
                poller.poll(0)

            return work

        def modified(module: Any) -> Work:
            poller, mask = registered(module), module.POLLIN

            def work() -> None:
                poller.modify(middle, mask)
                poller.poll(0)

            return work

        def row(name: str, make: Callable[[Any], Work]) -> None:
            compare(f"{count:>5}, {name}", [make(select), make(pypoll)], calls)

        row("idle", polled)
        row("unregister, register, poll", replaced)
        row("modify, poll", modified)
        os.write(opened[0][1], b"x")
        row("one ready", polled)
        for _, writing in opened[1:]:
            os.write(writing, b"x")
        row("all ready", polled)


def compare_registering() -> None:
    def work(module: Any) -> Work:
        poller, mask = module.poll(), module.POLLIN
        return lambda: poller.register(0, mask)

    compare("register a known descriptor", [work(select), work(pypoll)], CALLS_IN_A_TURN)


def compare_selectors(count: int) -> None:
    calls = max(50, CALLS_IN_A_TURN // count)
    epoll = getattr(selectors, "EpollSelector", selectors.DefaultSelector)
    with pipes(count) as opened:
        made = [selectors.PollSelector(), epoll(), pypoll.PollSelector()]
        for selector in made:
            for reading, _ in opened:
                selector.register(reading, selectors.EVENT_READ, "data")

        def row(name: str) -> None:
            works: list[Work] = [lambda select=each.select: select(0) for each in made]  # type: ignore[misc]
            compare(f"{count:>5}, {name}", works, calls)

        row("idle")
        for _, writing in opened:
            os.write(writing, b"x")
        row("all ready")
        for selector in made:
            selector.close()


def show_short_waits() -> None:
    """Print how long a wait of 0.05 ms takes."""
    poller = pypoll.Poll()
    waits = []
    for _ in range(1000):
        begun = time.monotonic_ns()
        poller.poll(0.05)
        waits.append(time.monotonic_ns() - begun)
    print(
        f"\npoll(0.05), nothing ready: at least {min(waits) / 1e6:.3f} ms, "
        f"median {statistics.median(waits) / 1e6:.3f} ms"
    )


def main() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(f"{platform.python_implementation()} {sys.version.split()[0]}, {platform.platform()}")
    heading("Poll, us a call, pipes", "select", "pypoll")
    for count in (1, 10, 100, 1000):
        compare_sets(count)
    compare_registering()
    heading("PollSelector, us a call, pipes", "poll", "epoll", "pypoll")
    for count in (1, 100, 1000):
        compare_selectors(count)
    show_short_waits()


if __name__ == "__main__":
    main()
