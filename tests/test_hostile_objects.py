"""Arguments that act, lie or raise while pypoll converts them.

If a method of an argument changes the object, the change takes effect before the call.
"""

from __future__ import annotations

import gc
import signal
import sysconfig
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Callable

import pytest

from pypoll import EVENT_READ, EVENT_WRITE, POLLIN, POLLOUT, Poll, PollSelector
from support import (
    HAS_PPOLL,
    PYPY,
    FileLike,
    Index,
    LyingInt,
    Pipe,
    Refusal,
    outcome,
    set_of,
)

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


# ---- Objects that act ------------------------------------------------------------------------


class Acting:
    """Acts whenever it is converted to a descriptor, an int or an iterator."""

    def __init__(self, answer: Any, act: Callable[[], object]) -> None:
        self.answer = answer
        self.act = act

    def _convert(self) -> Any:
        self.act()
        return self.answer

    fileno = __index__ = _convert

    def __iter__(self) -> Iterator[Any]:
        return iter(self._convert())


def test_a_change_by_an_argument_of_poll_takes_effect_before_the_call(
    pipe: Pipe, ready: int
) -> None:
    p = Poll()

    def acting(value: object) -> Any:
        return Acting(value, lambda: p.unregister(ready))

    others, number = [(pipe.writing, POLLOUT)], int(signal.SIGUSR1)
    after_ppoll = others if HAS_PPOLL else NotImplementedError
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: p.modify(acting(ready), 0), FileNotFoundError),
        (lambda: p.modify(ready, acting(0)), FileNotFoundError),
        (lambda: p.unregister(acting(ready)), KeyError),
        (lambda: acting(ready) in p, False),
        (lambda: p[acting(ready)], KeyError),
        (lambda: p.poll(acting(0)), others),
        (lambda: p.ppoll(0, acting({number})), after_ppoll),
        (lambda: p.ppoll(0, [acting(number)]), after_ppoll),
    ]
    for call, expected in calls:
        p.register(ready, POLLIN)
        p.register(pipe.writing, POLLOUT)
        assert outcome(call) == expected
        assert list(p) == [pipe.writing]
    for arguments in (acting(ready), POLLIN), (ready, acting(POLLIN)):
        p.register(ready)
        p.register(*arguments)
        assert list(p) == [pipe.writing, ready]


def test_a_change_by_an_argument_of_a_selector_takes_effect_before_the_call(
    selector: PollSelector, pipe: Pipe, ready: int
) -> None:
    def acting(value: object) -> Any:
        return Acting(value, lambda: selector.unregister(ready))

    other = selector.register(pipe.writing, EVENT_WRITE)
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: selector.modify(acting(ready), EVENT_WRITE), KeyError),
        (lambda: selector.modify(ready, acting(EVENT_WRITE)), KeyError),
        (lambda: selector.unregister(acting(ready)), KeyError),
        (lambda: selector.get_key(acting(ready)), KeyError),
        (lambda: selector.select(acting(0)), [(other, EVENT_WRITE)]),
    ]
    for call, expected in calls:
        selector.register(ready, EVENT_READ)
        assert outcome(call) == expected
        assert list(selector.get_map()) == [pipe.writing]
    selector.register(ready, EVENT_READ)
    key = selector.register(acting(ready), EVENT_READ, "again")
    assert selector.select(0) == [(other, EVENT_WRITE), (key, EVENT_READ)]


@pytest.mark.skipif(PYPY or FREE_THREADED, reason="collections do not follow the threshold")
def test_a_collection_whose_callbacks_use_the_same_objects_disturbs_no_call(
    pipe: Pipe, many: list[int]
) -> None:
    """Callbacks run at any allocation: they change the set and the selector, and wait in them."""
    fds = many[:150]
    p, selector = set_of(dict.fromkeys(fds, POLLOUT)), PollSelector()
    keys = [(selector.register(fd, EVENT_WRITE), EVENT_WRITE) for fd in fds]
    expected = p.poll(0)
    failures: list[object] = []
    turns = 0

    def act(_phase: str, _info: object) -> None:
        nonlocal turns
        turns += 1
        try:
            if turns % 2:
                p.register(pipe.reading, 0)
                selector.register(pipe.reading, EVENT_READ)
            else:
                p.unregister(pipe.reading)
                selector.unregister(pipe.reading)
            if p.poll(0) != expected or len(selector.select(0)) != len(keys):
                failures.append(turns)
        except BaseException as error:
            failures.append(error)

    threshold = gc.get_threshold()
    try:
        gc.callbacks.append(act)
        gc.set_threshold(1, 10**6, 10**6)
        for turn in range(100):
            assert p.poll(0) == p.poll(Fraction(1, 1000)) == expected
            assert selector.select(0) == keys
            p.register(FileLike(fds[0]), Index(POLLOUT))
            p.modify(FileLike(fds[1]), POLLOUT)
            assert [fd for fd in p if fd != pipe.reading] == fds
            keys[0] = (selector.modify(fds[0], EVENT_WRITE, turn), EVENT_WRITE)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(act)
    assert failures == []
    assert turns > 100


# ---- Objects that lie or raise ---------------------------------------------------------------


def test_a_selector_takes_the_value_of_events_that_lie(selector: PollSelector, pipe: Pipe) -> None:
    events = LyingInt(EVENT_WRITE)
    key = selector.register(pipe.writing, events)
    assert selector.select(0) == [(key, EVENT_WRITE)]
    assert selector.modify(pipe.writing, events) is key
    for value in LyingInt(16), LyingInt(-1):
        Refusal(value, ValueError, ("Invalid events",)).check(selector.modify, pipe.writing, value)
    for bad in "x", None, 1.0:
        Refusal(bad, TypeError, ("events must",)).check(selector.modify, pipe.writing, bad)
    assert selector.get_key(pipe.writing) is key


class Silent(FileLike):
    """Has a descriptor; every method but fileno() raises."""

    def _refuse(self, *_arguments: object) -> Any:
        raise AssertionError("only fileno() may be called")

    __eq__ = __ne__ = __lt__ = __hash__ = __bool__ = __len__ = __iter__ = _refuse
    __contains__ = __index__ = __int__ = __repr__ = __str__ = __format__ = _refuse


def test_a_selector_calls_nothing_but_fileno(selector: PollSelector, pipe: Pipe) -> None:
    fileobj, data = Silent(pipe.writing), Silent(-1)
    selector.register(Silent(pipe.reading), EVENT_READ)
    key = selector.register(fileobj, EVENT_WRITE, data)
    assert selector.get_key(fileobj) is selector.get_map()[fileobj] is key
    with pytest.raises(KeyError, match="already registered"):
        selector.register(fileobj, EVENT_WRITE)
    assert selector.modify(fileobj, EVENT_WRITE, data) is key
    changed = selector.modify(fileobj, EVENT_WRITE, Silent(-1))
    assert changed is not key
    assert [ready for ready, _ in selector.select(0)] == [changed]
    fileobj.answer = -1
    assert selector.unregister(fileobj) is changed
    with pytest.raises(ValueError, match="Invalid file object"):
        selector.get_key(fileobj)
