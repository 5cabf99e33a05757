"""PollSelector: the contract of selectors.BaseSelector, and what it has over the library's own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import io
import math
import os
import random
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any, Callable
from unittest.mock import MagicMock

import pytest

import pypoll
from pypoll import EVENT_HANGUP, EVENT_READ, EVENT_URGENT, EVENT_WRITE, PollSelector
from pypoll.library import lib

PATIENCE = 30.0
PYPY = sys.implementation.name == "pypy"
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def selector() -> Iterator[PollSelector]:
    with PollSelector() as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def settled(selector: PollSelector) -> bool:
    """Tell whether set and keys agree after a select(), as they must when nothing is going on.

    By private names: a set that has more than the keys makes select() spin, which no call shows.
    """
    selector.select(0)
    expected = {fd for fd, key in selector._fd_to_key.items() if key.events}
    return {*selector._selector} == expected and not selector._unsettled


@pytest.fixture(params=[0, 10], ids=["few ready", "many ready"])
def beside(request: pytest.FixtureRequest, selector: PollSelector) -> Iterator[int]:
    """So many others that are always ready: select() returns many in another way than few."""
    reading, writing = os.pipe()
    fds = [os.dup(writing) for _ in range(request.param)]
    for fd in fds:
        selector.register(fd, EVENT_WRITE, "beside")
    for _ in range(3):
        assert len(selector.select(0)) == len(fds)
    yield len(fds)
    for fd in (reading, writing, *fds):
        os.close(fd)


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Threads that take turns at nearly every instruction."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_it_is_a_selector_of_the_standard_library(selector: PollSelector) -> None:
    assert isinstance(selector, selectors.BaseSelector)
    assert (EVENT_READ, EVENT_WRITE) == (selectors.EVENT_READ, selectors.EVENT_WRITE)
    assert (EVENT_URGENT, EVENT_HANGUP) == (4, 8)


def test_a_registered_file_object_is_found_by_itself_and_by_its_descriptor(
    selector: PollSelector, pair: Pair
) -> None:
    left, _ = pair
    key = selector.register(left, EVENT_READ, "data")
    assert key == selectors.SelectorKey(left, left.fileno(), EVENT_READ, "data")
    assert selector.get_key(left) is selector.get_key(left.fileno()) is key
    assert selector.get_map()[left] is key
    assert dict(selector.get_map()) == {left.fileno(): key}
    assert len(selector.get_map()) == 1
    assert settled(selector)


@pytest.mark.parametrize("events", [0, 16, EVENT_READ | 16, -1, 1 << 70])
def test_invalid_events_are_refused(selector: PollSelector, pair: Pair, events: int) -> None:
    with pytest.raises(ValueError, match=r"Invalid events: .*expected EVENT_READ"):
        selector.register(pair[0], events)
    assert len(selector.get_map()) == 0
    selector.register(pair[0], EVENT_READ)
    if events:
        with pytest.raises(ValueError, match="Invalid events"):
            selector.modify(pair[0], events)
    assert selector.get_key(pair[0]).events == EVENT_READ
    assert settled(selector)


class Answering:
    """A file object whose fileno() returns this."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def fileno(self) -> Any:
        return self.answer


INVALID = [-1, 2**40, "x", None, 1.5, object()]


@pytest.mark.parametrize("fileobj", [*INVALID, *map(Answering, INVALID[:4]), Answering(math.nan)])
def test_an_invalid_file_object_is_refused(selector: PollSelector, fileobj: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: selector.register(fileobj, EVENT_READ),
        lambda: selector.modify(fileobj, EVENT_READ),
        lambda: selector.unregister(fileobj),
        lambda: selector.get_key(fileobj),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="Invalid file object"):
            call()
    assert selector.select(0) == []


def test_registering_twice_is_refused_and_changes_nothing(
    selector: PollSelector, pair: Pair
) -> None:
    key = selector.register(pair[0], EVENT_READ, "first")
    for again in (pair[0], pair[0].fileno()):
        with pytest.raises(KeyError, match="already registered"):
            selector.register(again, EVENT_WRITE, "second")
    assert selector.get_key(pair[0]) is key
    assert selector.select(0) == []


def test_what_is_not_registered_is_a_key_error(selector: PollSelector, pair: Pair) -> None:
    calls: list[Callable[[], object]] = [
        lambda: selector.unregister(pair[0]),
        lambda: selector.modify(pair[0], EVENT_READ),
        lambda: selector.get_key(pair[0]),
        lambda: selector.get_map()[pair[0]],
    ]
    for call in calls:
        with pytest.raises(KeyError, match="is not registered"):
            call()


class Whole:
    """A number as numpy's are: no int, but one for int()."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number

    __index__ = __int__


class OnlyInt:
    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


def mocked(number: int) -> MagicMock:
    mock = MagicMock()
    mock.__int__.return_value = number
    return mock


@pytest.mark.parametrize("number", [mocked, Whole, OnlyInt, float, str])
def test_fileno_may_return_whatever_int_takes(
    selector: PollSelector, pair: Pair, number: Callable[[int], Any]
) -> None:
    fileobj: Any = Answering(number(pair[0].fileno()))
    with selectors.PollSelector() as theirs:
        key = selector.register(fileobj, EVENT_WRITE)
        assert key == theirs.register(fileobj, EVENT_WRITE)
        assert key.fd == pair[0].fileno()
        assert selector.select(0) == [(key, EVENT_WRITE)]
        assert selector.get_key(fileobj) is selector.get_map()[fileobj] is key
        assert selector.unregister(fileobj) is key


class Fickle:
    """A file object whose fileno() raises this, if it is set."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.error: BaseException | None = None

    def fileno(self) -> int:
        if self.error is not None:
            raise self.error
        return self.fd


ERRORS = [
    AttributeError("gone"),
    OSError(errno.EBADF, "gone"),
    RuntimeError("gone"),
    TypeError("gone"),
    io.UnsupportedOperation("gone"),
    ZeroDivisionError("gone"),
    pytest.PytestWarning("gone"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_registered_file_object_that_lost_its_descriptor_is_found(
    selector: PollSelector, pair: Pair, error: Exception
) -> None:
    other, fileobj, stranger = Fickle(pair[1].fileno()), Fickle(pair[0].fileno()), Fickle(0)
    selector.register(other, EVENT_READ)
    key = selector.register(fileobj, EVENT_READ, "before")
    for each in (fileobj, other, stranger):
        each.error = error
    registered = selector.get_map()
    assert selector.get_key(fileobj) is registered[fileobj] is registered.get(fileobj) is key
    assert fileobj in registered
    changed = selector.modify(fileobj, EVENT_WRITE, "after")
    assert changed == selectors.SelectorKey(fileobj, key.fd, EVENT_WRITE, "after")
    assert selector.select(0) == [(changed, EVENT_WRITE)]
    calls: list[Callable[[], object]] = [
        lambda: selector.register(stranger, EVENT_READ),
        lambda: selector.modify(stranger, EVENT_READ),
        lambda: selector.unregister(stranger),
        lambda: selector.get_key(stranger),
        lambda: selector.get_map().get(stranger),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"Invalid file object: .*gone") as caught:
            call()
        assert caught.value.__cause__ is error
    assert selector.unregister(fileobj) is changed
    assert selector.unregister(other).fileobj is other
    assert settled(selector)


def test_what_fileno_raises_may_be_hard_to_show(selector: PollSelector) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

        __repr__ = __str__

    fileobj = Fickle(0)
    for fileobj.error in (MuteError(), RuntimeError("x" * 10_000)):
        with pytest.raises(ValueError, match="Invalid file object") as caught:
            selector.register(fileobj, EVENT_READ)
        assert len(str(caught.value)) < 500


def test_an_interrupt_in_fileno_is_not_taken_for_a_lost_descriptor(
    selector: PollSelector, pair: Pair
) -> None:
    fileobj = Fickle(pair[0].fileno())
    key = selector.register(fileobj, EVENT_READ)
    fileobj.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        selector.unregister(fileobj)
    assert selector.get_key(key.fd) is key


def test_messages_show_the_whole_of_what_fits(selector: PollSelector, pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
    with client:
        selector.register(client.fileno(), EVENT_READ)
        with pytest.raises(KeyError) as caught:
            selector.register(client, EVENT_READ)
        fd = client.fileno()
        assert caught.value.args == (f"{client!r} (FD {fd}) is already registered",)
        selector.unregister(client)
        with pytest.raises(KeyError) as caught:
            selector.unregister(client)
        assert caught.value.args == (f"{client!r} is not registered",)

    class Long(Fickle):
        length = 200

        def __repr__(self) -> str:
            return "x" * self.length

    fileobj = Long(pair[0].fileno())
    with pytest.raises(KeyError) as caught:
        selector.get_key(fileobj)
    assert caught.value.args == (f"{'x' * 200} is not registered",)
    Long.length = 201
    with pytest.raises(KeyError) as caught:
        selector.get_key(fileobj)
    assert caught.value.args == (f"{'x' * 200}... is not registered",)


def test_the_message_for_an_invalid_descriptor_names_it(selector: PollSelector) -> None:
    closed = socket.socket()
    closed.close()
    for fileobj in (-1, closed, Answering(-1)):
        with pytest.raises(ValueError, match=r"^Invalid file object: .*negative.*\(-1\)"):
            selector.register(fileobj, EVENT_READ)


def test_to_ask_for_an_absent_key_makes_no_message(selector: PollSelector, pair: Pair) -> None:
    class Number(int):
        def __repr__(self) -> str:
            raise AssertionError("nobody reads it")

    class Mute(Fickle):
        def __repr__(self) -> str:
            raise AssertionError("nobody reads it")

    shown: list[object] = []

    class Shown(Fickle):
        def __repr__(self) -> str:
            shown.append(self)
            return "shown"

    fd = pair[0].fileno()
    registered = selector.get_map()
    for absent in (fd, Number(fd), Mute(fd), Shown(fd), pair[0]):
        assert registered.get(absent) is None
        assert registered.get(absent, 5) == 5
    key = selector.register(fd, EVENT_READ)
    for present in (fd, Number(fd), Mute(fd), Shown(fd), pair[0]):
        assert registered.get(present) is key
    assert shown == []


def test_a_closed_file_object_can_be_unregistered(selector: PollSelector) -> None:
    left, right = socket.socketpair()
    key = selector.register(left, EVENT_READ)
    left.close()
    right.close()
    assert selector.unregister(left) is key
    assert settled(selector)


def test_after_close_nothing_is_found(pair: Pair) -> None:
    selector = PollSelector()
    selector.register(pair[0], EVENT_WRITE)
    registered = selector.get_map()
    selector.close()
    with pytest.raises(RuntimeError, match="closed"):
        selector.get_key(pair[0])
    assert registered.get(pair[0]) is None
    assert len(registered) == 0
    assert selector.select(0) == []
    selector.close()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 255, 256, 257, 300])
def test_what_is_ready_comes_in_the_order_of_registration(
    selector: PollSelector, count: int
) -> None:
    pipes = [os.pipe() for _ in range(count)]
    random.Random(count).shuffle(pipes)
    for number, (reading, writing) in enumerate(pipes):
        selector.register(reading, EVENT_READ, number)
        os.write(writing, b"x")
    for _ in range(3):
        assert [(key.data, events) for key, events in selector.select(0)] == [
            (number, EVENT_READ) for number in range(count)
        ]
    for reading, writing in pipes:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("asked", range(1, 16))
def test_each_event_wakes_who_asked_for_it_and_nobody_else(
    selector: PollSelector, asked: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        key = selector.register(server, asked)
        assert selector.select(0) == ([(key, EVENT_WRITE)] if asked & EVENT_WRITE else [])
        client.send(b"x")
        client.send(b"!", socket.MSG_OOB)
        readiness = asked & ~EVENT_HANGUP
        expected = [(key, readiness)] if readiness else []
        assert pypoll.poll_fd(server, pypoll.POLLPRI, PATIENCE * 1000) == pypoll.POLLPRI
        assert selector.select(0) == expected


def test_what_nobody_asked_for_wakes_nobody(selector: PollSelector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        urgent, _ = listener.accept()
    reading, writing = os.pipe()
    os.write(writing, b"x")
    with client, urgent:
        client.send(b"!", socket.MSG_OOB)
        assert pypoll.poll_fd(urgent, pypoll.POLLPRI, PATIENCE * 1000) == pypoll.POLLPRI
        selector.register(urgent, EVENT_READ)
        selector.register(reading, EVENT_WRITE | EVENT_URGENT)
        assert selector.select(0) == []
        key = selector.modify(reading, EVENT_READ | EVENT_WRITE | EVENT_URGENT)
        assert selector.select(0) == [(key, EVENT_READ)]
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("events", [EVENT_READ, EVENT_WRITE, EVENT_READ | EVENT_WRITE])
def test_a_key_is_kept_only_if_neither_events_nor_data_change(
    selector: PollSelector, pair: Pair, events: int
) -> None:
    key = selector.register(pair[0], EVENT_READ | EVENT_WRITE, [])
    changed = selector.modify(pair[0], events, key.data)
    assert (changed is key) == (events == key.events)
    assert changed.events == events
    equal: list[Any] = []
    assert selector.modify(pair[0], events, equal).data is equal


def test_a_bool_is_warned_of_where_it_is_registered(selector: PollSelector) -> None:
    with pytest.warns(RuntimeWarning, match="bool") as caught:
        selector.register(True, EVENT_READ)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("asked", range(1, 8))
def test_a_hang_up_or_an_error_wakes_whoever_waits_once(
    selector: PollSelector, pair: Pair, asked: int
) -> None:
    left, right = pair
    key = selector.register(left, asked)
    right.close()
    assert selector.select() == [(key, asked)]
    reading, writing = os.pipe()
    os.close(reading)
    broken = selector.register(writing, asked)
    os.close(writing)
    with contextlib.suppress(OSError):
        os.close(reading)
    assert selector.select() == [(key, asked), (broken, asked)]


def test_the_same_events_as_those_of_the_standard_library(
    selector: PollSelector, pair: Pair
) -> None:
    """Also of a half-closed, then broken, socket."""
    left, right = pair
    with selectors.PollSelector() as theirs:
        for events in (EVENT_READ, EVENT_WRITE, EVENT_READ | EVENT_WRITE):
            for either in (selector, theirs):
                either.register(left, events)
            stages: list[Callable[[], object]] = [
                lambda: None,
                lambda: right.send(b"x"),
                right.close,
            ]
            for stage in stages if events == EVENT_READ | EVENT_WRITE else stages[:2]:
                stage()
                assert selector.select(0) == theirs.select(0)
            for either in (selector, theirs):
                either.unregister(left)


def test_a_changed_key_is_what_select_returns_from_then_on(
    selector: PollSelector, pair: Pair, beside: int
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


class FailingPoll(pypoll.Poll):
    """Has no memory left."""

    def register(self, *_arguments: Any) -> None:
        raise MemoryError

    def modify(self, *_arguments: Any) -> None:
        raise MemoryError


def test_a_set_that_refuses_leaves_nothing_registered(pair: Pair) -> None:
    class Failing(PollSelector):
        _selector_cls = FailingPoll

    with Failing() as selector:
        with pytest.raises(MemoryError):
            selector.register(pair[0], EVENT_READ)
        assert len(selector.get_map()) == 0
        pypoll.Poll.register(selector._selector, pair[0])
        fd = pair[0].fileno()
        selector._fd_to_key[fd] = selectors.SelectorKey(pair[0], fd, EVENT_READ, None)
        with pytest.raises(MemoryError):
            selector.modify(pair[0], EVENT_WRITE)
        assert len(selector.get_map()) == 0
        assert selector.select(0) == []
        assert settled(selector)


TIMES = [0.05, Fraction(1, 20), Decimal("0.05")]


@pytest.mark.parametrize("seconds", TIMES, ids=repr)
def test_the_wait_is_never_shorter(selector: PollSelector, pair: Pair, seconds: Any) -> None:
    selector.register(pair[0], EVENT_READ)
    begun = time.monotonic_ns()
    assert selector.select(seconds) == []
    assert time.monotonic_ns() - begun >= 50_000_000


@pytest.mark.skipif(
    not lib.pypoll_has_ppoll(), reason="without ppoll the time is rounded up to a millisecond"
)
def test_the_wait_does_not_round_up_to_a_millisecond(selector: PollSelector) -> None:
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


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -0.5, -(10**400), float("-inf"), Decimal(-1)])
def test_zero_and_less_do_not_wait(selector: PollSelector, pair: Pair, seconds: Any) -> None:
    selector.register(pair[0], EVENT_READ)
    assert selector.select(seconds) == []


class RecordingPoll(pypoll.Poll):
    """Notes the timeouts that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def poll(self, timeout: Any = None, /) -> list[tuple[int, int]]:
        self.asked.append(timeout)
        return []


@pytest.mark.parametrize(
    "seconds",
    [
        *(None, math.inf, Decimal("Infinity")),
        *(0, 0.0, False, -1, -0.5, -math.inf, Fraction(-1, 3)),
        *(0.5, 1, 1e-9, 1e-300, 0.1, Fraction(1, 3), Decimal("0.7"), 123.456789012),
        *(Fraction(2**53 + 1, 10**9), Fraction(2**53 - 1, 10**9), 2**33, 9e9),
    ],
    ids=repr,
)
def test_every_wait_is_a_poll_of_the_class_that_a_subclass_names(seconds: Any) -> None:
    class Selector(PollSelector):
        _selector_cls = RecordingPoll

    with Selector() as selector:
        p = selector._selector  # by the name that the standard selectors have for it
        assert isinstance(p, RecordingPoll)
        assert selector.select(seconds) == []
    if seconds is None or seconds == math.inf:
        assert p.asked == [None]
    elif seconds <= 0:
        assert p.asked == [0]
    else:
        # As poll() rounds it: in nanoseconds, up.
        [milliseconds] = p.asked
        more = math.ceil(Fraction(milliseconds) * 10**6) - math.ceil(Fraction(seconds) * 10**9)
        assert 0 <= more < 10**6
        assert type(milliseconds) in (int, float)


@pytest.mark.parametrize("timeout", [None, 0, 0.5, -1, math.inf])
def test_ppoll_without_a_mask_is_the_poll_of_a_subclass(timeout: Any) -> None:
    p = RecordingPoll()
    assert p.ppoll(timeout) == []
    assert p.ppoll(timeout, None) == []
    assert p.asked == [timeout, timeout]


@pytest.mark.parametrize("seconds", [None, float("inf"), 60, 1e9])
def test_long_waits_end_with_an_event(selector: PollSelector, pair: Pair, seconds: Any) -> None:
    left, right = pair
    key = selector.register(left, EVENT_READ)
    timer = threading.Timer(0.02, right.send, (b"x",))
    timer.start()
    assert selector.select(seconds) == [(key, EVENT_READ)]
    timer.join(PATIENCE)


@pytest.mark.parametrize(
    ("seconds", "exception", "words"),
    [
        ("1", TypeError, "real number of seconds or None, not '1'"),
        (float("nan"), ValueError, "number of seconds, not nan"),
        (1e300, OverflowError, "1e\\+300 seconds is too long: expected at most 9223372036$"),
        (9223372037, OverflowError, "9223372037 seconds is too long"),
    ],
)
def test_a_bad_timeout_is_refused(
    selector: PollSelector, seconds: Any, exception: type[Exception], words: str
) -> None:
    with pytest.raises(exception, match=words):
        selector.select(seconds)


@contextlib.contextmanager
def alarm(action: Any, after: float, interval: float = 0) -> Iterator[None]:
    def handler(_number: int, _frame: FrameType | None) -> None:
        action()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, after, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("exception", [InterruptedError, KeyboardInterrupt, ZeroDivisionError])
def test_what_a_signal_handler_raises_leaves_select(
    selector: PollSelector, pair: Pair, exception: type[BaseException]
) -> None:
    """The standard library swallows an InterruptedError (CPython issue 120001)."""

    def action() -> None:
        raise exception

    selector.register(pair[0], EVENT_READ)
    with alarm(action, 0.02), pytest.raises(exception):
        selector.select()
    assert selector.select(0) == []


def test_a_handler_that_returns_does_not_end_the_wait(selector: PollSelector, pair: Pair) -> None:
    left, right = pair
    key = selector.register(left, EVENT_READ)
    calls: list[None] = []

    def action() -> None:
        calls.append(None)
        if len(calls) == 3:
            right.send(b"x")

    with alarm(action, 0.01, 0.01):
        assert selector.select() == [(key, EVENT_READ)]
    assert len(calls) >= 3


def test_a_wait_goes_on_with_what_a_handler_registered(selector: PollSelector, pair: Pair) -> None:
    left, right = pair
    keys: list[selectors.SelectorKey] = []
    selector.register(left, EVENT_READ)

    def action() -> None:
        selector.unregister(left)
        keys.append(selector.register(right, EVENT_WRITE))

    with alarm(action, 0.02):
        assert selector.select(PATIENCE) == [(keys[0], EVENT_WRITE)]


@pytest.mark.usefixtures("often_switching")
@pytest.mark.parametrize("selecting", [1, 2], ids=["one selects", "two select"])
def test_other_threads_may_change_keys_while_some_select(
    selector: PollSelector, beside: int, selecting: int
) -> None:
    """Every change has a number: what it is now must be found, what it was before must not."""
    names = "abc"
    done = threading.Event()
    failures: list[object] = []
    # The number of each thread's key that was there all the time since, and that is ready; and
    # the highest of those whose key was gone by then.
    now, gone = dict.fromkeys(names, 0), dict.fromkeys(names, 0)

    def change(name: str) -> None:
        number = 0
        while not done.is_set():
            reading, writing = os.pipe()
            number += 4
            selector.register(writing, EVENT_READ, (name, number - 3))
            selector.modify(writing, EVENT_WRITE, (name, number - 2))
            gone[name], now[name] = number - 3, number - 2
            time.sleep(0)
            now[name] = 0
            selector.modify(writing, EVENT_WRITE, (name, number - 1))
            gone[name], now[name] = number - 2, number - 1
            time.sleep(0)
            now[name] = 0
            selector.modify(writing, 0, (name, number))
            gone[name] = number - 1
            selector.unregister(writing)
            gone[name] = number
            os.close(reading)
            os.close(writing)

    def select() -> None:
        looks, deadline = 0, time.monotonic() + PATIENCE
        while looks < 1000 and time.monotonic() < deadline:
            gone_before, before = gone.copy(), now.copy()
            try:
                found = selector.select(0)
            except RuntimeError as error:
                if selecting == 1 or "concurrent" not in str(error):
                    failures.append(error)
                    return
                continue
            after = now.copy()
            # Of one thread there may be two: a number closed and opened since is another's by now.
            data = [key.data for key, _ in found if key.data != "beside"]
            lost = [n for n in names if before[n] == after[n] != 0 and (n, after[n]) not in data]
            stale = [(name, number) for name, number in data if number <= gone_before[name]]
            if lost or stale or len(found) != len(data) + beside:
                failures.append((lost, stale, data, len(found), gone_before, before, after))
                return
            looks += sum(map(bool, before.values())) > 0

    def run(target: Callable[..., None], *arguments: Any) -> None:
        try:
            target(*arguments)
        except BaseException as error:
            failures.append(error)

    changing = [threading.Thread(target=run, args=(change, name)) for name in names]
    selectors_ = [threading.Thread(target=run, args=(select,)) for _ in range(selecting)]
    for thread in (*changing, *selectors_):
        thread.start()
    for thread in selectors_:
        thread.join(4 * PATIENCE)
    done.set()
    for thread in changing:
        thread.join(PATIENCE)
    assert failures == []
    assert len(selector.get_map()) == beside
    assert settled(selector)


@pytest.mark.usefixtures("often_switching")
def test_keys_are_listed_found_and_closed_while_other_threads_change_them() -> None:
    done = threading.Event()
    failures: list[BaseException] = []
    selector = PollSelector()
    # Never open: there is nothing to be ready.
    fickle = [Fickle(fd) for fd in range(100_000, 100_300)]

    def change(first: int) -> None:
        try:
            while not done.is_set():
                for fd in range(first, first + 50):
                    selector.register(fd, EVENT_READ)
                for fd in range(first, first + 50):
                    with contextlib.suppress(KeyError):  # closed
                        selector.unregister(fd)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=change, args=(first,)) for first in (200_000, 300_000)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            registered = selector.get_map()
            for file in fickle:
                file.error = None
                selector.register(file, EVENT_READ)
            for file in fickle:
                file.error = OSError(errno.EBADF, "closed")
                assert selector.get_key(file).fileobj is file
                assert file.fd in list(registered)
                assert len(selector.select(0)) >= len(fickle)
            selector.close()
            assert not {file.fd for file in fickle} & {*registered}
            # Another one for the same threads, which may be in the middle of a change of this.
            selector = PollSelector()
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
    selector.close()
    assert failures == []
    assert settled(selector)


def test_a_descriptor_whose_key_is_gone_is_passed_over(selector: PollSelector, pair: Pair) -> None:
    """As when another thread unregisters it between the wait and its result."""
    left, right = pair
    first, second = (selector.register(end, EVENT_WRITE) for end in (left, right))
    del selector._fd_to_key[first.fd]
    assert selector.select(0) == [(second, EVENT_WRITE)]


class OtherPoll(pypoll.Poll):
    """Called by its methods, where Poll itself is called past them."""


class OtherSelector(PollSelector):
    _selector_cls = OtherPoll


@pytest.mark.parametrize("kind", [PollSelector, OtherSelector])
def test_a_key_changes_whose_descriptor_another_thread_took_out_of_the_set(
    kind: type[PollSelector], pair: Pair
) -> None:
    """As select() does when it has seen no key, and register() comes in between."""
    left, right = pair
    with kind() as selector:
        selector.register(left, EVENT_WRITE)
        selector.select(0)
        selector._selector.unregister(left)
        selector._unsettled.add(left.fileno())
        changed = selector.modify(left, EVENT_READ, "new")
        right.send(b"x")
        assert selector.select(0) == [(changed, EVENT_READ)]
        assert settled(selector)


@pytest.mark.skipif(PYPY, reason="there, pairs are made anew, with nothing kept")
def test_the_kept_pairs_do_not_grow_with_time(selector: PollSelector, pair: Pair) -> None:
    """By a private name: else it would take hours for the memory to be noticed."""
    left, right = pair
    reading, writing = os.pipe()
    fds = [os.dup(writing) for _ in range(10)]
    for fd in fds:
        selector.register(fd, EVENT_WRITE)
    selector.register(left, EVENT_READ | EVENT_WRITE)
    for turn in range(300):
        for _ in range(3):
            right.send(b"x")
            assert selector.select(0)[-1][1] == EVENT_READ | EVENT_WRITE
            left.recv(1)
            assert selector.select(0)[-1][1] == EVENT_WRITE
        assert selector._pairs is not None
        # Of each what it is ready for, and of one something else at times.
        assert len(selector._pairs) == len(fds) + 2
        if turn % 2:
            selector.modify(fds[0], EVENT_WRITE, turn)
    for fd in (reading, writing, *fds):
        os.close(fd)


def test_of_several_file_objects_the_closed_one_is_found(selector: PollSelector) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    keys = [selector.register(left, EVENT_READ) for left, _ in pairs]
    for left, right in pairs:
        left.close()
        right.close()
    assert selector.unregister(pairs[1][0]) is keys[1]
    assert selector.unregister(pairs[0][0]) is keys[0]


class Incomparable:
    def __eq__(self, _other: object) -> bool:
        raise AssertionError("an array of numbers, say, has no truth value")

    __hash__ = object.__hash__


def test_a_key_that_another_thread_has_changed_meanwhile_is_compared_by_identity(
    pair: Pair,
) -> None:
    """A change is over in the set, and before it is in the selector comes another one."""

    class Interrupted(pypoll.Poll):
        def register(self, *arguments: Any) -> None:
            super().register(*arguments)
            if not changed:
                changed.append(selector.modify(pair[0], EVENT_WRITE, Incomparable()))

    class Selector(PollSelector):
        _selector_cls = Interrupted

    changed: list[selectors.SelectorKey] = []
    with Selector() as selector:
        key = selector.register(pair[0], EVENT_WRITE, Incomparable())
        assert selector.get_key(pair[0]) is changed[0] is not key
        [(ready, _)] = selector.select(0)
        assert ready is changed[0]


class Broken:
    def __index__(self) -> int:
        raise TypeError("broken")


def test_what_the_index_of_events_raises_leaves_register(
    selector: PollSelector, pipe: tuple[int, int]
) -> None:
    with pytest.raises(TypeError, match="broken"):
        selector.register(pipe[0], Broken())  # type: ignore[arg-type]
    assert len(selector.get_map()) == 0


# ---- modify(f, 0), a pause -----------------------------------------------------------------


@pytest.mark.parametrize("looked", [False, True], ids=["at once", "after a select()"])
def test_modify_to_no_events_is_a_pause_until_the_next_modify(
    selector: PollSelector, looked: bool
) -> None:
    """Of a hung-up pipe, which any mask would report, so that a loop would spin."""
    reading, writing = os.pipe()
    os.close(writing)
    first = selector.register(reading, EVENT_READ, "data")
    assert selector.select() == [(first, EVENT_READ)]
    for events in (EVENT_READ, EVENT_HANGUP):
        paused = selector.modify(reading, 0, "data")
        assert paused == selectors.SelectorKey(reading, reading, 0, "data")
        assert selector.get_key(reading) is selector.get_map()[reading] is paused
        assert list(selector.get_map()) == [reading]
        assert selector.modify(reading, 0, "data") is paused
        other = selector.modify(reading, 0, "other")
        assert other == selectors.SelectorKey(reading, reading, 0, "other")
        with pytest.raises(KeyError, match="already registered"):
            selector.register(reading, EVENT_READ)
        if looked:
            begun = time.monotonic_ns()
            assert selector.select(0.05) == []
            assert time.monotonic_ns() - begun >= 50_000_000
            assert selector.select(0) == []
        resumed = selector.modify(reading, events, "data")
        for _ in range(2):
            assert selector.select() == [(resumed, events)]
        assert settled(selector)
    os.close(reading)


@pytest.mark.parametrize("looked", [False, True], ids=["at once", "after a select()"])
def test_what_is_paused_is_unregistered_and_closed_as_all_is(pair: Pair, looked: bool) -> None:
    left, right = pair
    with PollSelector() as selector:
        for end in pair:
            selector.register(end, EVENT_WRITE)
            selector.modify(end, 0)
        if looked:
            assert selector.select(0) == []
        assert selector.unregister(left).events == 0
        with pytest.raises(KeyError, match="is not registered"):
            selector.modify(left, EVENT_WRITE)
        assert settled(selector)
        again = selector.register(left, EVENT_WRITE)
        assert selector.select(0) == [(again, EVENT_WRITE)]
        registered = selector.get_map()
        selector.close()
        assert len(registered) == 0
        assert right not in registered
        assert settled(selector)


# ---- EVENT_HANGUP --------------------------------------------------------------------------

# Makes something that hangs up once the function is called.
Made = tuple[Any, Callable[[], object]]


def pipe_without_writer(stack: contextlib.ExitStack) -> Made:
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    return reading, lambda: os.close(writing)


def pipe_without_reader(stack: contextlib.ExitStack) -> Made:
    reading, writing = os.pipe()
    stack.callback(os.close, writing)
    return writing, lambda: os.close(reading)


def socket_without_peer(stack: contextlib.ExitStack) -> Made:
    left, right = map(stack.enter_context, socket.socketpair())
    return left, right.close


def socket_half_closed(stack: contextlib.ExitStack) -> Made:
    left, right = map(stack.enter_context, socket.socketpair())
    return left, lambda: right.shutdown(socket.SHUT_WR)


def connected(stack: contextlib.ExitStack) -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        server = stack.enter_context(listener.accept()[0])
    return client, server


def tcp_without_peer(stack: contextlib.ExitStack) -> Made:
    client, server = connected(stack)
    return client, server.close


def tcp_half_closed(stack: contextlib.ExitStack) -> Made:
    client, server = connected(stack)
    return client, lambda: server.shutdown(socket.SHUT_WR)


def tcp_reset(stack: contextlib.ExitStack) -> Made:
    client, server = connected(stack)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return client, server.close


def terminal_without_slave(stack: contextlib.ExitStack) -> Made:
    master, slave = os.openpty()
    stack.callback(os.close, master)
    return master, lambda: os.close(slave)


def closed_descriptor(stack: contextlib.ExitStack) -> Made:
    reading, writing = os.pipe()
    stack.callback(os.close, writing)
    # A number which nothing else takes meanwhile.
    fd = fcntl.fcntl(reading, fcntl.F_DUPFD, 500)
    os.close(reading)
    return fd, lambda: os.close(fd)


HANG_UPS: list[Any] = [
    pipe_without_writer,
    pipe_without_reader,
    socket_without_peer,
    tcp_reset,
    pytest.param(
        terminal_without_slave,
        marks=pytest.mark.skipif(sys.platform == "darwin", reason="poll() refuses devices there"),
    ),
    closed_descriptor,
    *(
        pytest.param(
            made,
            marks=pytest.mark.skipif(
                not hasattr(pypoll, "POLLRDHUP"), reason="the system does not report a half-close"
            ),
        )
        for made in (socket_half_closed, tcp_without_peer, tcp_half_closed)
    ),
]


@pytest.mark.parametrize("made", HANG_UPS)
def test_a_hang_up_wakes_who_asks_for_it_alone(
    selector: PollSelector, made: Callable[[contextlib.ExitStack], Made]
) -> None:
    with contextlib.ExitStack() as stack:
        fileobj, hang_up = made(stack)
        key = selector.register(fileobj, EVENT_HANGUP, "data")
        assert selector.select(0) == []
        timer = threading.Timer(0.02, hang_up)
        timer.start()
        if made is closed_descriptor:
            timer.join()  # a wait that has begun goes on with the file
        assert selector.select(PATIENCE) == [(key, EVENT_HANGUP)]
        timer.join()
        assert selector.select(None) == [(key, EVENT_HANGUP)]
        selector.unregister(key.fd)


@pytest.mark.parametrize("made", HANG_UPS)
@pytest.mark.parametrize("asked", range(EVENT_HANGUP, 2 * EVENT_HANGUP))
def test_a_hang_up_is_reported_apart_from_readiness(
    selector: PollSelector, made: Callable[[contextlib.ExitStack], Made], asked: int
) -> None:
    with contextlib.ExitStack() as stack:
        fileobj, hang_up = made(stack)
        key = selector.register(fileobj, asked)
        ready = [(key, EVENT_WRITE)] if pypoll.poll_fd(fileobj, pypoll.POLLOUT, 0) else []
        assert selector.select(0) == (ready if asked & EVENT_WRITE else [])
        hang_up()
        # The one end of a connection does not see at once what became of the other.
        assert pypoll.poll_fd(key.fd, getattr(pypoll, "POLLRDHUP", 0), PATIENCE * 1000)
        event = pypoll.poll_fd(key.fd, pypoll.POLLIN | pypoll.POLLOUT, 0)
        readiness = (EVENT_READ if event & pypoll.POLLIN else 0) | (
            EVENT_WRITE if event & pypoll.POLLOUT else 0
        )
        assert selector.select() == [(key, EVENT_HANGUP | readiness & asked)]
        selector.unregister(key.fd)


@pytest.mark.parametrize("made", HANG_UPS)
@pytest.mark.parametrize("asked", [EVENT_READ, EVENT_WRITE, EVENT_READ | EVENT_WRITE])
def test_who_does_not_ask_for_a_hang_up_is_told_what_the_standard_selector_tells(
    selector: PollSelector, made: Callable[[contextlib.ExitStack], Made], asked: int
) -> None:
    with contextlib.ExitStack() as stack, selectors.PollSelector() as theirs:
        fileobj, hang_up = made(stack)
        keys = [either.register(fileobj, asked) for either in (selector, theirs)]
        assert selector.select(0) == theirs.select(0)
        hang_up()
        assert pypoll.poll_fd(keys[0].fd, getattr(pypoll, "POLLRDHUP", 0), PATIENCE * 1000)
        assert selector.select(0) == theirs.select(0) != []
        for either in (selector, theirs):
            either.unregister(keys[0].fd)


def test_to_ask_for_a_hang_up_does_not_wake_for_readiness(
    selector: PollSelector, pair: Pair
) -> None:
    """Not for out-of-band data either; and data is reported without a hang-up."""
    left, right = pair
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


def test_hang_ups_can_be_asked_for_and_no_more_asked_for(
    selector: PollSelector, pair: Pair, beside: int
) -> None:
    left, right = pair
    selector.register(left, EVENT_HANGUP)
    assert selector.select(0)[beside:] == []
    right.close()
    for events, expected in [
        (EVENT_READ, EVENT_READ),
        (EVENT_HANGUP, EVENT_HANGUP),
        (EVENT_READ | EVENT_HANGUP, EVENT_READ | EVENT_HANGUP),
        (EVENT_URGENT, EVENT_URGENT),
        (EVENT_URGENT | EVENT_HANGUP, EVENT_HANGUP),
        (EVENT_HANGUP, EVENT_HANGUP),
        (EVENT_WRITE, EVENT_WRITE),
    ]:
        key = selector.modify(left, events)
        assert selector.select()[beside:] == [(key, expected)]
        assert selector.select()[beside:] == [(key, expected)]


def test_a_connection_that_fails_is_a_hang_up_and_writable(selector: PollSelector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(address)
        key = selector.register(client, EVENT_WRITE | EVENT_HANGUP)
        assert selector.select(PATIENCE) == [(key, EVENT_WRITE | EVENT_HANGUP)]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


# ---- A loop of asyncio ---------------------------------------------------------------------


def recording(kind: type[Any]) -> tuple[Any, list[tuple[Any, ...]]]:
    """Return a selector, and the list of what is called of it."""
    calls: list[tuple[Any, ...]] = []

    class Recording(kind):  # type: ignore[misc]
        def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
            calls.append(("register", events))
            return super().register(fileobj, events, data)

        def modify(self, fileobj: Any, events: int, data: Any = None) -> Any:
            calls.append(("modify", events))
            return super().modify(fileobj, events, data)

        def unregister(self, fileobj: Any) -> Any:
            calls.append(("unregister",))
            return super().unregister(fileobj)

    return Recording(), calls


def test_a_loop_asks_of_it_what_it_asks_of_the_standard_selector(pair: Pair) -> None:
    left, right = pair
    left.setblocking(False)

    def asked_of(kind: type[Any]) -> tuple[list[tuple[Any, ...]], list[str]]:
        selector, calls = recording(kind)
        loop = asyncio.SelectorEventLoop(selector)
        happened: list[str] = []
        steps: list[Callable[[], object]] = [
            lambda: loop.add_reader(left, happened.append, "read"),
            lambda: loop.add_writer(left, happened.append, "written"),
            lambda: right.send(b"x"),
            lambda: loop.remove_writer(left),
            lambda: left.recv(1),
            lambda: loop.add_writer(left, happened.append, "written again"),
            lambda: loop.remove_reader(left),
            lambda: loop.remove_reader(left),
            lambda: loop.remove_writer(left),
            lambda: loop.remove_writer(left),
        ]
        try:
            for step in steps:
                happened.append("next")
                step()
                # Twice: it selects, and then calls what is ready.
                for _ in range(2):
                    loop.call_soon(loop.stop)
                    loop.run_forever()
        finally:
            loop.close()
        return calls, happened

    ours = asked_of(PollSelector)
    assert all(events in (1, 2, 3) for _, *rest in ours[0] for events in rest)
    assert ours == asked_of(selectors.PollSelector)


def test_who_watches_for_a_hang_up_does_not_disturb_a_loop(
    selector: PollSelector, pair: Pair
) -> None:
    left, right = pair
    for end in pair:
        end.setblocking(False)
    loop = asyncio.SelectorEventLoop(PollSelector())

    async def main() -> None:
        key = selector.register(left, EVENT_HANGUP)
        reading = asyncio.ensure_future(loop.sock_recv(left, 10))
        await asyncio.sleep(0)
        for _ in range(20):
            assert selector.select(0) == []
            await loop.sock_sendall(right, b"x")
            assert selector.select(0) == []
            assert await reading == b"x"
            reading = asyncio.ensure_future(loop.sock_recv(left, 10))
            await asyncio.sleep(0)
        await loop.sock_sendall(left, b"y")
        assert await loop.sock_recv(right, 10) == b"y"
        right.close()
        assert selector.select() == [(key, EVENT_HANGUP)]
        assert await reading == b""

    try:
        loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    finally:
        loop.close()
