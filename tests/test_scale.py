"""Many descriptors, many waits, many sets, many changes: right results, and memory given back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

pytestmark = pytest.mark.native

Run = Callable[..., str]

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="reads the size of the process from /proc"
)

BEGINNING = """
import gc, itertools, os, random, resource, signal, sys
import pypoll
from pypoll.library import lib

# Under strace, killing that would leave this process behind.
signal.alarm(int(sys.argv.pop(1)))
MASK = [] if lib.pypoll_has_ppoll() else None


def raise_limit(count):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        hard = max(hard, count)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    except (OSError, ValueError) as error:
        print(f"a limit of {count} descriptors is not to be had here: {error}")
        sys.exit(77)


def memory(collected=True):
    if collected:
        gc.collect()
        gc.collect()  # PyPy's finalizers have run by now
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()
"""

DESCRIPTORS = """
COUNT = int(sys.argv[1])
raise_limit(COUNT + 100)
idle, end = os.pipe()
lively, other_end = os.pipe()
os.write(other_end, b"x")
fds = [os.dup(idle) for _ in range(COUNT)]
random.Random(1).shuffle(fds)
p = pypoll.Poll()
selector = pypoll.PollSelector()
for fd in fds:
    p.register(fd, pypoll.POLLIN)
    selector.register(fd, pypoll.EVENT_READ)


def check(ready):
    assert p.poll(0) == ready
    assert p.ppoll(1, MASK) == ready
    keys = [(key.fd, events) for key, events in selector.select(0)]
    assert keys == [(fd, pypoll.EVENT_READ) for fd, _ in ready]


check([])
os.dup2(lively, fds[COUNT // 2])
check([(fds[COUNT // 2], pypoll.POLLIN)])
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
"""

NUMBERS = """
COUNT = 1_000_000
MEGABYTE = 1_000_000
p = pypoll.Poll()
p.register(0)
p.unregister(0)
before = memory()
for fd in range(COUNT):
    p.register(fd, fd & 3)
assert memory() - before <= 20 * COUNT
assert len(p) == COUNT
assert all(p[fd] == fd & 3 for fd in range(0, COUNT, 101))
left = COUNT
while left > 1000:
    fewer = left // 2
    for i in range(fewer, left):
        p.unregister(i * 7919 % COUNT)
    left = fewer
    assert memory() - before <= 64 * left + MEGABYTE
kept = sorted(i * 7919 % COUNT for i in range(left))
assert [(fd, p[fd]) for fd in p] == [(fd, fd & 3) for fd in kept]
"""

STEADY = """
times = int(sys.argv[1])


def use():
    # Of memory, of Python's blocks and of descriptors.
    blocks = getattr(sys, "getallocatedblocks", int)  # not on PyPy
    return memory(), blocks(), len(os.listdir("/proc/self/fd"))


def check_steady(call, rounds):
    def repeat(rounds):
        for _ in range(rounds):
            call()

    repeat(rounds)
    before = use()
    repeat(rounds * times)
    growth = [now - then for now, then in zip(use(), before)]
    assert growth[0] < LEEWAY and growth[1] < 200 and growth[2] == 0, (call, growth)
"""

POLLS = """
LEEWAY = 1_000_000
pipes = [os.pipe() for _ in range(300)]
idle, ready, many, large = pypoll.Poll(), pypoll.Poll(), pypoll.Poll(), pypoll.Poll()
selector = pypoll.PollSelector()
reading, writing = pipes[0]
idle.register(reading, pypoll.POLLIN)
ready.register(writing, pypoll.POLLOUT)
for reading, writing in pipes:
    many.register(writing, pypoll.POLLOUT)
    selector.register(writing, pypoll.EVENT_WRITE)
for fd in range(10_000, 12_000):
    large.register(fd)


def refused(call, *arguments):
    try:
        call(*arguments)
    except (KeyError, OSError):
        pass


def change_during_a_wait():
    # The many that are ready hold the set, so that the change goes to a copy.
    lib.pypoll_check(large._pypoll_address)
    large.modify(10_000, 0)
    lib.pypoll_release(large._pypoll_set, lib.pypoll_hold(large._pypoll_set))


def churn(numbers=itertools.cycle(range(10_000, 11_000))):
    fd = next(numbers)
    selector.register(fd, pypoll.EVENT_READ)
    selector.modify(fd, pypoll.EVENT_WRITE)
    assert len(selector.select(0)) == len(pipes) + 1
    selector.unregister(fd)


check_steady(lambda: idle.poll(0), 50_000)
check_steady(lambda: ready.poll(), 50_000)
check_steady(lambda: pypoll.poll_fd(writing, pypoll.POLLOUT, 0), 50_000)
check_steady(lambda: ready.poll(1), 30_000)
check_steady(lambda: ready.ppoll(None, MASK), 20_000)
check_steady(lambda: idle.poll(1e-6), 2000)
check_steady(lambda: many.poll(0), 2000)
check_steady(lambda: selector.select(0), 2000)
check_steady(lambda: refused(idle.unregister, 5), 10_000)
check_steady(lambda: refused(idle.modify, 5, 1), 10_000)
check_steady(change_during_a_wait, 1000)
check_steady(churn, 1000)
"""

SETS = """
# PyPy frees now and then, and so may have more to free at one time than at another.
LEEWAY = 8_000_000


class Node(pypoll.Poll):
    def __init__(self, fails=False):
        self.itself = self
        if fails:
            raise KeyError


def change_during_a_wait():
    # The set is dropped with a copy of its array, for a wait that will not be.
    p = pypoll.Poll()
    for fd in range(10_000, 10_200):
        p.register(fd)
    lib.pypoll_check(p._pypoll_address)
    p.modify(10_000, 0)


def select():
    with pypoll.PollSelector() as selector:
        selector.register(1, pypoll.EVENT_WRITE)
        selector.select(0)


def fail():
    try:
        Node(fails=True)
    except KeyError:
        pass


# PyPy's collector runs by itself, from 18 MB (7.3.11) or 67 MB (7.3.19, 8.0) on: these are 260.
before = memory()
for _ in range(100_000 * times):
    pypoll.Poll()
assert memory(collected=False) - before < 128_000_000
check_steady(pypoll.Poll, 20_000)
check_steady(change_during_a_wait, 6000)
check_steady(Node, 6000)
check_steady(fail, 6000)
check_steady(select, 6000)
"""

CHANGES = """
p = pypoll.Poll()
model = {}
chance = random.Random(1).random
for change in range(int(sys.argv[1])):
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
"""


@pytest.fixture
def run(long_profile: bool, tmp_path: Path) -> Run:
    """A function that runs a program, and skips the test where that may not do what it must."""

    def run(program: str, *arguments: int, under: tuple[str, ...] = ()) -> str:
        seconds = 1200 if long_profile else 120
        command = [sys.executable, "-c", BEGINNING + program, str(seconds), *map(str, arguments)]
        ran = subprocess.run(
            [*under, *command],
            cwd=tmp_path,
            # The C library gives back what is freed, and at once, so that it can be counted.
            env={
                **os.environ,
                "MALLOC_MMAP_THRESHOLD_": "65536",
                "MALLOC_TRIM_THRESHOLD_": "65536",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode == 77:
            pytest.skip(ran.stdout)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_results_are_right_with_so_many_descriptors(run: Run, count: int) -> None:
    run(DESCRIPTORS, count)


@LINUX
def test_a_million_descriptors_take_20_bytes_each_and_give_them_back(run: Run) -> None:
    run(NUMBERS)


@LINUX
@pytest.mark.parametrize("program", [POLLS, SETS], ids=["polls", "sets"])
def test_neither_memory_nor_descriptors_grow(run: Run, program: str, long_profile: bool) -> None:
    run(STEADY + program, 50 if long_profile else 1)


@LINUX
def test_the_array_has_an_eighth_of_holes_at_the_most(
    run: Run, strace: list[str], long_profile: bool, tmp_path: Path
) -> None:
    """Ten million changes are an hour of a server that makes nearly 3,000 a second."""
    trace = tmp_path / "trace"
    shown = run(
        CHANGES,
        10_000_000 if long_profile else 300_000,
        under=(*strace, "-qq", "-o", str(trace)),
    )
    descriptors = [int(line) for line in shown.splitlines()]
    entries = [int(count) for count in re.findall(r"poll\(\[.*\], (\d+), ", trace.read_text())]
    assert len(descriptors) == len(entries)
    for used, live in zip(entries, descriptors):
        assert live <= used <= live + live // 8 + 8
    assert min(descriptors) < 400
    assert max(descriptors) > 5000
