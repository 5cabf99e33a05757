"""What users write, for test_typing.py: type checkers must accept all of it, and see through it."""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import pypoll as select

if TYPE_CHECKING:
    from typing_extensions import assert_type


class Watched(select.Poll):
    """A subclass with state and a constructor of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def serve(poller: select.Poll, connection: socket.socket) -> list[tuple[int, int]]:
    poller.register(connection)
    poller.register(0, select.POLLIN | select.POLLPRI)
    poller.modify(connection, select.PollEvent(1))
    for timeout in (None, 0, 1.5, Fraction(1, 3), Decimal("0.1"), True):
        assert_type(poller.poll(timeout), list[tuple[int, int]])
    poller.ppoll(None, {2, 15})
    poller.ppoll(5)
    for fd, event in poller.poll():
        assert_type(fd, int)
        assert_type(select.PollEvent(event), select.PollEvent)
    assert_type(poller[connection], int)
    assert_type(connection in poller, bool)
    assert_type([fd for fd in poller], list[int])  # noqa: C416 - what is iterated over is the point
    assert_type(len(poller), int)
    assert_type(select.poll_fd(connection, select.POLLOUT, 2), int)
    assert_type(select.poll(), select.Poll)
    assert_type(select.PollEvent.POLLIN | select.PollEvent.POLLHUP, select.PollEvent)
    if sys.platform == "linux":
        assert_type(select.POLLRDHUP, int)
    poller.unregister(connection)
    return Watched("name").poll(0)


class Named(select.PollSelector):
    """A selector of one's own."""

    name: str = ""


async def loop_with_selector(connection: socket.socket) -> None:
    selector = Named()
    key = selector.register(connection, select.EVENT_READ | select.EVENT_URGENT, data="x")
    assert_type(key, selectors.SelectorKey)
    for timeout in (None, 0, 0.5, Fraction(1, 3)):
        for ready, events in selector.select(timeout):
            assert_type(ready, selectors.SelectorKey)
            assert_type(events, int)
    asyncio.SelectorEventLoop(selector)


def mistakes(poller: select.Poll) -> None:
    poller.register("0")  # type: ignore[arg-type]
    poller.register(0, 1.5)  # type: ignore[arg-type]
    poller.modify(0)  # type: ignore[call-arg]
    poller.poll("1")  # type: ignore[arg-type]
    poller.poll(timeout=1)  # type: ignore[call-arg]
    poller.ppoll(0, 15)  # type: ignore[arg-type]
    select.poll_fd()  # type: ignore[call-arg]
