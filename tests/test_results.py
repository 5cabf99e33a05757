"""Which events poll(), ppoll() and poll_fd() return, and in which order.

All descriptors are real. Some sets are large, because few and many results are read in different
ways.
"""

from __future__ import annotations

import errno
import os
import random
import select
from typing import Any, Callable

import pytest

import pypoll
from descriptors import (
    Descriptors,
    Made,
    closed,
    descriptor_limit,
    half_closed_socket,
    half_closed_tcp,
    master_without_slave,
    never_opened,
    out_of_band_byte,
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
    set_of,
)

DEFAULT_MASK = POLLIN | POLLPRI | POLLOUT
# Not every system has it. The test that needs it runs on Linux.
POLLRDHUP: int = getattr(pypoll, "POLLRDHUP", 0)
MASK = () if HAS_PPOLL else None

Opened = Callable[[Descriptors], Made]
Look = Callable[[int, int], int]


def opened_by(make: Opened, descriptors: Descriptors) -> int:
    fd, happen = make(descriptors)
    happen()
    return fd


# Each returns the events of one descriptor without waiting.
LOOKS = [
    pytest.param(lambda fd, mask: dict(set_of({fd: mask}).poll(0)).get(fd, 0), id="poll"),
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
    assert p.poll() == [(pipe.reading, POLLIN), (pipe.writing, POLLOUT)]


def test_files_and_sockets_are_polled_by_their_descriptor(descriptors: Descriptors) -> None:
    one, other = descriptors.socket_pair()
    other.send(b"x")
    with open(one.fileno(), "rb", closefd=False) as file:
        for fd in one.fileno(), file, one:
            p = Poll()
            p.register(fd, POLLIN)
            assert p.poll() == [(one.fileno(), POLLIN)]
            assert poll_fd(fd, POLLIN) == POLLIN
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

# What Linux reports with the default mask.
OBSERVED: dict[Opened, int] = {
    reader_without_writer: POLLHUP,
    writer_without_reader: POLLERR | POLLOUT,
    half_closed_socket: POLLIN | POLLOUT,
    half_closed_tcp: POLLIN | POLLOUT,
    out_of_band_byte: POLLPRI | POLLOUT,
    unconnected_tcp: POLLOUT | POLLHUP,
    regular_file: POLLIN | POLLOUT,
    closed: POLLNVAL,
    never_opened: POLLNVAL,
    master_without_slave: POLLOUT | POLLHUP,
}


@linux_only
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("opened", OBSERVED)
def test_events_on_linux_are_those_of_select_poll(
    descriptors: Descriptors, opened: Opened, look: Look
) -> None:
    fd = opened_by(opened, descriptors)
    assert look(fd, DEFAULT_MASK) == OBSERVED[opened]
    for mask in 0, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, 0x7FFF, 0xFFFF:
        theirs = select.poll()
        theirs.register(fd, mask)
        assert look(fd, mask) == dict(theirs.poll(0)).get(fd, 0)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("mask", [0, POLLIN | POLLOUT])
def test_errors_and_hangups_are_reported_whatever_the_mask(
    descriptors: Descriptors, mask: int, look: Look
) -> None:
    assert look(opened_by(writer_without_reader, descriptors), mask) & POLLERR
    assert look(opened_by(reader_without_writer, descriptors), mask) & POLLHUP
    assert look(NEVER_OPENED, mask) == POLLNVAL


@pytest.mark.parametrize("look", LOOKS)
def test_events_have_every_bit_of_the_mask_that_is_ready(
    pipe: Pipe, ready: int, look: Look
) -> None:
    for fd in ready, pipe.writing:
        whole = look(fd, 0xFFFF)
        assert 0 < whole <= 0xFFFF
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


def test_event_1_of_descriptor_0_is_a_result(ready: int) -> None:
    with open(os.devnull) as before:
        os.dup2(0, before.fileno())
        try:
            os.dup2(ready, 0)
            p = set_of({0: POLLIN})
            assert p.poll() == p.poll(0) == p.poll(1) == p.ppoll(None, MASK) == [(0, POLLIN)]
            assert poll_fd(0, POLLIN) == poll_fd(0, POLLIN, 0) == POLLIN
        finally:
            os.dup2(before.fileno(), 0)


# Up to 8 results, up to 256, and more are read in different ways.
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

# Never open. They are random, so some collide in the set's hash table.
NUMBERS = random.Random(1).sample(range(NEVER_OPENED - 10**6, NEVER_OPENED), 200)


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
    assert contents(p) == dict.fromkeys(kept, POLLIN)
    with descriptor_limit(len(kept)):
        assert p.poll(0) == p.poll() == [(number, POLLNVAL) for number in kept]
    with descriptor_limit(len(kept) - 1):
        assert_einval(p.poll)
