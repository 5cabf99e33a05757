"""Sets that are used once more when the interpreter ends."""

from __future__ import annotations

import atexit
import os
from typing import Callable

import pypoll

reading, writing = os.pipe()


class Late(pypoll.Poll):
    cycle: Late

    def __init__(self) -> None:
        self.selector = pypoll.PollSelector()

    # What a finalizer needs is bound here: the names of modules may be gone by then.
    def look(
        self,
        write: Callable[[int, bytes], int] = os.write,
        fd: int = writing,
        other: int = reading,
        poll_fd: Callable[[int, int, int], int] = pypoll.poll_fd,
    ) -> None:
        self.register(fd, 4)
        self.register(other, 1)
        self.modify(other, 0)
        assert self.poll(0) == self.poll(0.01) == self.ppoll() == [(fd, 4)]
        assert repr(self)
        assert list(self) == [fd, other]
        self.unregister(other)
        self.selector.register(fd, 2)
        assert [(key.fd, events) for key, events in self.selector.select(0.01)] == [(fd, 2)]
        self.selector.close()
        assert poll_fd(fd, 4, 0) == 4
        write(1, b"finalized ")

    __del__ = look


in_module = Late()
atexit.register(in_module.look)
in_cycle = Late()
in_cycle.cycle = in_cycle
