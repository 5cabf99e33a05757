"""Which events poll(), ppoll() and poll_fd() return, and in which order.

All descriptors are real. Some sets have hundreds ready, because a set that grows keeps its results
elsewhere.
"""

from __future__ import annotations

import errno
import os
import random
import select
import threading
from typing import Any, Callable

import pytest

import pypoll
from descriptors import (
    Descriptors,
    Made,
    closed,
    descriptor_limit,
    eventfd_at_1,
    half_closed_socket,
    half_closed_tcp,
    master_without_slave,
    never_opened,
    null_device,
    out_of_band_byte,
    path_only,
    reader_without_writer,
    regular_file,
    room_for,
    unconnected_tcp,
    writer_without_reader,
)
from pypoll import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, Poll, PollEvent, poll_fd
from support import (
    HAS_PPOLL,
    NEVER_OPENED,
    LyingInt,
    Pipe,
    contents,
    error_of,
    linux_only,
    needs_ppoll,
    rows,
    set_of,
)

DEFAULT_MASK = POLLIN | POLLPRI | POLLOUT
# Not every system has it; the rows that need it are Linux's.
POLLRDHUP: int = getattr(pypoll, "POLLRDHUP", 0)
MASK = () if HAS_PPOLL else None

Opened = Callable[[Descriptors], Made]
Look = Callable[[int, int], int]


def opened_by(make: Opened, descriptors: Descriptors) -> int:
    fd, happen = make(descriptors)
    happen()
    return fd


def through_poll(fd: int, mask: int) -> int:
    ready = set_of({fd: mask}).poll(0)
    assert [number for number, _ in ready] == [fd] * len(ready)
    assert len(ready) <= 1
    return dict(ready).get(fd, 0)


# Each returns the events of one descriptor without waiting.
LOOKS = [
    pytest.param(through_poll, id="poll"),
    pytest.param(
        lambda fd, mask: dict(set_of({fd: mask}).ppoll(0, ())).get(fd, 0),
        id="ppoll",
        marks=needs_ppoll,
    ),
    pytest.param(lambda fd, mask: poll_fd(fd, mask, 0), id="poll_fd"),
]


# ---- Registered descriptors ------------------------------------------------------------------


def test_the_default_mask_is_readable_urgent_or_writable(pipe: Pipe) -> None:
    p = Poll()
    assert p.register(pipe.reading) is None  # type: ignore[func-returns-value]
    assert p[pipe.reading] == DEFAULT_MASK
    assert p.poll(0) == []
    p.register(pipe.writing)
    os.write(pipe.writing, b"x")
    assert p.poll() == [(fd, poll_fd(fd)) for fd in pipe]
    assert p.poll() == [(pipe.reading, POLLIN), (pipe.writing, POLLOUT)]


def test_a_file_and_a_socket_are_polled_by_their_descriptor(descriptors: Descriptors) -> None:
    one, other = descriptors.socket_pair()
    other.send(b"x")
    with open(one.fileno(), "rb", closefd=False) as file:
        for fd in one.fileno(), file, one:
            p = Poll()
            p.register(fd, POLLIN)
            assert p.poll() == [(one.fileno(), POLLIN)]
            assert poll_fd(fd, POLLIN) == POLLIN
            p.modify(fd, POLLOUT)
            assert p.poll() == [(one.fileno(), POLLOUT)]
            assert p.unregister(fd) is None  # type: ignore[func-returns-value]
            assert p.poll(0) == []


def test_registering_again_replaces_the_mask_and_keeps_the_place(descriptors: Descriptors) -> None:
    first, second, third = descriptors.ready(3)
    p = set_of({first: 0, second: 0, third: 0})
    for fd in first, third, second, first:
        p.register(fd, POLLIN)
    assert p.poll() == [(first, POLLIN), (second, POLLIN), (third, POLLIN)]
    p.register(first, POLLOUT)
    assert p.poll() == [(second, POLLIN), (third, POLLIN)]
    assert len(p) == 3


# ---- Events ----------------------------------------------------------------------------------

OBSERVED: dict[str, tuple[Opened, int, int]] = {
    "reader without writer, 0": (reader_without_writer, 0, POLLHUP),
    "writer without reader, 0": (writer_without_reader, 0, POLLERR),
    "writer without reader, OUT": (writer_without_reader, POLLOUT, POLLERR | POLLOUT),
    "half closed socket, IN": (half_closed_socket, POLLIN, POLLIN),
    "half closed socket, RDHUP": (half_closed_socket, POLLRDHUP, POLLRDHUP),
    "half closed socket": (half_closed_socket, POLLIN | POLLRDHUP, POLLIN | POLLRDHUP),
    "half closed TCP": (half_closed_tcp, POLLIN | POLLRDHUP, POLLIN | POLLRDHUP),
    "TCP out-of-band byte, PRI": (out_of_band_byte, POLLPRI, POLLPRI),
    "TCP out-of-band byte, default": (out_of_band_byte, DEFAULT_MASK, POLLPRI | POLLOUT),
    "unconnected TCP, default": (unconnected_tcp, DEFAULT_MASK, POLLOUT | POLLHUP),
    "regular file, default": (regular_file, DEFAULT_MASK, POLLIN | POLLOUT),
    "/dev/null, default": (null_device, DEFAULT_MASK, POLLIN | POLLOUT),
    "O_PATH, default": (path_only, DEFAULT_MASK, POLLNVAL),
    "closed, default": (closed, DEFAULT_MASK, POLLNVAL),
    "never opened, default": (never_opened, DEFAULT_MASK, POLLNVAL),
    "eventfd at 1": (eventfd_at_1, POLLIN | POLLOUT, POLLIN | POLLOUT),
    "pty master without slave": (master_without_slave, DEFAULT_MASK, POLLOUT | POLLHUP),
}


@linux_only
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("row", rows(OBSERVED))
def test_linux_reports_these_events(
    descriptors: Descriptors, row: tuple[Opened, int, int], look: Look
) -> None:
    opened, mask, event = row
    assert look(opened_by(opened, descriptors), mask) == event


@linux_only
@pytest.mark.parametrize("opened", {opened for opened, _, _ in OBSERVED.values()})
def test_select_poll_reports_the_same(descriptors: Descriptors, opened: Opened) -> None:
    fd = opened_by(opened, descriptors)
    for mask in 0, POLLIN, POLLOUT, DEFAULT_MASK, POLLRDHUP, 0x7FFF, 0xFFFF:
        theirs = select.poll()
        theirs.register(fd, mask)
        assert set_of({fd: mask}).poll(0) == theirs.poll(0)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("mask", [0, POLLIN, POLLOUT, POLLERR | POLLHUP | POLLNVAL])
def test_errors_and_hangups_are_reported_whatever_the_mask(
    descriptors: Descriptors, mask: int, look: Look
) -> None:
    assert look(opened_by(writer_without_reader, descriptors), mask) & POLLERR
    assert look(opened_by(reader_without_writer, descriptors), mask) & POLLHUP
    assert look(NEVER_OPENED, mask) == POLLNVAL


def test_a_mask_of_0_waits_for_a_hangup_and_nothing_else(descriptors: Descriptors) -> None:
    reading, writing = descriptors.pipe(b"x")
    p = set_of({reading: 0})
    assert p.poll(0) == []
    timer = threading.Timer(0.05, descriptors.close_fd, (writing,))
    timer.start()
    assert p.poll() == [(reading, POLLHUP)]
    timer.join()


@pytest.mark.parametrize("look", LOOKS)
def test_events_have_every_bit_of_the_mask_that_is_ready(
    pipe: Pipe, ready: int, look: Look
) -> None:
    for fd in ready, pipe.writing:
        whole = look(fd, 0xFFFF)
        assert whole & 0xFFFF == whole != 0
        assert look(fd, 0) == 0
        for bit in (1 << shift for shift in range(16)):
            assert look(fd, bit) == whole & bit


def test_a_closed_descriptor_yields_pollnval_until_it_is_unregistered_or_reopened(
    descriptors: Descriptors,
) -> None:
    [other] = descriptors.ready(1)
    number = descriptors.unused_number(descriptors.pipe().reading)
    p = set_of({other: POLLIN, number: POLLIN})
    assert p.poll(0) == [(other, POLLIN)]
    descriptors.close_fd(number)
    for _ in range(3):
        assert p.poll() == [(other, POLLIN), (number, POLLNVAL)]
        assert contents(p) == {other: POLLIN, number: POLLIN}
        assert poll_fd(number) == POLLNVAL
    descriptors.own(os.dup2(other, number))
    assert p.poll() == [(other, POLLIN), (number, POLLIN)]
    descriptors.close_fd(number)
    p.modify(number, 0)
    assert p.poll() == [(other, POLLIN), (number, POLLNVAL)]
    p.unregister(number)
    assert p.poll() == [(other, POLLIN)]


# ---- The list --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_each_result_is_a_new_list_of_plain_tuples_of_plain_ints(
    descriptors: Descriptors, count: int
) -> None:
    p = Poll()
    for fd in descriptors.ready(count):
        p.register(LyingInt(fd), PollEvent.POLLIN)
    lists = [p.poll(0), p.poll(0), p.ppoll(0), p.ppoll(0, MASK)]
    for result in lists:
        assert type(result) is list
        assert len(result) == count
        assert {type(pair) for pair in result} <= {tuple}
        assert {type(number) for pair in result for number in pair} <= {int}
        assert result == lists[0]
    assert len({id(result) for result in lists}) == len(lists)
    lists[0].clear()
    assert p.poll(0) == lists[1]


def test_poll_fd_returns_a_plain_int(ready: int) -> None:
    for mask in PollEvent.POLLIN, PollEvent.POLLOUT:
        assert type(poll_fd(LyingInt(ready), mask, 0)) is int


def test_the_least_event_of_the_least_descriptor_is_a_result(ready: int) -> None:
    before = os.dup(0)
    try:
        os.dup2(ready, 0)
        p = set_of({0: POLLIN})
        assert p.poll() == p.poll(0) == p.poll(1) == p.ppoll(None, MASK) == [(0, POLLIN)]
        assert poll_fd(0, POLLIN) == poll_fd(0, POLLIN, 0) == POLLIN
    finally:
        os.dup2(before, 0)
        os.close(before)


# Up to 8 results, up to 256 and more are kept in different places.
@pytest.mark.parametrize("size", [2, 8, 9, 256, 257, 1100])
def test_results_are_in_the_order_of_registration(descriptors: Descriptors, size: int) -> None:
    chance = random.Random(size)
    with room_for(4096):
        fds = descriptors.ready(size)
        idle = descriptors.pipe().reading
        chance.shuffle(fds)
        p = Poll()
        for fd in fds:
            p.register(fd, POLLIN)
            # Others that are not ready are left out.
            p.register(descriptors.own(os.dup(idle)), POLLIN)
        assert p.poll(0) == p.poll(0) == [(fd, POLLIN) for fd in fds]
        for _ in range(3):
            moved = chance.sample(fds, size // 2)
            for fd in moved:
                p.unregister(fd)
            kept = [fd for fd in fds if fd not in moved]
            assert p.poll(0) == [(fd, POLLIN) for fd in kept]
            for fd in moved:
                p.register(fd, POLLIN)
            fds = kept + moved
            assert p.poll(0) == [(fd, POLLIN) for fd in fds]
            assert [fd for fd in p if fd in fds] == fds


# ---- More descriptors than the system allows -------------------------------------------------

NUMBERS = range(NEVER_OPENED - 200, NEVER_OPENED)


def assert_einval(call: Callable[..., object], *args: object) -> None:
    error = error_of(call, *args)
    assert type(error) is OSError
    assert error.args == (errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.parametrize("timeout", [None, 0, 2.5])
def test_more_descriptors_than_rlimit_nofile_raise_einval_and_lose_nothing(timeout: Any) -> None:
    masks = {number: number & 7 for number in NUMBERS}
    p = set_of(masks)
    expected = [(number, POLLNVAL) for number in NUMBERS]
    assert p.poll(0) == expected
    with descriptor_limit(199):
        for _ in range(2):
            assert_einval(p.poll, timeout)
            assert_einval(p.ppoll, timeout, MASK)
        assert contents(p) == masks
        p.unregister(NUMBERS[100])
        assert p.poll(timeout) == expected[:100] + expected[101:]
        p.register(NUMBERS[100])
        assert_einval(p.poll, timeout)
    assert p.poll(timeout) == expected[:100] + expected[101:] + [expected[100]]


def test_poll_fd_raises_einval_if_not_one_descriptor_is_allowed(pipe: Pipe) -> None:
    with descriptor_limit(0):
        assert_einval(poll_fd, pipe.writing, POLLOUT, 0)
        assert_einval(poll_fd, pipe.writing)
        assert Poll().poll(0) == []
    assert poll_fd(pipe.writing) == POLLOUT


@pytest.mark.parametrize("removed", [1, 24, 100])
def test_unregistered_descriptors_do_not_count_toward_rlimit_nofile(removed: int) -> None:
    p = set_of(dict.fromkeys(NUMBERS, POLLIN))
    gone = random.Random(removed).sample(NUMBERS, removed)
    for number in gone:
        p.unregister(number)
    kept = [number for number in NUMBERS if number not in gone]
    with descriptor_limit(len(kept)):
        assert p.poll(0) == p.poll() == [(number, POLLNVAL) for number in kept]
    with descriptor_limit(len(kept) - 1):
        assert_einval(p.poll)
