"""When memory is refused: MemoryError, and everything is as before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pypoll

LIMITED = """
import resource, threading
import pypoll

MANY = 1_000_000

def refuse_memory():
    pages = int(open("/proc/self/statm").read().split()[0])
    size = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 65536, resource.RLIM_INFINITY))

def allow_memory():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def refused(call, *arguments):
    try:
        call(*arguments)
    except MemoryError as error:
        return str(error)
    return "it was not refused"
"""

GROWING = """
p = pypoll.Poll()
for fd in range(MANY, 2 * MANY):
    p.register(fd, 0)
refuse_memory()
fd = 2 * MANY
words = ""
while not words:
    before = len(p)
    try:
        p.register(fd, 0)
    except MemoryError as error:
        words = str(error)
    fd += 1
after = len(p), fd - 1 in p
allow_memory()
assert after == (before, False), after
assert "no memory to register file descriptor" in words, words
p.register(fd, 0)
assert len(p) == before + 1
"""

HELD = """
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
fds = list(range(MANY, MANY + min(hard if hard > 0 else 60_000, 60_000)))
held = pypoll.Poll()
for fd in fds:
    held.register(fd, 0)
# None of them is open, so each is ready, and the thread that reads them holds the set.
thread = threading.Thread(target=pypoll.library.lib.pypoll_check, args=(held._set,))
thread.start()
thread.join()
refuse_memory()
filler = []
try:
    while True:
        filler.append(bytes(4 * len(fds)))
except MemoryError:
    pass
words = [
    refused(held.modify, MANY, 1),
    refused(held.unregister, MANY),
    refused(held.register, MANY, 1),
]
allow_memory()
assert words == [
    f"no memory to {what} file descriptor {MANY}" for what in ("modify", "unregister", "register")
], words
assert (list(held), held[MANY]) == (fds, 0)
assert held.poll(0) == [(fd, pypoll.POLLNVAL) for fd in fds]
"""

NEW = """
refuse_memory()
kept = []
try:
    while True:
        kept.append(pypoll.Poll())
except MemoryError:
    pass
# Now the C heap is full. Whose turn it is to be refused is chance, so try often.
words = {refused(pypoll.Poll) for _ in range(1000)}
allow_memory()
del kept
assert "no memory for a set of descriptors" in words, words
assert pypoll.Poll().poll(0) == []
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy aborts when its collector is refused memory"
)
@pytest.mark.parametrize("program", [GROWING, HELD, NEW], ids=["growing", "held", "new"])
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
