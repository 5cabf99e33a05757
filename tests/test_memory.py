"""When memory is refused: MemoryError, and everything is as before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pypoll

pytestmark = pytest.mark.native

LIMITED = """
import resource, threading
import pypoll

MANY = 1_000_000

def refuse_memory(but):
    allow_memory()
    pages = int(open("/proc/self/statm").read().split()[0])
    size = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + but, resource.RLIM_INFINITY))

def allow_memory():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def filler(least):
    # Fills what the C heap still has in blocks of that size.
    blocks = []
    try:
        while True:
            blocks.append(bytes(least))
    except MemoryError:
        return blocks

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

# The array and the hash table grow by turns. Each growth is refused more than once, and then let.
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
refuse_memory(0)
blocks = filler(len(fds))
for fd in fds:
    p.register(fd, 0)
    p.modify(fd, 2)
for fd in fds:
    if fd % 300:
        p.unregister(fd)
    elif fd % 900 == 0:
        blocks = blocks, filler(4096)  # what the array gave back
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
calls = [p.poll, p.ppoll, selector.select, p._descriptors, p.__repr__]

def attempted():
    return [refused(call) for _ in range(3) for call in calls], (len(p), MANY in p, p[MANY])

# CPython up to 3.10 allocates the frame of a function when it is called for the first time.
attempted()
refuse_memory(0)
blocks = filler(4096)
words, seen = attempted()
allow_memory()
assert words == [""] * 15, words
assert seen == (len(fds), True, 0), seen
assert list(p) == fds
answer = [(fd, pypoll.POLLNVAL) for fd in fds]
assert p.poll() == p.ppoll() == answer
assert [key.fd for key, _ in selector.select()] == fds
"""

HELD = """
fds = list(many_descriptors())

def hold(p):
    # Each is ready, and the thread that reads them holds the set.
    thread = threading.Thread(target=pypoll.library.lib.pypoll_check, args=(p._pypoll_address,))
    thread.start()
    thread.join()

held = pypoll.Poll()
selector = pypoll.PollSelector()
for fd in fds:
    held.register(fd, 0)
    selector.register(fd, pypoll.EVENT_READ)
hold(held)
hold(selector._selector)
refuse_memory(0)
blocks = filler(4 * len(fds))
words = [
    refused(held.modify, MANY, 1),
    refused(held.unregister, MANY),
    refused(held.register, MANY, 1),
]
selector_words = [
    refused(selector.modify, MANY, pypoll.EVENT_WRITE),
    refused(selector.unregister, MANY + 1),
    refused(selector.register, 0, pypoll.EVENT_WRITE),
]
allow_memory()
assert words == [
    f"no memory to {what} file descriptor {MANY}" for what in ("modify", "unregister", "register")
], words
assert (list(held), held[MANY]) == (fds, 0)
assert held.poll(0) == [(fd, pypoll.POLLNVAL) for fd in fds]
assert all("no memory" in word for word in selector_words), selector_words
# As in the standard library, what a modify() that failed was about is registered no more. And
# what was to be unregistered is so too, once select() has the memory for it.
assert list(selector.get_map()) == fds[2:]
assert [key.fd for key, _ in selector.select()] == list(selector._selector) == fds[2:]
"""

SELECTOR = """
selector = pypoll.PollSelector()
fds = list(many_descriptors())
but = 4096
refusals = done = 0
refuse_memory(but)
while done < len(fds):
    try:
        selector.register(fds[done], pypoll.EVENT_READ)
    except MemoryError as error:
        allow_memory()
        assert list(selector.get_map()) == fds[:done]
        assert [key.fd for key, _ in selector.select(0)] == fds[:done]
        refusals += 1
        but *= 2
    else:
        done += 1
        if but == 4096:
            continue
        but = 4096
    refuse_memory(but)
allow_memory()
assert [key.fd for key, _ in selector.select(0)] == fds
assert refusals > 10, refusals
"""

NEW = """
# Python's small objects have room of their own, and cffi has parsed its types: what is refused is
# the memory of the set.
pypoll.Poll()
small = [bytes(size) for size in range(0, 450, 8) for _ in range(2000)]
del small[::2]
refuse_memory(65536)
kept = []
for size in (16384, 2048, 600):
    try:
        while True:
            kept.append(bytes(size))
    except MemoryError:
        pass
words = {refused(pypoll.Poll) for _ in range(1000)}
allow_memory()
del kept
assert words == {"no memory for a set of descriptors"}, words
assert pypoll.Poll().poll(0) == []
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy aborts when its collector is refused memory"
)
@pytest.mark.parametrize(
    "program",
    [GROWING, SHRINKING, READY, HELD, SELECTOR, NEW],
    ids=["growing", "shrinking", "ready", "held", "selector", "new"],
)
def test_what_is_refused_changes_nothing(program: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED + program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


class Unreliable(pypoll.Poll):
    """Has fewer descriptors than it has, or more."""

    def __len__(self) -> int:
        return 0

    def _descriptors(self) -> list[int]:
        return [*super()._descriptors(), 123_456]


def test_iteration_and_repr_bear_a_set_that_changes_meanwhile() -> None:
    p = Unreliable()
    p.register(5, 0)
    assert list(p) == [5, 123_456]
    assert "5: 0x0>" in repr(p)
