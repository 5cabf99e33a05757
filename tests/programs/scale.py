"""Many descriptors, sets and waits: argv has a limit in seconds, a factor, and the case."""

from __future__ import annotations

import gc
import itertools
import os
import random
import re
import resource
import select
import signal
import sys
from contextlib import suppress
from typing import Any, Callable

import pypoll
from pypoll.library import lib

MASK: list[int] | None = [] if lib.pypoll_has_ppoll() else None


def set_limit(count: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        hard = max(hard, count)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    except (OSError, ValueError) as error:
        print(f"this system does not allow {count} descriptors: {error}")
        sys.exit(77)


def memory() -> int:
    """Return the size of the process."""
    gc.collect()
    gc.collect()  # PyPy has now run the finalizers
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def descriptors(count: int) -> None:
    set_limit(count + 100)
    idle, end = os.pipe()
    readable, other_end = os.pipe()
    os.write(other_end, b"x")
    fds = [os.dup(idle) for _ in range(count)]
    random.Random(1).shuffle(fds)
    p = pypoll.Poll()
    selector = pypoll.PollSelector()
    for fd in fds:
        p.register(fd, pypoll.POLLIN)
        selector.register(fd, pypoll.EVENT_READ)
    for ready in [], fds[::10]:
        for fd in ready:
            os.dup2(readable, fd)
        expected = [(fd, pypoll.POLLIN) for fd in ready]
        assert p.poll(0) == p.ppoll(1, MASK) == expected
        assert [(key.fd, events) for key, events in selector.select(0)] == expected
    os.write(end, b"x")
    for fd in fds[::2]:
        p.unregister(fd)
    for fd in reversed(fds[::2]):
        p.register(fd, pypoll.POLLIN)
    assert p.poll(0) == [(fd, pypoll.POLLIN) for fd in [*fds[1::2], *reversed(fds[::2])]]


def large_set(count: int) -> None:
    """A descriptor takes 8 bytes of the array, 8 of the index and 8 of the wait's copy."""
    # So no wait returns results, which would take more memory.
    set_limit(100)
    p = pypoll.Poll()
    p.register(0)
    p.unregister(0)
    before = memory()
    for fd in range(count):
        p.register(fd, fd & 3)
    for limit in 17, 26:
        assert memory() - before <= limit * count, limit
        with suppress(OSError):
            p.poll(0)
    left = count
    while left > 1000:
        fewer = left // 2
        for i in range(fewer, left):
            p.unregister(i * 7919 % count)
        left = fewer
        with suppress(OSError):
            p.poll(0)
        assert memory() - before <= 96 * left + 1_000_000, left
    kept = sorted(i * 7919 % count for i in range(left))
    assert [(fd, p[fd]) for fd in p] == [(fd, fd & 3) for fd in kept]


def dropped_sets(count: int, kind: str) -> None:
    """Use each set once and drop it, as most programs do. Print the greatest size in kB."""
    make: Any = {"pypoll": pypoll.Poll, "select": select.poll}[kind]
    pipes = [os.pipe() for _ in range(count)]
    # Sets that the garbage collector keeps too long would exceed this limit.
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


class Node(pypoll.Poll):
    """A set in a reference cycle."""

    def __init__(self, fails: bool = False) -> None:
        self.itself = self
        if fails:
            raise KeyError


def check_steady(call: Callable[[], object], rounds: int) -> None:
    """Check that repeating the call takes no more memory, Python objects or descriptors."""
    blocks = getattr(sys, "getallocatedblocks", int)  # PyPy has none

    def use(rounds: int) -> list[int]:
        for _ in range(rounds):
            call()
        return [memory(), blocks(), len(os.listdir("/proc/self/fd"))]

    before = use(rounds)
    growth = [now - then for now, then in zip(use(rounds * TIMES), before)]
    # The interpreters take memory in pieces of megabytes.
    assert growth[0] < 8_000_000, (call, growth)
    assert growth[1] < 200, (call, growth)
    assert growth[2] == 0, (call, growth)


def repeated() -> None:
    pipes = [os.pipe() for _ in range(300)]
    idle, ready, many, large = pypoll.Poll(), pypoll.Poll(), pypoll.Poll(), pypoll.Poll()
    selector = pypoll.PollSelector()
    idle.register(pipes[0][0], pypoll.POLLIN)
    ready.register(pipes[0][1], pypoll.POLLOUT)
    for _, writing in pipes:
        many.register(writing, pypoll.POLLOUT)
        selector.register(writing, pypoll.EVENT_WRITE)

    def fail() -> None:
        with suppress(KeyError):
            idle.unregister(5)
        with suppress(OSError):
            idle.modify(5, 1)
        with suppress(KeyError):
            Node(fails=True)

    def grow_and_shrink(p: pypoll.Poll) -> None:
        for fd in range(10_000, 10_300):
            p.register(fd)
        assert len(p.poll(0)) == 300
        for fd in range(10_000, 10_200):
            p.unregister(fd)
        assert len(p.poll(0)) == 100

    numbers = itertools.cycle(range(10_000, 11_000))

    def change_selector() -> None:
        fd = next(numbers)
        selector.register(fd, pypoll.EVENT_READ)
        selector.modify(fd, pypoll.EVENT_WRITE)
        assert len(selector.select(0)) == len(pipes) + 1
        selector.unregister(fd)

    def use_new_selector() -> None:
        with pypoll.PollSelector() as new:
            new.register(1, pypoll.EVENT_WRITE)
            new.select(0)

    for call, rounds in [
        (lambda: idle.poll(0), 50_000),
        (lambda: idle.poll(1e-6), 2000),
        (lambda: ready.ppoll(None, MASK), 20_000),
        (lambda: pypoll.poll_fd(writing, pypoll.POLLOUT, 1), 50_000),
        (lambda: many.poll(0), 2000),
        (fail, 6000),
        (lambda: grow_and_shrink(large), 500),
        (lambda: grow_and_shrink(pypoll.Poll()), 2000),
        (pypoll.Poll, 20_000),
        (Node, 6000),
        (change_selector, 1000),
        (use_new_selector, 6000),
    ]:
        check_steady(call, rounds)


signal.alarm(int(sys.argv[1]))
TIMES = int(sys.argv[2])
globals()[sys.argv[3]](*(int(word) if word.isdigit() else word for word in sys.argv[4:]))
