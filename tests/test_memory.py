"""When memory is refused: MemoryError, and everything is as before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pypoll

pytestmark = pytest.mark.native

LIMITED = """
import os, resource, threading, time
import cffi
import pypoll

filling = []
ffi = cffi.FFI()
ffi.cdef("void *malloc(size_t);")
malloc = ffi.dlopen(None).malloc

MANY = 1_000_000
# A tuple made when memory is refused would be refused as well.
UNLIMITED = resource.RLIM_INFINITY, resource.RLIM_INFINITY

def refuse_memory(but):
    allow_memory()
    pages = int(open("/proc/self/statm").read().split()[0])
    size = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + but, resource.RLIM_INFINITY))

def allow_memory():
    resource.setrlimit(resource.RLIMIT_AS, UNLIMITED)

def room():
    # Keeps room for Python's small objects: to count, and to make a message, is not refused.
    small = [object() for _ in range(2000)] + list(range(1000, 3000))
    small += [bytes(size) for size in range(0, 450, 8) for _ in range(2000)]
    del small[::2]
    return small

def fill(least):
    # Takes what the C heap still has in blocks of that size, and what the heap of a free-threaded
    # interpreter has, which is another one.
    while malloc(least):
        pass
    for size in (2**20, 2**16, 4096):
        if size < least:
            break
        try:
            while True:
                filling.append(bytes(size))
        except MemoryError:
            pass

def refused(call, *arguments):
    try:
        call(*arguments)
    except MemoryError as error:
        return str(error)
    return "it was not refused"

def many_descriptors():
    # As many as may be polled. None of them is open, so each is ready.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return range(MANY, MANY + min(hard if hard > 0 else 60_000, 60_000))
"""

# Each growth is refused more than once, and then let.
GROWING = """
p = pypoll.Poll()
fd = refusals = 0
but = 4096
refuse_memory(but)
while fd < MANY:
    try:
        p.register(fd, fd & 1)
    except MemoryError as error:
        allow_memory()
        seen = len(p), fd in p, p[fd - 1], str(error)
        assert seen == (
            fd, False, fd - 1 & 1, f"no memory to register file descriptor {fd}"
        ), seen
        refusals += 1
        but *= 2
        refuse_memory(but)
    else:
        fd += 1
        if but > 4096:
            but = 4096
            refuse_memory(but)
allow_memory()
assert refusals > 50, refusals
assert list(p) == list(range(MANY))
assert all(p[fd] == fd & 1 for fd in range(0, MANY, 101))
"""

# What needs no memory is not refused; and what would save some can do without it.
SHRINKING = """
p = pypoll.Poll()
# CPython 3.9 allocates the frame of a function when it is called for the first time.
p.register(0)
p.modify(0, 1)
p.unregister(0)
fds = list(many_descriptors())
for fd in fds:
    p.register(fd, 1)
small = room()
refuse_memory(0)
fill(len(fds))
for fd in fds:
    p.register(fd, 0)
    p.modify(fd, 2)
for fd in fds:
    if fd % 300:
        p.unregister(fd)
    elif fd % 900 == 0:
        fill(4096)  # what the set gave back
allow_memory()
seen = len(p), MANY + 200 in p, MANY + 201 in p
left = [fd for fd in fds if fd % 300 == 0]
assert seen == (len(left), True, False), seen
assert [(fd, p[fd]) for fd in p] == [(fd, 2) for fd in left]
assert p.poll(0) == [(fd, pypoll.POLLNVAL) for fd in left]
"""

READY = """
fds = list(many_descriptors())
p = pypoll.Poll()
selector = pypoll.PollSelector()
for fd in fds:
    p.register(fd, 0)
    selector.register(fd, pypoll.EVENT_READ)
calls = [p.poll, p.ppoll, selector.select, p.__iter__, p.__repr__]

def attempted():
    return [refused(call) for _ in range(3) for call in calls], (len(p), MANY in p, p[MANY])

# CPython up to 3.10 allocates the frame of a function when it is called for the first time. What
# is returned is kept: its memory would do for the next.
kept = [call() for call in calls]
small = room()
refuse_memory(0)
fill(4096)
words, seen = attempted()
allow_memory()
assert words == [""] * 15, words
assert seen == (len(fds), True, 0), seen
assert list(p) == fds
answer = [(fd, pypoll.POLLNVAL) for fd in fds]
assert p.poll() == p.ppoll() == answer
assert [key.fd for key, _ in selector.select()] == fds
"""

# Changes while another thread waits. A set of 900 has room for 1024, and as many as 256 would do
# with less.
DURING_A_WAIT = """
reading, writing = os.pipe()
fds = [os.dup(reading) for _ in range(900)]
gone = fds[100:]
new = os.dup(writing)
p = pypoll.Poll()
p.register(new, 0)
p.unregister(new)
selector = pypoll.PollSelector()
for fd in fds:
    p.register(fd, 1)
    selector.register(fd, pypoll.EVENT_READ)
# CPython up to 3.10 allocates the frame of a function when it is called for the first time.
selector.register(new, pypoll.EVENT_READ)
selector.modify(new, pypoll.EVENT_WRITE)
selector.unregister(new)
answers = {}

def wait(name, call):
    while name not in answers:
        try:
            answers[name] = call()
        except RuntimeError:
            pass

def is_waiting(p):
    try:
        p.poll(0)
    except RuntimeError:
        return True
    return False

def change():
    for fd in gone:
        p.modify(fd, 0)
        p.unregister(fd)
        selector.unregister(fd)
    p.register(new, pypoll.POLLOUT)
    p.modify(fds[0], 0)
    selector.modify(fds[0], pypoll.EVENT_WRITE)

threads = [
    threading.Thread(target=wait, args=("poll", p.poll), daemon=True),
    threading.Thread(target=wait, args=("select", selector.select), daemon=True),
]
for thread in threads:
    thread.start()
while not (is_waiting(p) and is_waiting(selector._selector)):
    time.sleep(0.001)
small = room()
refuse_memory(0)
fill(len(fds))
change()
allow_memory()
os.write(writing, b"x")
for thread in threads:
    thread.join()
assert answers["poll"] == [(fd, 1) for fd in fds], answers
# Those that have lost their keys meanwhile are passed over, as is who no longer asks to read.
assert [key.fd for key, _ in answers["select"]] == fds[1:100], answers
assert p.poll() == [*((fd, 1) for fd in fds[1:100]), (new, pypoll.POLLOUT)]
assert [key.fd for key, _ in selector.select()] == fds[1:100]
"""

# The first wait copies the set.
FIRST_WAIT = """
fds = list(many_descriptors())
p = pypoll.Poll()
for fd in fds:
    p.register(fd, 0)
def waits(p):
    return [refused(p.poll), refused(p.poll, 0), refused(p.poll, 1.5), refused(p.ppoll)]

# A first call may take memory of the interpreter, or of what traces it: coverage crashes then.
other = pypoll.Poll()
other.register(fds[0], 0)
waits(other)
small = room()
refuse_memory(0)
fill(4096)
words = waits(p)
allow_memory()
# The first may be refused memory of the interpreter's, which has no message.
assert words[0] in ("", words[1]), words
assert words[1:] == ["no memory for the results of poll()"] * 3, words
assert list(p) == fds
assert p.poll() == [(fd, pypoll.POLLNVAL) for fd in fds]
"""

# Outside of what may be refused nothing is allocated, not even a number.
SELECTOR = """
selector = pypoll.PollSelector()
fds = list(many_descriptors())
but = 4096
refusals = 0
refuse_memory(but)
for fd in fds:
    while True:
        try:
            selector.register(fd, pypoll.EVENT_READ)
            break
        except MemoryError:
            allow_memory()
            before = fds[: fd - MANY]
            assert list(selector.get_map()) == before
            assert [key.fd for key, _ in selector.select(0)] == before
            refusals += 1
            but *= 2
            refuse_memory(but)
    if but > 4096:
        but = 4096
        refuse_memory(but)
allow_memory()
assert [key.fd for key, _ in selector.select(0)] == fds
assert refusals > 10, refusals
"""

# Neither an object nor the owner of a ninth descriptor can be made.
NEW = """
class Linked(pypoll.Poll):
    __slots__ = ("before",)

first = last = Linked()
for fd in range(MANY, MANY + 8):
    first.register(fd, 0)
refuse_memory(0)
try:
    while True:
        new = Linked()
        new.before = last
        last = new
except MemoryError:
    pass
fill(8)
words = refused(Linked), refused(Linked), refused(first.register, MANY + 8)
allow_memory()
assert "it was not refused" not in words, words
assert [(fd, first[fd]) for fd in first] == [(fd, 0) for fd in range(MANY, MANY + 8)]
first.register(MANY + 8, 0)
assert first.poll() == [(fd, pypoll.POLLNVAL) for fd in range(MANY, MANY + 9)]
for p in last, Linked():
    p.register(MANY, 0)
    assert p.poll() == [(MANY, pypoll.POLLNVAL)]
"""


def ran(program: str, directory: Path) -> tuple[int, str]:
    """Run a program; return its exit status and what it complained of."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        # Free-threaded interpreters would reserve a gigabyte, and not be refused any memory.
        env={**os.environ, "MIMALLOC_ARENA_RESERVE": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy aborts when its collector is refused memory"
)
@pytest.mark.parametrize(
    "program",
    [GROWING, SHRINKING, READY, DURING_A_WAIT, FIRST_WAIT, SELECTOR, NEW],
    ids=["growing", "shrinking", "ready", "during a wait", "first wait", "selector", "new"],
)
def test_what_is_refused_changes_nothing(program: str, tmp_path: Path) -> None:
    assert ran(LIMITED + program, tmp_path) == (0, "")


# The interpreter's own allocator refuses one piece of memory, or twenty in a row, at each place
# where a call asks for some. Not for ever: until 3.14 CPython tries again without end to make the
# number of an instruction beyond the 256th, in an except block (CPython issue 132508).
AT_EACH_ALLOCATION = """
import os, sys
import _testcapi
import pypoll

reading, writing = os.pipe()
os.write(writing, b"x")
new, _ = os.pipe()
signals = [10] if pypoll.library.lib.pypoll_has_ppoll() else None

def made(kind, ready):
    it = kind()
    it.register(reading, 1)
    it.register(writing, 0 if kind is pypoll.Poll else 2)
    for fd in range(1_000_000, 1_000_000 + ready):
        it.register(fd, 1)
    return it

# With so many that are ready; more than 256 are not read in one step.
CALLS = {
    pypoll.Poll: [
        (1, lambda p: p.register(new, 1)),
        (6, lambda p: p.register(new, 1)),  # the ninth
        (1, lambda p: p.register(reading, 0)),
        (1, lambda p: p.modify(reading, 0)),
        (1, lambda p: p.unregister(reading)),
        (0, lambda p: p.poll(0)),
        (300, lambda p: p.poll(0)),
        (20, lambda p: p.poll(0.5)),
        (20, lambda p: p.poll()),
        (20, lambda p: p.ppoll(0, signals)),
        (1, lambda p: (list(p), repr(p), len(p), reading in p, p[reading])),
        (1, lambda p: (pypoll.Poll(), pypoll.poll_fd(reading, 1, 0))),
    ],
    pypoll.PollSelector: [
        (1, lambda s: s.register(new, 1)),
        (1, lambda s: s.modify(reading, 2)),
        (1, lambda s: s.modify(reading, 1, "data")),
        (1, lambda s: s.unregister(reading)),
        (1, lambda s: (pypoll.PollSelector(), s.get_key(reading))),
        (0, lambda s: s.select(0)),
        (20, lambda s: s.select(0.5)),
        (20, lambda s: s.select()),
    ],
}

def state(it):
    if isinstance(it, pypoll.Poll):
        return [(fd, it[fd]) for fd in it]
    return [(key.fd, key.events, key.data) for key in it.get_map().values()]

def is_right(it, seen):
    # What is not open is ready whatever it was registered for.
    if isinstance(it, pypoll.Poll):
        return it.poll(0) == [
            (fd, pypoll.POLLNVAL if fd > new else 1)
            for fd, mask in seen
            if fd > new or (fd == reading and mask & 1)
        ]
    return [(key.fd, events) for key, events in it.select(0)] == [
        (fd, events)
        for fd, events, _ in seen
        if fd > new or (fd, events) in {(reading, 1), (writing, 2)}
    ]

def is_refused(call, it, first, several):
    _testcapi.set_nomemory(first, first + several)
    try:
        call(it)
        return False
    except MemoryError:
        return True
    finally:
        _testcapi.remove_mem_hooks()

refusals = 0
for kind, calls in CALLS.items():
    for number, (count, call) in enumerate(calls):
        it = made(kind, count)
        before = state(it)
        call(it)
        after = state(it)
        allowed = [before]
        if kind is pypoll.PollSelector and len(after) <= len(before):
            # What it was about may be changed already; or, as in the standard library, registered
            # no more.
            allowed += [after, before[1:]]
        for several in (1, 20):
            first = passed = 0
            # Some allocations do without: only after ten in a row are there no more of them.
            while passed < 10:
                it = made(kind, count)
                where = kind.__name__, number, first, several
                refused = is_refused(call, it, first, several)
                seen = state(it)
                if refused:
                    refusals += 1
                    passed = 0
                    assert seen in allowed, (where, seen[:3])
                else:
                    passed += 1
                    assert seen == after, (where, seen[:3])
                assert is_right(it, seen), (where, seen[:3])
                it.register(2_000_000, 1)
                assert is_right(it, state(it)), (where, seen[:3])
                first += 1
assert refusals > 200, refusals
"""


@pytest.mark.asynchronous
@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy has no such allocator")
def test_no_allocation_that_is_refused_changes_anything(tmp_path: Path) -> None:
    pytest.importorskip("_testcapi", reason="this interpreter comes without its own tests")
    assert ran(AT_EACH_ALLOCATION, tmp_path) == (0, "")


class Unreliable(pypoll.Poll):
    # Private, because nothing else takes a descriptor away between two steps of repr() for sure.
    def _descriptors(self) -> list[int]:
        return [*super()._descriptors(), 123_456]


def test_repr_bears_a_set_that_changes_meanwhile() -> None:
    p = Unreliable()
    p.register(5, 0)
    assert repr(p) == "<Unreliable of 2: 5: 0x0>"
