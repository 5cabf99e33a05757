"""What PollSelector reports when the other end hangs up, with and without EVENT_HANGUP."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from typing import Any, Callable

import pytest

import pypoll
from descriptors import (
    Descriptors,
    Made,
    closed,
    half_closed_socket,
    half_closed_tcp,
    master_without_slave,
    reader_without_writer,
    socket_without_peer,
    tcp_reset,
    tcp_without_peer,
    writer_without_reader,
)
from pypoll import EVENT_HANGUP, EVENT_READ, EVENT_URGENT, EVENT_WRITE, PollSelector
from support import PATIENCE

MASKS = {EVENT_READ: pypoll.POLLIN, EVENT_WRITE: pypoll.POLLOUT, EVENT_URGENT: pypoll.POLLPRI}
POLLRDHUP: int = getattr(pypoll, "POLLRDHUP", 0)
HANG_UPS: list[Any] = [
    *(reader_without_writer, writer_without_reader, socket_without_peer, tcp_reset, closed),
    pytest.param(
        master_without_slave,
        marks=pytest.mark.skipif(
            sys.platform == "darwin", reason="poll() does not support devices on macOS"
        ),
    ),
]
if POLLRDHUP:  # without it, the system does not report a half-close
    HANG_UPS += [half_closed_socket, tcp_without_peer, half_closed_tcp]
EACH_HANG_UP = pytest.mark.parametrize("made", HANG_UPS)
Make = Callable[[Descriptors], Made]


@EACH_HANG_UP
def test_event_hangup_waits_for_nothing_but_a_hangup(
    selector: PollSelector, descriptors: Descriptors, made: Make
) -> None:
    fd, hang_up = made(descriptors)
    key = selector.register(fd, EVENT_HANGUP, "data")
    assert selector.select(0) == []
    timer = threading.Timer(0.02, hang_up)
    timer.start()
    if made is closed:
        timer.join()  # a wait that has begun does not notice that the descriptor is closed
    assert selector.select(PATIENCE) == [(key, EVENT_HANGUP)]
    timer.join()
    assert selector.select(None) == [(key, EVENT_HANGUP)]


@EACH_HANG_UP
@pytest.mark.parametrize("asked", range(1, 16))
def test_a_hangup_is_reported_as_hangup_or_as_all_registered_events(
    selector: PollSelector, descriptors: Descriptors, made: Make, asked: int
) -> None:
    fd, hang_up = made(descriptors)
    key = selector.register(fd, asked)
    writable = pypoll.poll_fd(fd, pypoll.POLLOUT, 0)
    assert selector.select(0) == ([(key, EVENT_WRITE)] if writable and asked & EVENT_WRITE else [])
    hang_up()
    # It takes a moment until one end of a connection sees the state of the other.
    assert pypoll.poll_fd(fd, POLLRDHUP, PATIENCE * 1000)
    expected = asked & sum(
        event for event, mask in MASKS.items() if pypoll.poll_fd(fd, mask, 0) & mask
    )
    if asked & EVENT_HANGUP:
        expected |= EVENT_HANGUP
    elif pypoll.poll_fd(fd, 0, 0):
        expected = asked
    assert selector.select(0) == ([(key, expected)] if expected else [])


def test_readiness_does_not_end_a_wait_for_a_hangup(
    selector: PollSelector, descriptors: Descriptors
) -> None:
    left, right = descriptors.socket_pair()
    right.send(b"x")
    with contextlib.suppress(OSError):
        right.send(b"!", socket.MSG_OOB)
    assert pypoll.poll_fd(left, pypoll.POLLIN | pypoll.POLLOUT, 0)
    key = selector.register(left, EVENT_HANGUP)
    begun = time.monotonic_ns()
    assert selector.select(0.05) == []
    assert time.monotonic_ns() - begun >= 50_000_000
    key = selector.modify(left, EVENT_READ | EVENT_HANGUP)
    assert selector.select() == [(key, EVENT_READ)]
