"""Arguments that act, lie or raise while pypoll converts them.

If a method of an argument changes the object, the change takes effect before the call.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sysconfig
from collections.abc import Iterator
from fractions import Fraction
from selectors import SelectorKey
from typing import Any, Callable

import pytest

from descriptors import Descriptors
from pypoll import EVENT_READ, EVENT_WRITE, POLLIN, POLLOUT, PollSelector
from support import (
    NEVER_OPENED,
    PYPY,
    FileLike,
    Index,
    LyingInt,
    Pipe,
    Refusal,
    contents,
    rows,
    set_of,
)

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Both:
    """A Poll and a PollSelector with the same two descriptors; two others are spare."""

    def __init__(self, pipe: Pipe, spare: Pipe) -> None:
        self.reading, self.writing = pipe
        self.spare, self.spare_writing = spare
        self.p = set_of({self.writing: POLLOUT, NEVER_OPENED: 0, self.reading: POLLIN})
        self.selector = PollSelector()
        self.selector.register(self.writing, EVENT_WRITE, "writing")
        self.selector.register(self.reading, EVENT_READ, "reading")

    def state(self) -> object:
        """Return everything that a user can see of the set and the selector."""
        return (
            list(contents(self.p).items()),
            self.p.poll(0),
            [(fd, key.events, key.data) for fd, key in self.selector.get_map().items()],
            [(key.fd, events) for key, events in self.selector.select(0)],
        )


# ---- Objects that act ------------------------------------------------------------------------


def register_others(both: Both) -> None:
    both.p.register(both.spare_writing, POLLOUT)
    for fd in range(NEVER_OPENED + 1, NEVER_OPENED + 300):
        both.p.register(fd, 0)
    with contextlib.suppress(KeyError):
        both.selector.register(both.spare_writing, EVENT_WRITE)


def unregister(both: Both) -> None:
    with contextlib.suppress(KeyError):
        both.p.unregister(both.reading)
    with contextlib.suppress(KeyError):
        both.selector.unregister(both.reading)


def move_to_the_end(both: Both) -> None:
    unregister(both)
    both.p.register(both.reading, POLLIN)
    both.selector.register(both.reading, EVENT_READ, "moved")


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


# Each makes one argument with *of*: the value itself, or an object that acts.
Call = Callable[[Both, Callable[[Any], Any]], Any]
SIGNAL = int(signal.SIGUSR1)
CALLS: dict[str, Call] = {
    "register": lambda both, of: both.p.register(of(both.reading), POLLOUT),
    "register a new one": lambda both, of: both.p.register(of(both.spare)),
    "register with a mask": lambda both, of: both.p.register(both.reading, of(POLLOUT)),
    "modify": lambda both, of: both.p.modify(of(both.reading), 0),
    "modify with a mask": lambda both, of: both.p.modify(both.reading, of(0)),
    "unregister": lambda both, of: both.p.unregister(of(both.reading)),
    "in": lambda both, of: of(both.reading) in both.p,
    "[]": lambda both, of: both.p[of(both.reading)],
    "poll": lambda both, of: both.p.poll(of(0)),
    "ppoll with a mask": lambda both, of: both.p.ppoll(0, of({SIGNAL})),
    "ppoll with a signal": lambda both, of: both.p.ppoll(0, [of(SIGNAL)]),
    "selector.register": lambda both, of: both.selector.register(of(both.spare), EVENT_READ),
    "selector.register again": lambda both, of: both.selector.register(
        of(both.reading), EVENT_READ
    ),
    "selector.modify": lambda both, of: both.selector.modify(of(both.reading), EVENT_WRITE),
    "selector.unregister": lambda both, of: both.selector.unregister(of(both.reading)),
    "selector.get_key": lambda both, of: both.selector.get_key(of(both.reading)),
    "selector.select": lambda both, of: both.selector.select(of(0)),
}


def outcome(both: Both, call: Call, of: Callable[[Any], Any]) -> object:
    """Return what the call returns, or what type of exception it raises."""
    try:
        answer = call(both, of)
    except Exception as error:
        return type(error)
    # Without the file object, which differs.
    return answer[1:] if isinstance(answer, SelectorKey) else answer


@pytest.mark.parametrize("act", [register_others, unregister, move_to_the_end])
@pytest.mark.parametrize("call", rows(CALLS))
def test_what_an_argument_does_takes_effect_before_the_call(
    pipe: Pipe, ready: int, descriptors: Descriptors, call: Call, act: Callable[[Both], None]
) -> None:
    assert ready == pipe.reading
    spare = descriptors.pipe()
    acted, acting = Both(pipe, spare), Both(pipe, spare)
    act(acted)
    expected = outcome(acted, call, lambda value: value)
    assert outcome(acting, call, lambda value: Acting(value, lambda: act(acting))) == expected
    assert acting.state() == acted.state()


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
