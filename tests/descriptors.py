"""Descriptors of every kind, in the states that poll() reports."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Callable

import pytest

from pypoll import POLLIN, POLLPRI, poll_fd
from support import NEVER_OPENED, PATIENCE, Pipe

SocketPair = tuple[socket.socket, socket.socket]


class Descriptors(ExitStack):
    """Opens descriptors, and closes at the end those that are still open."""

    def __init__(self) -> None:
        super().__init__()
        self._open: set[int] = set()
        self.callback(self.close_all_fds)

    def own(self, fd: int) -> int:
        self._open.add(fd)
        return fd

    def close_fd(self, fd: int) -> None:
        self._open.remove(fd)
        os.close(fd)

    def close_all_fds(self) -> None:
        for fd in [*self._open]:
            self.close_fd(fd)

    def pipe(self, waiting: bytes = b"") -> Pipe:
        reading, writing = os.pipe()
        os.write(writing, waiting)
        return Pipe(self.own(reading), self.own(writing))

    def ready(self, count: int) -> list[int]:
        """Return *count* readable descriptors."""
        reading = self.pipe(b"x").reading
        return [self.own(os.dup(reading)) for _ in range(count)]

    def unused_number(self, fd: int) -> int:
        """Duplicate *fd* to a number so high that no other file gets it."""
        return self.own(fcntl.fcntl(fd, fcntl.F_DUPFD, 500))

    def socket_pair(self) -> SocketPair:
        one, other = socket.socketpair()
        return self.enter_context(one), self.enter_context(other)

    def tcp_pair(self) -> SocketPair:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = self.enter_context(socket.create_connection(listener.getsockname()))
            return one, self.enter_context(listener.accept()[0])


@contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """Set RLIMIT_NOFILE, which also limits poll(2), for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Allow *count* open descriptors, or skip the test if the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"no more than {hard} descriptors are allowed here")
    enough = soft == resource.RLIM_INFINITY or soft >= count
    with descriptor_limit(soft if enough else count):
        yield


# ---- Descriptors that hang up, or break, when the function is called -------------------------

Made = tuple[int, Callable[[], object]]


def reader_without_writer(d: Descriptors) -> Made:
    pipe = d.pipe()
    return pipe.reading, lambda: d.close_fd(pipe.writing)


def writer_without_reader(d: Descriptors) -> Made:
    pipe = d.pipe()
    return pipe.writing, lambda: d.close_fd(pipe.reading)


def socket_without_peer(d: Descriptors) -> Made:
    one, other = d.socket_pair()
    return one.fileno(), other.close


def half_closed_socket(d: Descriptors) -> Made:
    one, other = d.socket_pair()
    return one.fileno(), lambda: other.shutdown(socket.SHUT_WR)


def tcp_without_peer(d: Descriptors) -> Made:
    one, other = d.tcp_pair()
    return one.fileno(), other.close


def half_closed_tcp(d: Descriptors) -> Made:
    one, other = d.tcp_pair()

    def shut_down() -> None:
        other.shutdown(socket.SHUT_WR)
        # The segment takes a moment to arrive, even on the loopback device.
        assert poll_fd(one, POLLIN, PATIENCE * 1000) == POLLIN

    return one.fileno(), shut_down


def tcp_reset(d: Descriptors) -> Made:
    one, other = d.tcp_pair()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return one.fileno(), other.close


def master_without_slave(d: Descriptors) -> Made:
    master, slave = os.openpty()
    return d.own(master), lambda: os.close(slave)


def closed(d: Descriptors) -> Made:
    number = d.unused_number(d.pipe().reading)
    return number, lambda: d.close_fd(number)


# ---- Descriptors whose state does not change -------------------------------------------------


def nothing() -> None:
    """Change nothing."""


def out_of_band_byte(d: Descriptors) -> Made:
    one, other = d.tcp_pair()
    other.send(b"!", socket.MSG_OOB)
    assert poll_fd(one, POLLPRI, PATIENCE * 1000) == POLLPRI
    return one.fileno(), nothing


def unconnected_tcp(d: Descriptors) -> Made:
    return d.enter_context(socket.socket()).fileno(), nothing


def regular_file(d: Descriptors) -> Made:
    return d.own(os.open(__file__, os.O_RDONLY)), nothing


def never_opened(_: Descriptors) -> Made:
    return NEVER_OPENED, nothing
