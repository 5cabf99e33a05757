"""Sets that are used while garbage cycles are collected, whose order is the collector's own."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from typing import Any, TypeVar

import pypoll

AnyPoll = TypeVar("AnyPoll", bound=pypoll.Poll)

reading, writing = os.pipe()
ready = [(writing, pypoll.POLLOUT)]
died: list[Any] = []


def set_of(fd: int, cls: type[AnyPoll]) -> AnyPoll:
    p = cls()
    p.register(fd, pypoll.POLLOUT)
    return p


def collect() -> None:
    for _ in range(5):
        gc.collect()


class Revenant(pypoll.Poll):
    cycle: Revenant

    def __del__(self) -> None:
        died.append((self, self.poll(0)))


def wait_and_come_back() -> None:
    for _ in range(100):
        p = set_of(writing, Revenant)
        p.cycle = p
    del p
    collect()
    assert len(died) > 50, died
    for p, seen in died:
        assert seen == p.poll(0) == ready, seen
        p.register(reading, 0)
        assert list(p) == [writing, reading]


class Server:
    def __init__(self, p: pypoll.Poll) -> None:
        self.p = p
        self.cycle = self

    def __del__(self) -> None:
        died.append(self.p.poll(0))
        for fd in range(1000, 1100):
            self.p.register(fd, 0)
        self.p.unregister(writing)
        assert list(self.p) == list(range(1000, 1100))


def tidy_up() -> None:
    for _ in range(100):
        Server(set_of(writing, pypoll.Poll))
    collect()
    assert len(died) > 50, died
    assert all(seen == ready for seen in died), died


def leave_event_loops_open() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            loop: Any = asyncio.SelectorEventLoop(pypoll.PollSelector())
            loop.run_until_complete(asyncio.sleep(0))
            loop.cycle = loop
        del loop
        collect()
    closed = [warning for warning in caught if "unclosed event loop" in str(warning.message)]
    assert len(closed) > 5, caught


gc.disable()
globals()[sys.argv[1]]()
