"""How many bytes a registered descriptor takes, and an object without any."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from pathlib import Path
from typing import Any

from subjects import POLLERS

DESCRIPTORS = 100_000
_OBJECTS = 5
_EMPTY_OBJECTS = 100_000
# Beyond what CPython keeps ready-made ints for; whether they are open does not matter.
_FIRST = 1000
_STATM = Path("/proc/self/statm")

METHOD = (
    f"growth of a fresh process's resident memory by {_OBJECTS} objects of {DESCRIPTORS:,} "
    f"descriptors each, after one poll(), and by {_EMPTY_OBJECTS:,} empty objects"
)


def can_be_measured() -> bool:
    """Return whether the system tells how much memory a process has."""
    return _STATM.exists()


def _resident() -> int:
    gc.collect()
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_a_descriptor(poller: str) -> float:
    """Return the bytes for each descriptor of this poller: once in a process."""
    # Beyond the limit poll(2) refuses, after select.poll has made its array: so no result, of
    # 100,000 that are not open, adds to the memory.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    fds = list(range(_FIRST, _FIRST + DESCRIPTORS))
    new = POLLERS[poller]
    kept = []
    before = _resident()
    for _ in range(_OBJECTS):
        made = new()
        for fd in fds:
            made.register(fd, 1)
        with contextlib.suppress(OSError):
            made.poll(0)
        kept.append(made)
    return round((_resident() - before) / (len(kept) * DESCRIPTORS), 1)


def bytes_an_empty_object(poller: str) -> float:
    """Return the bytes for each object of this poller: once in a process."""
    new = POLLERS[poller]
    kept: list[Any] = [None] * _EMPTY_OBJECTS
    before = _resident()
    for number in range(_EMPTY_OBJECTS):
        kept[number] = new()
    return round((_resident() - before) / _EMPTY_OBJECTS, 1)
