"""PollSelector: the contract of selectors.BaseSelector, and what it has over the library's own."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any, Callable

import pytest

import pypoll
from pypoll import EVENT_READ, EVENT_URGENT, EVENT_WRITE, PollSelector
from pypoll.library import lib
from pypoll.selector import _Pairs

PATIENCE = 30.0
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
    """Tell whether set and keys agree, as they must when nothing is going on."""
    keys = selector._fd_to_key
    masks = {fd: selector._selector[fd] for fd in selector._selector}
    return masks.keys() == keys.keys() and not selector._unsettled


def test_it_is_a_selector_of_the_standard_library(selector: PollSelector) -> None:
    assert isinstance(selector, selectors.BaseSelector)
    assert (EVENT_READ, EVENT_WRITE) == (selectors.EVENT_READ, selectors.EVENT_WRITE)
    assert EVENT_URGENT not in (EVENT_READ, EVENT_WRITE, EVENT_READ | EVENT_WRITE)


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


@pytest.mark.parametrize("events", [0, 8, EVENT_READ | 8, -1, 1 << 70])
def test_invalid_events_are_refused(selector: PollSelector, pair: Pair, events: int) -> None:
    with pytest.raises(ValueError, match=r"Invalid events: .*expected EVENT_READ"):
        selector.register(pair[0], events)
    assert len(selector.get_map()) == 0
    selector.register(pair[0], EVENT_READ)
    with pytest.raises(ValueError, match="Invalid events"):
        selector.modify(pair[0], events)
    assert selector.get_key(pair[0]).events == EVENT_READ
    assert settled(selector)


@pytest.mark.parametrize("fileobj", [-1, 2**40, "x", None, 1.5, object()])
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


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 300])
def test_what_is_ready_comes_in_the_order_of_registration(
    selector: PollSelector, count: int
) -> None:
    pipes = [os.pipe() for _ in range(count)]
    random.Random(count).shuffle(pipes)
    for number, (reading, writing) in enumerate(pipes):
        selector.register(reading, EVENT_READ, number)
        os.write(writing, b"x")
    for _ in range(2):
        assert [(key.data, events) for key, events in selector.select(0)] == [
            (number, EVENT_READ) for number in range(count)
        ]
    for reading, writing in pipes:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("asked", range(1, 8))
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
        deadline = time.monotonic() + PATIENCE
        while selector.select(0) != [(key, asked)] and time.monotonic() < deadline:
            time.sleep(0.001)
        assert selector.select(0) == [(key, asked)]


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
    selector: PollSelector, pair: Pair
) -> None:
    left, right = pair
    right.send(b"x")
    selector.register(left, EVENT_READ, "first")
    assert [key.data for key, _ in selector.select(0)] == ["first"]
    second = selector.modify(left, EVENT_READ, "second")
    assert selector.select(0) == [(second, EVENT_READ)]
    both = selector.modify(left, EVENT_READ | EVENT_WRITE, "second")
    assert selector.select(0) == [(both, EVENT_READ | EVENT_WRITE)]
    selector.unregister(left)
    assert selector.select(0) == []
    again = selector.register(left.fileno(), EVENT_WRITE, "again")
    assert selector.select(0) == [(again, EVENT_WRITE)]
    assert selector.modify(left, EVENT_WRITE, "again") is again


class CountedPoll(pypoll.Poll):
    """Counts the changes of the set."""

    changes = 0

    def register(self, *arguments: Any) -> None:
        type(self).changes += 1
        super().register(*arguments)

    def modify(self, *arguments: Any) -> None:
        type(self).changes += 1
        super().modify(*arguments)


def test_a_change_of_data_alone_makes_no_change_to_the_set(pair: Pair) -> None:
    class Counting(PollSelector):
        _selector_cls = CountedPoll

    with Counting() as selector:
        selector.register(pair[0], EVENT_READ, 1)
        changes = CountedPoll.changes
        key = selector.modify(pair[0], EVENT_READ, 2)
        assert (key.data, CountedPoll.changes) == (2, changes)
        selector.modify(pair[0], EVENT_WRITE, 2)
        assert CountedPoll.changes == changes + 1


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


def test_zero_is_zero_for_the_set_too() -> None:
    asked: list[Any] = []

    class Recording(pypoll.Poll):
        def poll(self, timeout: Any = None, /) -> list[tuple[int, int]]:
            asked.append(timeout)
            return []

    class Selector(PollSelector):
        _selector_cls = Recording

    with Selector() as selector:
        assert selector.select(0) == []
    assert asked == [0]


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


def test_other_threads_may_change_keys_while_one_selects(selector: PollSelector) -> None:
    """An older key in the place of the present one would keep that one from being selected."""
    done = threading.Event()
    failures: list[str] = []
    seen: set[str] = set()

    def change(name: str) -> None:
        for number in range(200):
            left, right = socket.socketpair()
            with left, right:
                data = f"{name} {number}"
                selector.register(left, EVENT_WRITE, "not yet")
                selector.modify(left, EVENT_READ, data)
                right.send(b"x")
                deadline = time.monotonic() + PATIENCE
                while data not in seen:
                    if time.monotonic() > deadline:
                        failures.append(f"{data} was not selected")
                        return
                    time.sleep(0)
                selector.unregister(left)

    def select() -> None:
        while not done.is_set():
            for key, events in selector.select(0.001):
                if events & EVENT_READ:
                    seen.add(key.data)

    selecting = threading.Thread(target=select)
    changing = [threading.Thread(target=change, args=(name,)) for name in "abc"]
    for thread in (selecting, *changing):
        thread.start()
    for thread in changing:
        thread.join(4 * PATIENCE)
    done.set()
    selecting.join(PATIENCE)
    assert failures == []
    assert settled(selector)


def test_a_descriptor_whose_key_is_gone_is_passed_over(selector: PollSelector, pair: Pair) -> None:
    """As when another thread unregisters it between the wait and its result."""
    left, right = pair
    first, second = (selector.register(end, EVENT_WRITE) for end in (left, right))
    del selector._fd_to_key[first.fd]
    assert selector.select(0) == [(second, EVENT_WRITE)]


def test_a_key_changes_whose_descriptor_another_thread_took_out_of_the_set(
    selector: PollSelector, pair: Pair
) -> None:
    """As select() does when it has seen no key, and register() comes in between."""
    left, right = pair
    selector.register(left, EVENT_WRITE)
    selector._selector.unregister(left)
    selector._unsettled.add(left.fileno())
    changed = selector.modify(left, EVENT_READ, "new")
    right.send(b"x")
    assert selector.select(0) == [(changed, EVENT_READ)]
    assert settled(selector)


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="there, pairs are made anew, with nothing kept"
)
def test_the_kept_pairs_do_not_grow_with_time(selector: PollSelector) -> None:
    for _ in range(300):
        left, right = socket.socketpair()
        with left, right:
            other = selector.register(right, EVENT_WRITE)
            selector.register(left, EVENT_READ | EVENT_WRITE)
            selector.select(0)
            right.send(b"x")
            selector.select(0)
            selector.modify(left, EVENT_READ)
            selector.select(0)
            selector.unregister(left)
            selector.unregister(other.fileobj)
    assert len(selector._pairs) == 0
    assert sum(map(len, selector._pairs._seen.values())) < 20


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="there, pairs are made anew, with nothing kept"
)
def test_what_was_ready_before_is_given_in_the_same_pair(
    selector: PollSelector, pair: Pair
) -> None:
    for end in pair:
        selector.register(end, EVENT_WRITE)
    before = selector.select(0)
    for pair_before, pair_now in zip(before, selector.select(0)):
        assert pair_before is pair_now
    selector.unregister(pair[0])
    assert selector.select(0)[0] is before[1]


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


@pytest.mark.parametrize(
    "changed", [None, selectors.SelectorKey(5, 5, EVENT_READ, None)], ids=["gone", "an equal one"]
)
def test_a_pair_whose_key_changed_while_it_was_made_is_not_kept(
    changed: selectors.SelectorKey | None,
) -> None:
    class Changed(dict[int, selectors.SelectorKey]):
        """Another thread is always there first."""

        def get(self, _fd: int, _default: Any = None) -> Any:
            return changed

    key = selectors.SelectorKey(5, 5, EVENT_READ, None)
    pairs = _Pairs(Changed({5: key}))
    assert pairs[5, pypoll.POLLIN] == (key, EVENT_READ)
    assert len(pairs) == 0


class Broken:
    def __index__(self) -> int:
        raise TypeError("broken")


def test_what_the_index_of_events_raises_leaves_register(
    selector: PollSelector, pipe: tuple[int, int]
) -> None:
    with pytest.raises(TypeError, match="broken"):
        selector.register(pipe[0], Broken())  # type: ignore[arg-type]
    assert len(selector.get_map()) == 0
