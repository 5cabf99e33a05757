"""pypoll.Poll beside the interpreter's own select.poll, in the same run, as ratios.

    python benchmarks/against_select.py

The two take turns, and the best of many turns counts for each: so the ratio survives a machine
that others use too. Times are only for orientation.
"""

from __future__ import annotations

import os
import platform
import resource
import select
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


def compare(name: str, make: Callable[[Any], Work], calls: int) -> None:
    """Print a row: what *make* returns for each of the two, timed in turns."""
    works = [make(select), make(pypoll)]
    best = [float("inf"), float("inf")]
    for _ in range(TURNS):
        for index, work in enumerate(works):
            best[index] = min(best[index], seconds(work, calls))
    theirs, ours = best
    print(f"{name:<36} {theirs * 1e6:>10.3f} {ours * 1e6:>10.3f} {ours / theirs:>7.2f}", flush=True)


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

        compare(f"{count:>5}, idle", polled, calls)
        compare(f"{count:>5}, unregister, register, poll", replaced, calls)
        compare(f"{count:>5}, modify, poll", modified, calls)
        os.write(opened[0][1], b"x")
        compare(f"{count:>5}, one ready", polled, calls)
        for _, writing in opened[1:]:
            os.write(writing, b"x")
        compare(f"{count:>5}, all ready", polled, calls)


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
    print(f"{'us a call; descriptors are pipes':<36} {'select':>10} {'pypoll':>10} {'ratio':>7}")
    for count in (1, 10, 100, 1000):
        compare_sets(count)

    def registered_again(module: Any) -> Work:
        poller, mask = module.poll(), module.POLLIN
        return lambda: poller.register(0, mask)

    compare("register a known descriptor", registered_again, CALLS_IN_A_TURN)
    show_short_waits()


if __name__ == "__main__":
    main()
