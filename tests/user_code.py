"""What users write, for test_typing.py: type checkers must accept it and infer these types."""

from __future__ import annotations

import asyncio
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Optional

import pypoll
import pypoll as select
import pypoll.types
from pypoll import select as selecting

if TYPE_CHECKING:
    from typing_extensions import assert_type


class Port:
    """Has a descriptor, but is not a file."""

    def fileno(self) -> int:
        return 0


class Number:
    """Converts to an int, like the integers of numpy."""

    def __index__(self) -> int:
        return 1


class Watched(select.Poll):
    """A subclass with its own state and constructor."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def serve(poller: select.Poll, connection: socket.socket) -> list[tuple[int, int]]:
    poller.register(connection)
    poller.register(0, select.POLLIN | select.POLLPRI)
    poller.modify(connection, select.PollEvent(1))
    for timeout in (None, 0, 1.5, Fraction(1, 3), Decimal("0.1"), True):
        assert_type(poller.poll(timeout), list[tuple[int, int]])
        assert_type(select.poll_fd(connection, select.POLLIN, timeout), int)
    assert_type(poller.ppoll(None, {2, 15}), list[tuple[int, int]])
    poller.ppoll()
    poller.ppoll(Number(), [signal.SIGTERM])
    poller.ppoll(0, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    poller.register(Port(), Number())
    poller.register(sys.stdin)
    for fd, event in poller.poll():
        assert_type(fd, int)
        assert_type(select.PollEvent(event), select.PollEvent)
    assert_type(poller[connection], int)
    assert_type(connection in poller, bool)
    assert_type(next(iter(poller)), int)
    assert_type(len(poller), int)
    assert_type(select.poll(), select.Poll)
    poller.unregister(Port())
    watched = Watched("name")
    assert_type(watched, Watched)
    assert_type(watched.name, str)
    assert_type(select.poll_fd(Port(), Number(), Number()), int)
    assert_type(pypoll.__version__, str)
    return watched.poll(0)


def constants() -> None:
    assert_type(select.POLLIN | select.POLLPRI | select.POLLOUT, int)
    assert_type(select.POLLERR | select.POLLHUP | select.POLLNVAL, int)
    assert_type(select.POLLRDNORM | select.POLLRDBAND, int)
    assert_type(select.POLLWRNORM | select.POLLWRBAND, int)
    assert_type(select.PollEvent.POLLIN | select.PollEvent.POLLHUP, select.PollEvent)
    assert_type(select.PollEvent.POLLIN | 1024, select.PollEvent)
    assert_type(select.PollEvent(17) & ~select.PollEvent.POLLIN, select.PollEvent)
    assert_type(select.PollEvent.POLLPRI.value, int)
    assert_type(str(select.PollEvent.POLLWRBAND), str)
    if sys.platform == "linux":
        assert_type(select.POLLMSG | select.POLLREMOVE | select.POLLRDHUP, int)
        assert_type(select.PollEvent.POLLRDHUP | select.PollEvent.POLLMSG, select.PollEvent)
    elif sys.platform == "darwin":
        assert_type(select.POLLEXTEND | select.POLLATTRIB | select.POLLNLINK, int)
        assert_type(select.POLLWRITE | select.POLLSTANDARD, int)
        assert_type(select.PollEvent.POLLEXTEND | select.PollEvent.POLLWRITE, select.PollEvent)
    elif sys.platform.startswith("freebsd"):
        assert_type(select.POLLRDHUP | select.POLLINIGNEOF | select.POLLSTANDARD, int)
        assert_type(select.PollEvent.POLLINIGNEOF | select.PollEvent.POLLRDHUP, select.PollEvent)


class Named(select.PollSelector):
    """A subclass of PollSelector."""

    name: str = ""


async def loop_with_selector(connection: socket.socket) -> None:
    selector = Named()
    key = selector.register(connection, select.EVENT_READ | select.EVENT_URGENT, data="x")
    assert_type(key, selectors.SelectorKey)
    assert_type(selector.modify(connection, select.EVENT_WRITE, 5), selectors.SelectorKey)
    for timeout in (None, 0, 0.5, Fraction(1, 3), Decimal("0.1")):
        for ready, events in selector.select(timeout):
            assert_type(ready, selectors.SelectorKey)
            assert_type(events, int)
    assert_type(selector.get_key(connection), selectors.SelectorKey)
    assert_type(selector.get_map(), Mapping[Any, selectors.SelectorKey])
    assert_type(selector.unregister(connection), selectors.SelectorKey)
    with select.PollSelector() as other:
        assert_type(other, select.PollSelector)
        other.register(Port(), select.EVENT_READ)
    selector.close()
    as_any: selectors.BaseSelector = selector
    asyncio.SelectorEventLoop(as_any)
    asyncio.SelectorEventLoop(select.PollSelector())


def drop_in() -> None:
    """The interpreter's select module with pypoll's poll in it."""
    assert_type(selecting.poll(), pypoll.Poll)
    assert_type(selecting.POLLIN | selecting.POLLHUP, int)
    assert_type(selecting.select([Port()], [], [], 1.0)[0], list[Port])
    if sys.platform == "linux":
        assert_type(selecting.epoll().closed, bool)
        assert_type(selecting.EPOLLIN | selecting.POLLRDHUP, int)
    else:
        selecting.kqueue().close()
    try:
        pypoll.install()
    except selecting.error as error:
        assert_type(error.errno, Optional[int])


def annotated(fd: pypoll.types.FileDescriptorLike, timeout: pypoll.types.Timeout) -> int:
    return pypoll.poll_fd(fd, pypoll.POLLIN, timeout)


# Type checkers must refuse each of these lines: they report a comment that they do not need.
def mistakes(poller: select.Poll, selector: select.PollSelector) -> None:
    poller.register("0")  # type: ignore[arg-type]
    poller.register(0, 1.5)  # type: ignore[arg-type]
    poller.modify(0)  # type: ignore[call-arg]
    poller.poll("1")  # type: ignore[arg-type]
    poller.poll(timeout=1)  # type: ignore[call-arg]
    poller.ppoll(0, 15)  # type: ignore[arg-type]
    select.poll_fd(0, 1, 2j)  # type: ignore[arg-type]
    select.poll(1)  # type: ignore[call-arg]
    select.POLLNONE  # type: ignore[attr-defined]  # noqa: B018
    select.PollEvent.POLLNONE  # type: ignore[attr-defined]  # noqa: B018
    poller[0] = 1  # type: ignore[index]
    "0" in poller  # type: ignore[operator]  # noqa: B015
    poller.ppoll(0, "15")  # type: ignore[arg-type]
    poller.nothing = 1  # type: ignore[attr-defined]
    selector.register("0", select.EVENT_READ)  # type: ignore[arg-type]
    selector.select("1")  # type: ignore[arg-type]
    if sys.platform == "linux":
        select.POLLINIGNEOF  # type: ignore[attr-defined]  # noqa: B018
    if sys.platform == "darwin":
        select.POLLRDHUP  # type: ignore[attr-defined]  # noqa: B018
