"""PollSelector as a selectors.BaseSelector: keys, file objects, waits, pauses, subclasses."""

from __future__ import annotations

import errno
import math
import selectors
import socket
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any, Callable

import pytest

import pypoll
from descriptors import Descriptors, SocketPair
from pypoll import EVENT_HANGUP, EVENT_READ, EVENT_URGENT, EVENT_WRITE, PollSelector
from support import (
    PATIENCE,
    FileLike,
    Index,
    OnlyInt,
    Pipe,
    Refusal,
    handling,
    needs_ppoll,
    rows,
    settled,
    written_after,
)

# ---- Keys ------------------------------------------------------------------------------------


def test_a_key_is_found_by_file_object_and_by_descriptor(
    selector: PollSelector, pair: SocketPair
) -> None:
    assert isinstance(selector, selectors.BaseSelector)
    assert (EVENT_READ, EVENT_WRITE, EVENT_URGENT, EVENT_HANGUP) == (1, 2, 4, 8)
    left, _ = pair
    key = selector.register(left, EVENT_READ, "data")
    assert key == selectors.SelectorKey(left, left.fileno(), EVENT_READ, "data")
    registered = selector.get_map()
    assert selector.get_key(left) is selector.get_key(left.fileno()) is registered[left] is key
    assert registered.get(left.fileno()) is registered.get(left) is key
    assert registered.get(pair[1], 5) == registered.get(pair[1].fileno(), 5) == 5
    assert dict(registered) == {left.fileno(): key}
    assert len(registered) == 1
    assert settled(selector)


@pytest.mark.parametrize("events", [0, 16, -1, 1 << 70])
def test_invalid_events_are_refused(selector: PollSelector, pipe: Pipe, events: int) -> None:
    refusal = Refusal(events, ValueError, ("Invalid events: ", "expected EVENT_READ"))
    refusal.check(selector.register, pipe.reading, events)
    assert len(selector.get_map()) == 0
    selector.register(pipe.reading, EVENT_READ)
    if events:
        refusal.check(selector.modify, pipe.reading, events)
    assert selector.get_key(pipe.reading).events == EVENT_READ
    broken = Refusal(Index("x"), TypeError)
    broken.check(selector.register, pipe.writing, broken.value)
    assert pipe.writing not in selector.get_map()
    assert settled(selector)


INVALID = [-1, 2**40, "x"]


@pytest.mark.parametrize("fileobj", [*INVALID, 1.5, *map(FileLike, INVALID)])
def test_an_invalid_file_object_is_refused(selector: PollSelector, fileobj: Any) -> None:
    calls: list[Callable[..., object]] = [selector.unregister, selector.get_key]
    calls += [lambda f: selector.register(f, EVENT_READ), lambda f: selector.modify(f, EVENT_READ)]
    number = fileobj.fileno() if isinstance(fileobj, FileLike) else fileobj
    words = ("negative", "(-1)") if number == -1 else ()
    for call in calls:
        Refusal(fileobj, ValueError, ("Invalid file object: ", *words)).check(call, fileobj)
    assert selector.select(0) == []


@pytest.mark.parametrize("number", [OnlyInt, str])
def test_fileno_may_return_anything_that_int_accepts(
    selector: PollSelector, pipe: Pipe, number: Callable[[int], Any]
) -> None:
    fileobj: Any = FileLike(number(pipe.writing))
    with selectors.PollSelector() as theirs:
        key = selector.register(fileobj, EVENT_WRITE)
        assert key == theirs.register(fileobj, EVENT_WRITE)
        assert key.fd == pipe.writing
        assert selector.select(0) == [(key, EVENT_WRITE)]
        assert selector.get_key(fileobj) is selector.get_map()[fileobj] is key
        assert selector.unregister(fileobj) is key


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "gone"), ZeroDivisionError("gone")])
def test_a_registered_file_object_is_found_after_its_fileno_fails(
    selector: PollSelector, pipe: Pipe, error: Exception
) -> None:
    other, fileobj, stranger = FileLike(pipe.reading), FileLike(pipe.writing), FileLike(0)
    selector.register(other, EVENT_READ)
    key = selector.register(fileobj, EVENT_READ, "before")
    for each in (fileobj, other, stranger):
        each.answer = error
    registered = selector.get_map()
    assert selector.get_key(fileobj) is registered[fileobj] is registered.get(fileobj) is key
    changed = selector.modify(fileobj, EVENT_WRITE, "after")
    assert changed == selectors.SelectorKey(fileobj, key.fd, EVENT_WRITE, "after")
    assert selector.select(0) == [(changed, EVENT_WRITE)]
    calls: list[Callable[..., object]] = [selector.unregister, selector.get_key, registered.get]
    calls += [lambda f: selector.register(f, EVENT_READ), lambda f: selector.modify(f, EVENT_READ)]
    for call in calls:
        with pytest.raises(ValueError, match=r"Invalid file object: .*gone") as caught:
            call(stranger)
        assert caught.value.__cause__ is error
    assert selector.unregister(fileobj) is changed
    assert selector.unregister(other).fileobj is other
    assert settled(selector)


def test_a_keyboard_interrupt_in_fileno_propagates(selector: PollSelector, pipe: Pipe) -> None:
    fileobj = FileLike(pipe.reading)
    key = selector.register(fileobj, EVENT_READ)
    fileobj.answer = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        selector.unregister(fileobj)
    assert selector.get_key(key.fd) is key


def test_a_bool_emits_a_warning_where_it_is_registered(selector: PollSelector) -> None:
    with pytest.warns(RuntimeWarning, match="bool") as caught:
        selector.register(True, EVENT_READ)
    assert [warning.filename for warning in caught] == [__file__]


# ---- Results ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 8, 9])
def test_results_are_in_the_order_of_registration(
    selector: PollSelector, descriptors: Descriptors, count: int
) -> None:
    for number, fd in enumerate(reversed(descriptors.ready(count))):
        selector.register(fd, EVENT_READ, number)
    for _ in range(3):
        assert [(key.data, events) for key, events in selector.select(0)] == [
            (number, EVENT_READ) for number in range(count)
        ]


@pytest.mark.parametrize("asked", range(1, 16))
def test_exactly_the_registered_events_are_reported(
    selector: PollSelector, descriptors: Descriptors, asked: int
) -> None:
    server, client = descriptors.tcp_pair()
    key = selector.register(server, asked)
    assert selector.select(0) == ([(key, EVENT_WRITE)] if asked & EVENT_WRITE else [])
    client.send(b"!", socket.MSG_OOB)
    assert pypoll.poll_fd(server, pypoll.POLLPRI, PATIENCE * 1000) == pypoll.POLLPRI
    expected = asked & (EVENT_WRITE | EVENT_URGENT)
    assert selector.select(0) == ([(key, expected)] if expected else [])
    client.send(b"x")
    assert pypoll.poll_fd(server, pypoll.POLLIN, PATIENCE * 1000) == pypoll.POLLIN
    expected = asked & ~EVENT_HANGUP
    assert selector.select(0) == ([(key, expected)] if expected else [])


def test_select_returns_the_key_as_it_was_last_changed(
    selector: PollSelector, pair: SocketPair, beside: int
) -> None:
    left, right = pair
    right.send(b"x")

    def check(*expected: tuple[selectors.SelectorKey, int]) -> None:
        for _ in range(3):
            found = selector.select(0)
            assert tuple(found[beside:]) == expected
            assert [key.data for key, _ in found[:beside]] == ["beside"] * beside

    first = selector.register(left, EVENT_READ, "first")
    check((first, EVENT_READ))
    second = selector.modify(left, EVENT_READ, "second")
    check((second, EVENT_READ))
    both = selector.modify(left, EVENT_READ | EVENT_WRITE, "second")
    check((both, EVENT_READ | EVENT_WRITE))
    selector.unregister(left)
    check()
    again = selector.register(left.fileno(), EVENT_WRITE, "again")
    check((again, EVENT_WRITE))
    assert selector.modify(left, EVENT_WRITE, "again") is again
    selector.modify(left, 0, "paused")
    check()
    resumed = selector.modify(left, EVENT_READ, "resumed")
    check((resumed, EVENT_READ))


# ---- Waits -----------------------------------------------------------------------------------


@needs_ppoll
def test_the_wait_is_not_rounded_up_to_a_millisecond(selector: PollSelector) -> None:
    for _ in range(20):
        waits = []
        for _ in range(50):
            begun = time.monotonic_ns()
            selector.select(0.0002)
            waits.append(time.monotonic_ns() - begun)
        assert min(waits) >= 200_000
        if sorted(waits)[25] < 700_000:
            return
    raise AssertionError(f"the median is {sorted(waits)[25]} ns")


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -0.5, -(10**400), -math.inf, Index(-1)])
def test_zero_and_negative_numbers_do_not_wait(
    selector: PollSelector, pipe: Pipe, seconds: Any
) -> None:
    selector.register(pipe.reading, EVENT_READ)
    assert selector.select(seconds) == []


@pytest.mark.parametrize("seconds", [None, math.inf, 1e9])
def test_long_waits_end_with_an_event(selector: PollSelector, pipe: Pipe, seconds: Any) -> None:
    key = selector.register(pipe.reading, EVENT_READ)
    with written_after(pipe, 0.02):
        assert selector.select(seconds) == [(key, EVENT_READ)]


BAD_TIMEOUTS = {
    "str": Refusal("1", TypeError, ("real number of seconds or None, not '1'",)),
    "nan": Refusal(math.nan, ValueError, ("number of seconds, not nan",)),
    "too long": Refusal(9223372037, OverflowError, ("9223372037 seconds is too long", "at most")),
}


@pytest.mark.parametrize("refusal", rows(BAD_TIMEOUTS))
def test_a_bad_timeout_is_refused(selector: PollSelector, refusal: Refusal) -> None:
    refusal.check(selector.select, refusal.value)


@pytest.mark.parametrize("exception", [InterruptedError, KeyboardInterrupt])
def test_the_exception_of_a_signal_handler_propagates(
    selector: PollSelector, pipe: Pipe, exception: type[BaseException]
) -> None:
    """The standard selectors suppress InterruptedError (CPython issue 120001)."""

    def handler(*_: object) -> None:
        raise exception

    selector.register(pipe.reading, EVENT_READ)
    with handling(handler, 0.02), pytest.raises(exception):
        selector.select()
    assert selector.select(0) == []


def test_a_wait_continues_with_the_keys_that_a_signal_handler_has_changed(
    selector: PollSelector, pipe: Pipe
) -> None:
    calls: list[selectors.SelectorKey | None] = []
    selector.register(pipe.reading, EVENT_READ)

    def handler(*_: object) -> None:
        calls.append(None)
        if len(calls) == 3:
            selector.unregister(pipe.reading)
            calls.append(selector.register(pipe.writing, EVENT_WRITE))

    with handling(handler, 0.01, 0.01):
        assert selector.select(PATIENCE) == [(calls[3], EVENT_WRITE)]


# ---- modify(fileobj, 0), a pause -------------------------------------------------------------


@pytest.mark.parametrize("selected", [False, True])
def test_modify_to_no_events_is_a_pause_until_the_next_modify(
    selector: PollSelector, descriptors: Descriptors, selected: bool
) -> None:
    """A pipe that is hung up is reported for any mask, so a loop would spin without a pause."""
    reading, writing = descriptors.pipe()
    descriptors.close_fd(writing)
    first = selector.register(reading, EVENT_READ, "data")
    assert selector.select() == [(first, EVENT_READ)]
    for events in (EVENT_READ, EVENT_HANGUP):
        paused = selector.modify(reading, 0, "data")
        assert paused == selectors.SelectorKey(reading, reading, 0, "data")
        assert selector.get_key(reading) is selector.get_map()[reading] is paused
        assert selector.modify(reading, 0, "data") is paused
        assert selector.modify(reading, 0, "other").data == "other"
        with pytest.raises(KeyError, match="already registered"):
            selector.register(reading, EVENT_READ)
        if selected:
            begun = time.monotonic_ns()
            assert selector.select(0.05) == []
            assert time.monotonic_ns() - begun >= 50_000_000
        resumed = selector.modify(reading, events, "data")
        for _ in range(2):
            assert selector.select() == [(resumed, events)]
        assert settled(selector)


class OtherPoll(pypoll.Poll):
    """PollSelector calls the methods of a subclass, and the C functions behind Poll itself."""


class OtherSelector(PollSelector):
    _selector_cls = OtherPoll


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("cls", [PollSelector, OtherSelector])
def test_a_paused_file_object_can_be_unregistered_and_closed(
    pair: SocketPair, cls: type[PollSelector], selected: bool
) -> None:
    left, right = pair
    with cls() as selector:
        for end in pair:
            selector.register(end, EVENT_WRITE)
            selector.modify(end, 0)
        if selected:
            assert selector.select(0) == []
        assert selector.unregister(left).events == 0
        with pytest.raises(KeyError, match="is not registered"):
            selector.modify(left, EVENT_WRITE)
        assert settled(selector)
        again = selector.register(left, EVENT_WRITE)
        assert selector.select(0) == [(again, EVENT_WRITE)]
        registered = selector.get_map()
        selector.close()
        assert (len(registered), registered.get(right)) == (0, None)
        with pytest.raises(RuntimeError, match="closed"):
            selector.get_key(right)
        assert settled(selector)


def test_the_set_can_grow_at_the_end_of_a_pause(
    selector: PollSelector, descriptors: Descriptors
) -> None:
    """The first eight descriptors need no memory of their own."""
    fds = descriptors.ready(9)
    for fd in fds:
        selector.register(fd, EVENT_READ)
        if fd == fds[0]:
            selector.modify(fd, 0)
    assert [key.fd for key, _ in selector.select(0)] == fds[1:]
    selector.modify(fds[0], EVENT_READ)
    assert [key.fd for key, _ in selector.select(0)] == [*fds[1:], fds[0]]


# ---- Subclasses ------------------------------------------------------------------------------


class RecordingPoll(pypoll.Poll):
    """Records the timeouts that poll() is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[Any] = []

    def poll(self, timeout: Any = None, /) -> list[tuple[int, int]]:
        self.timeouts.append(timeout)
        return []


class RecordingSelector(PollSelector):
    _selector_cls = RecordingPoll
    _selector: RecordingPoll


EXACT: list[Any] = [0.5, 1, 1e-9, 1e-300, Fraction(1, 3), Decimal("0.7"), 2**33]
EXACT += [Fraction(2**53 + 1, 10**9), Fraction(2**53 - 1, 10**9)]


@pytest.mark.parametrize("seconds", [None, math.inf, 0, 0.0, False, -1, -0.5, *EXACT], ids=repr)
def test_every_wait_calls_the_poll_method_of_a_subclass(seconds: Any) -> None:
    with RecordingSelector() as selector:
        assert selector.select(seconds) == []
    [milliseconds] = selector._selector.timeouts
    if seconds is None or seconds == math.inf:
        assert milliseconds is None
    elif seconds <= 0:
        assert milliseconds == 0
    else:
        # poll() rounds up to nanoseconds.
        more = math.ceil(Fraction(milliseconds) * 10**6) - math.ceil(Fraction(seconds) * 10**9)
        assert 0 <= more < 10**6
        assert type(milliseconds) in (int, float)


class FailingPoll(pypoll.Poll):
    """Raises MemoryError, as if memory had run out."""

    def register(self, *_arguments: Any) -> None:
        raise MemoryError

    modify = register


def test_a_failed_change_leaves_nothing_registered(pipe: Pipe) -> None:
    class Failing(PollSelector):
        _selector_cls = FailingPoll

    fd = pipe.reading
    with Failing() as selector:
        with pytest.raises(MemoryError):
            selector.register(fd, EVENT_READ)
        assert len(selector.get_map()) == 0
        pypoll.Poll.register(selector._selector, fd)
        selector._fd_to_key[fd] = selectors.SelectorKey(fd, fd, EVENT_READ, None)
        with pytest.raises(MemoryError):
            selector.modify(fd, EVENT_WRITE)
        assert len(selector.get_map()) == 0
        assert settled(selector)
