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

PYPY = sys.implementation.name == "pypy"

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="reads the size of the process from /proc"
)

BEGINNING = """
import gc, itertools, os, random, re, resource, signal, sys
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
# For each descriptor 8 bytes of the array and 8 of the index; and both have room for 2**20.
p = pypoll.Poll()
p.register(0)
p.unregister(0)
before = memory()
for fd in range(COUNT):
    p.register(fd, fd & 3)
assert memory() - before <= 17 * COUNT
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

# The array, the index and the copy that the kernel was given; room for 2**17.
POLLED = """
COUNT = 100_000
# So many may not be polled, which shows after they have been copied: no result adds to the memory.
raise_limit(1000)
p = pypoll.Poll()
before = memory()
for fd in range(COUNT):
    p.register(fd, 1)
try:
    p.poll(0)
except OSError:
    pass
growth = memory() - before
assert growth <= 40 * COUNT, growth
"""

# How much larger the process is for each object that is kept.
EMPTY = """
COUNT = 100_000


def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


kept = [None] * COUNT
before = resident()
for i in range(COUNT):
    kept[i] = pypoll.Poll()
growth = resident() - before
assert growth <= 700 * COUNT, growth
"""

# Used once and dropped, which is how most objects are used.
DROPPED = """
import select

poll = {"pypoll": pypoll.Poll, "select": select.poll}[sys.argv[2]]
pipes = [os.pipe() for _ in range(int(sys.argv[1]))]
# The rest of the process, and what its allocator keeps for itself, is not what is looked at.
limit = memory() + 200_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
for _ in range(300_000):
    p = poll()
    for reading, _ in pipes:
        p.register(reading, 1)
    assert p.poll(0) == []
with open("/proc/self/status") as status:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
"""

# A fork beside that many objects of either kind.
FORKS = """
import select, statistics, time


def fork():
    begun = time.perf_counter_ns()
    child = os.fork()
    if child == 0:
        os._exit(0)
    took = time.perf_counter_ns() - begun
    os.waitpid(child, 0)
    return took


def time_of_forks(make):
    kept = [make() for _ in range(5000)]
    for p in kept:
        p.register(0, 1)
    gc.collect()
    return statistics.median(fork() for _ in range(50))


ours, theirs = [], []
for _ in range(10):
    theirs.append(time_of_forks(select.poll))
    ours.append(time_of_forks(pypoll.Poll))
    if min(ours) <= 2 * min(theirs):
        break
else:
    raise AssertionError((ours, theirs))
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
# CPython takes memory in pieces of 2**20 bytes, and the collector of PyPy in some more.
LEEWAY = 4_000_000 if sys.implementation.name == "pypy" else 1_500_000
pipes = [os.pipe() for _ in range(300)]
idle, ready, many, large = pypoll.Poll(), pypoll.Poll(), pypoll.Poll(), pypoll.Poll()
selector = pypoll.PollSelector()
reading, writing = pipes[0]
idle.register(reading, pypoll.POLLIN)
ready.register(writing, pypoll.POLLOUT)
for reading, writing in pipes:
    many.register(writing, pypoll.POLLOUT)
    selector.register(writing, pypoll.EVENT_WRITE)


def refused(call, *arguments):
    try:
        call(*arguments)
    except (KeyError, OSError):
        pass


def breathe():
    # The set outgrows its room, and the wait its copy, and both give it back.
    for fd in range(10_000, 10_300):
        large.register(fd)
    assert len(large.poll(0)) == 300
    for fd in range(10_000, 10_300):
        large.unregister(fd)
    assert large.poll(0) == []


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
check_steady(breathe, 200)
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


def outgrown():
    # The set is dropped with all the memory that it may have.
    p = pypoll.Poll()
    for fd in range(10_000, 10_300):
        p.register(fd)
    assert len(p.poll(0)) == 300
    for fd in range(10_000, 10_200):
        p.unregister(fd)
    assert len(p.poll(0)) == 100


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
check_steady(outgrown, 1000)
check_steady(Node, 6000)
check_steady(fail, 6000)
check_steady(select, 6000)
"""

CHANGES = """
raise_limit(10_000)
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

    def run(program: str, *arguments: int | str, under: tuple[str, ...] = ()) -> str:
        seconds = 1200 if long_profile else 120
        command = [sys.executable, "-c", BEGINNING + program, str(seconds), *map(str, arguments)]
        ran = subprocess.run(
            [*under, *command],
            cwd=tmp_path,
            # The C library gives back what is freed, and at once, so that it can be counted. PyPy
            # would take half of the processor's cache, which may be 250 MB, before it collects.
            env={
                **os.environ,
                "PYPY_GC_NURSERY": "4M",
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
def test_a_million_descriptors_take_17_bytes_each_and_give_them_back(run: Run) -> None:
    run(NUMBERS)


@LINUX
def test_each_of_100_000_polled_descriptors_takes_40_bytes(run: Run) -> None:
    run(POLLED)


@LINUX
@pytest.mark.skipif(PYPY, reason="PyPy's collector takes memory in pieces of megabytes")
def test_an_object_takes_700_bytes(run: Run) -> None:
    run(EMPTY)


@LINUX
@pytest.mark.parametrize("count", [1, 20])
def test_dropped_objects_take_no_more_memory_than_those_of_select(run: Run, count: int) -> None:
    """Nor are they too many for a limit on the memory of the process."""
    ours, theirs = [int(run(DROPPED, count, kind)) for kind in ("pypoll", "select")]
    assert ours <= 2 * theirs


def test_a_fork_takes_at_most_twice_the_time_beside_5000_objects(run: Run) -> None:
    run(FORKS)


@LINUX
@pytest.mark.parametrize("program", [POLLS, SETS], ids=["polls", "sets"])
def test_neither_memory_nor_descriptors_grow(run: Run, program: str, long_profile: bool) -> None:
    run(STEADY + program, 50 if long_profile else 1)


@LINUX
def test_the_kernel_is_given_as_many_entries_as_are_registered(
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
    assert entries == descriptors
    assert min(descriptors) < 400
    assert max(descriptors) > 5000
