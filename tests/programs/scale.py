"""Many descriptors, sets, waits and changes: argv has a limit of seconds, the case, its numbers."""

from __future__ import annotations

import gc
import itertools
import os
import random
import re
import resource
import select
import signal
import statistics
import sys
import time
from contextlib import suppress
from typing import Any, Callable

import pypoll
from pypoll.library import lib

MASK: list[int] | None = [] if lib.pypoll_has_ppoll() else None


def raise_limit(count: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        hard = max(hard, count)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    except (OSError, ValueError) as error:
        print(f"a limit of {count} descriptors is not to be had here: {error}")
        sys.exit(77)


def memory(field: int = 0, collected: bool = True) -> int:
    """Return the size of the process, or with 1 what of it is resident."""
    if collected:
        gc.collect()
        gc.collect()  # PyPy's finalizers have run by now
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[field]) * resource.getpagesize()


def descriptors(count: int) -> None:
    """Results are right and in order with so many descriptors."""
    raise_limit(count + 100)
    idle, end = os.pipe()
    lively, other_end = os.pipe()
    os.write(other_end, b"x")
    fds = [os.dup(idle) for _ in range(count)]
    random.Random(1).shuffle(fds)
    p = pypoll.Poll()
    selector = pypoll.PollSelector()
    for fd in fds:
        p.register(fd, pypoll.POLLIN)
        selector.register(fd, pypoll.EVENT_READ)

    def check(ready: list[tuple[int, int]]) -> None:
        assert p.poll(0) == ready
        assert p.ppoll(1, MASK) == ready
        keys = [(key.fd, events) for key, events in selector.select(0)]
        assert keys == [(fd, pypoll.EVENT_READ) for fd, _ in ready]

    check([])
    os.dup2(lively, fds[count // 2])
    check([(fds[count // 2], pypoll.POLLIN)])
    for fd in fds[::10]:
        os.dup2(lively, fd)
    check([(fd, pypoll.POLLIN) for fd in fds[::10]])
    os.write(end, b"x")
    check([(fd, pypoll.POLLIN) for fd in fds])
    os.close(fds[0])
    assert p.poll(0)[:2] == [(fds[0], pypoll.POLLNVAL), (fds[1], pypoll.POLLIN)]
    for fd in fds[::2]:
        p.unregister(fd)
    for fd in reversed(fds[2::2]):
        p.register(fd, pypoll.POLLIN)
    assert p.poll(0) == [(fd, pypoll.POLLIN) for fd in [*fds[1::2], *reversed(fds[2::2])]]


def numbers(count: int) -> None:
    """Each descriptor takes 8 bytes of the array and 8 of the index, and gives them back."""
    p = pypoll.Poll()
    p.register(0)
    p.unregister(0)
    before = memory()
    for fd in range(count):
        p.register(fd, fd & 3)
    assert memory() - before <= 17 * count
    assert len(p) == count
    assert all(p[fd] == fd & 3 for fd in range(0, count, 101))
    left = count
    while left > 1000:
        fewer = left // 2
        for i in range(fewer, left):
            p.unregister(i * 7919 % count)
        left = fewer
        assert memory() - before <= 64 * left + 1_000_000
    kept = sorted(i * 7919 % count for i in range(left))
    assert [(fd, p[fd]) for fd in p] == [(fd, fd & 3) for fd in kept]


def polled(count: int) -> None:
    """A set that was polled has the array, the index and the copy that the kernel was given.

    So many may not be polled, which shows after the copy: no result adds to the memory.
    """
    raise_limit(1000)
    p = pypoll.Poll()
    before = memory()
    for fd in range(count):
        p.register(fd, 1)
    with suppress(OSError):
        p.poll(0)
    growth = memory() - before
    assert growth <= 40 * count, growth


def empty(count: int) -> None:
    kept: list[Any] = [None] * count
    before = memory(1)
    for i in range(count):
        kept[i] = pypoll.Poll()
    growth = memory(1) - before
    assert growth <= 700 * count, growth


def dropped(count: int, kind: str) -> None:
    """Sets are used once and dropped, which is how most are used."""
    make: Any = {"pypoll": pypoll.Poll, "select": select.poll}[kind]
    pipes = [os.pipe() for _ in range(count)]
    # The rest of the process, and what its allocator keeps for itself, is not what is looked at.
    resource.setrlimit(resource.RLIMIT_AS, (memory() + 200_000_000, resource.RLIM_INFINITY))
    for _ in range(300_000):
        p = make()
        for reading, _ in pipes:
            p.register(reading, 1)
        assert p.poll(0) == []
    with open("/proc/self/status") as status:
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read())
    assert found
    print(found[1])


def time_of_forks(make: Callable[[], Any]) -> float:
    def fork() -> int:
        begun = time.perf_counter_ns()
        child = os.fork()
        if child == 0:
            os._exit(0)
        took = time.perf_counter_ns() - begun
        os.waitpid(child, 0)
        return took

    kept = [make() for _ in range(5000)]
    for p in kept:
        p.register(0, 1)
    gc.collect()
    return statistics.median(fork() for _ in range(50))


def forks() -> None:
    """A fork beside 5000 objects takes at most twice the time that it takes with select's."""
    ours, theirs = [], []
    for _ in range(10):
        theirs.append(time_of_forks(select.poll))
        ours.append(time_of_forks(pypoll.Poll))
        if min(ours) <= 2 * min(theirs):
            return
    raise AssertionError((ours, theirs))


def check_steady(call: Callable[[], object], rounds: int, leeway: int) -> None:
    """Check that repeating the call takes no more memory, blocks of Python or descriptors."""
    blocks = getattr(sys, "getallocatedblocks", int)  # not on PyPy

    def use(rounds: int) -> list[int]:
        for _ in range(rounds):
            call()
        return [memory(), blocks(), len(os.listdir("/proc/self/fd"))]

    before = use(rounds)
    growth = [now - then for now, then in zip(use(rounds * TIMES), before)]
    assert growth[0] < leeway, (call, growth)
    assert growth[1] < 200, (call, growth)
    assert growth[2] == 0, (call, growth)


def polls() -> None:
    pipes = [os.pipe() for _ in range(300)]
    idle, ready, many, large = pypoll.Poll(), pypoll.Poll(), pypoll.Poll(), pypoll.Poll()
    selector = pypoll.PollSelector()
    idle.register(pipes[0][0], pypoll.POLLIN)
    ready.register(pipes[0][1], pypoll.POLLOUT)
    for _, writing in pipes:
        many.register(writing, pypoll.POLLOUT)
        selector.register(writing, pypoll.EVENT_WRITE)

    def refused() -> None:
        with suppress(KeyError):
            idle.unregister(5)
        with suppress(OSError):
            idle.modify(5, 1)

    def breathe() -> None:
        # The set outgrows its room, and the wait its copy, and both give it back.
        for fd in range(10_000, 10_300):
            large.register(fd)
        assert len(large.poll(0)) == 300
        for fd in range(10_000, 10_300):
            large.unregister(fd)
        assert large.poll(0) == []

    numbers = itertools.cycle(range(10_000, 11_000))

    def churn() -> None:
        fd = next(numbers)
        selector.register(fd, pypoll.EVENT_READ)
        selector.modify(fd, pypoll.EVENT_WRITE)
        assert len(selector.select(0)) == len(pipes) + 1
        selector.unregister(fd)

    for call, rounds in [
        (lambda: idle.poll(0), 50_000),
        (lambda: ready.poll(), 50_000),
        (lambda: pypoll.poll_fd(writing, pypoll.POLLOUT, 0), 50_000),
        (lambda: ready.poll(1), 30_000),
        (lambda: ready.ppoll(None, MASK), 20_000),
        (lambda: idle.poll(1e-6), 2000),
        (lambda: many.poll(0), 2000),
        (lambda: selector.select(0), 2000),
        (refused, 10_000),
        (breathe, 200),
        (churn, 1000),
    ]:
        # CPython takes memory in pieces of 2**20 bytes, and the collector of PyPy in some more.
        check_steady(call, rounds, 4_000_000)


class Node(pypoll.Poll):
    def __init__(self, fails: bool = False) -> None:
        self.itself = self
        if fails:
            raise KeyError


def sets() -> None:
    def outgrown() -> None:
        # The set is dropped with all the memory that it may have.
        p = pypoll.Poll()
        for fd in range(10_000, 10_300):
            p.register(fd)
        assert len(p.poll(0)) == 300
        for fd in range(10_000, 10_200):
            p.unregister(fd)
        assert len(p.poll(0)) == 100

    def select() -> None:
        with pypoll.PollSelector() as selector:
            selector.register(1, pypoll.EVENT_WRITE)
            selector.select(0)

    def fail() -> None:
        with suppress(KeyError):
            Node(fails=True)

    # PyPy's collector runs by itself, from 18 MB (7.3.11) or 67 MB (7.3.19, 8.0) on: these are 260.
    before = memory()
    for _ in range(100_000 * TIMES):
        pypoll.Poll()
    assert memory(collected=False) - before < 128_000_000
    calls: list[tuple[Callable[[], object], int]] = [(pypoll.Poll, 20_000), (outgrown, 1000)]
    for call, rounds in [*calls, (Node, 6000), (fail, 6000), (select, 6000)]:
        # PyPy frees now and then, and so may have more to free at one time than at another.
        check_steady(call, rounds, 8_000_000)


def changes(count: int) -> None:
    raise_limit(10_000)
    p = pypoll.Poll()
    model: dict[int, int] = {}
    chance = random.Random(1).random
    for change in range(count):
        # It fills, then is busy, then runs nearly empty, and so on.
        share = (0.97, 0.5, 0.03)[change // 20_000 % 3]
        fd = 10_000 + int(chance() * 6000)
        if chance() < share:
            model[fd] = change & 0xFFFF
            p.register(fd, change & 0xFFFF)
        elif fd in model:
            del model[fd]
            p.unregister(fd)
        if change % 500 == 0:
            print(len(model))
            assert p.poll(0) == [(fd, pypoll.POLLNVAL) for fd in model]
    assert [(fd, p[fd]) for fd in p] == list(model.items())


# Under strace, killing that would leave this process behind.
signal.alarm(int(sys.argv[1]))
TIMES = int(sys.argv[2])
globals()[sys.argv[3]](*(int(word) if word.isdigit() else word for word in sys.argv[4:]))
