"""What PollSelector reports when the other end hangs up, with and without EVENT_HANGUP."""

from __future__ import annotations

import contextlib
import selectors
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

POLLRDHUP: int = getattr(pypoll, "POLLRDHUP", 0)
HANG_UPS: list[Any] = [
    *(reader_without_writer, writer_without_reader, socket_without_peer, tcp_reset, closed),
    pytest.param(
        master_without_slave,
        marks=pytest.mark.skipif(sys.platform == "darwin", reason="poll() refuses devices there"),
    ),
]
if POLLRDHUP:  # or else the system does not report a half-close
    HANG_UPS += [half_closed_socket, tcp_without_peer, half_closed_tcp]
EACH_HANG_UP = pytest.mark.parametrize("made", HANG_UPS)
Make = Callable[[Descriptors], Made]


@EACH_HANG_UP
def test_a_hangup_alone_can_be_waited_for(
    selector: PollSelector, descriptors: Descriptors, made: Make
) -> None:
    fd, hang_up = made(descriptors)
    key = selector.register(fd, EVENT_HANGUP, "data")
    assert selector.select(0) == []
    timer = threading.Timer(0.02, hang_up)
    timer.start()
    if made is closed:
        timer.join()  # a wait that has begun goes on with the file
    assert selector.select(PATIENCE) == [(key, EVENT_HANGUP)]
    timer.join()
    assert selector.select(None) == [(key, EVENT_HANGUP)]


@EACH_HANG_UP
@pytest.mark.parametrize("asked", range(1, 16))
def test_a_hangup_is_reported_apart_from_readiness_or_as_everything_asked_for(
    selector: PollSelector, descriptors: Descriptors, made: Make, asked: int
) -> None:
    fd, hang_up = made(descriptors)
    key = selector.register(fd, asked)
    writable = pypoll.poll_fd(fd, pypoll.POLLOUT, 0)
    assert selector.select(0) == ([(key, EVENT_WRITE)] if writable and asked & EVENT_WRITE else [])
    hang_up()
    # The one end of a connection does not see at once what became of the other.
    assert pypoll.poll_fd(fd, POLLRDHUP, PATIENCE * 1000)
    if asked & EVENT_HANGUP:
        event = pypoll.poll_fd(fd, pypoll.POLLIN | pypoll.POLLOUT, 0)
        ready = (EVENT_READ if event & pypoll.POLLIN else 0) | (
            EVENT_WRITE if event & pypoll.POLLOUT else 0
        )
        assert selector.select() == [(key, EVENT_HANGUP | ready & asked)]
    elif asked & EVENT_URGENT:
        broken = pypoll.poll_fd(fd, 0, 0)
        assert selector.select(0) == [(key, asked)] if broken else True
    else:
        with selectors.PollSelector() as theirs:
            theirs.register(fd, asked)
            assert selector.select(0) == theirs.select(0) != []


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


def test_the_events_of_a_hung_up_descriptor_can_be_changed(
    selector: PollSelector, descriptors: Descriptors
) -> None:
    left, right = descriptors.socket_pair()
    selector.register(left, EVENT_HANGUP)
    right.close()
    for events, expected in [
        (EVENT_READ, EVENT_READ),
        (EVENT_HANGUP, EVENT_HANGUP),
        (EVENT_READ | EVENT_HANGUP, EVENT_READ | EVENT_HANGUP),
        (EVENT_URGENT, EVENT_URGENT),
        (EVENT_URGENT | EVENT_HANGUP, EVENT_HANGUP),
        (EVENT_WRITE, EVENT_WRITE),
    ]:
        key = selector.modify(left, events)
        for _ in range(2):
            assert selector.select() == [(key, expected)]


def test_a_failed_connection_is_a_hangup_and_writable(selector: PollSelector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(address)
        key = selector.register(client, EVENT_WRITE | EVENT_HANGUP)
        assert selector.select(PATIENCE) == [(key, EVENT_WRITE | EVENT_HANGUP)]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
