"""Sets that finalizers use while the collector frees a garbage cycle, in any order."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import pypoll

reading, writing = os.pipe()
# More than a set holds before it allocates memory.
fds = [os.dup(writing) for _ in range(20)]
ready = [(fd, pypoll.POLLOUT) for fd in fds]
finalized: list[Any] = []


class Server:
    """Tidies its set up when it is finalized."""

    def __init__(self) -> None:
        self.p = set_of_all(pypoll.Poll)
        self.cycle = self

    def __del__(self) -> None:
        finalized.append(self.p.poll(0))
        for fd in fds:
            self.p.unregister(fd)
        self.p.register(reading, 0)
        assert list(self.p) == [reading]


class Revived(pypoll.Poll):
    """Lives on after it was finalized."""

    cycle: Revived

    def __del__(self) -> None:
        finalized.append(self)


def set_of_all(cls: type[Any]) -> Any:
    p = cls()
    for fd in fds:
        p.register(fd, pypoll.POLLOUT)
    return p


def tidy_up() -> None:
    for _ in range(100):
        Server()
    gc.collect()
    assert len(finalized) > 50, finalized
    assert all(seen == ready for seen in finalized), finalized


def revive() -> None:
    for _ in range(100):
        p = set_of_all(Revived)
        p.cycle = p
    del p
    gc.collect()
    assert len(finalized) > 50, finalized
    for p in finalized:
        assert p.poll(0) == ready
        p.register(reading, 0)
        assert list(p) == [*fds, reading]


gc.disable()
globals()[sys.argv[1]]()
