"""What pypoll has beyond select.poll: a container, a class, PollEvent and more constants."""

from __future__ import annotations

import copy
import enum
import pickle
import platform
import select
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

import pypoll
from pypoll import POLLHUP, POLLIN, POLLNVAL, POLLOUT, Poll, PollEvent
from support import C_INT_MAX, NEVER_OPENED, Pipe, contents, ran, rows, set_of

EVERYWHERE = [
    *("POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL"),
    *("POLLRDNORM", "POLLRDBAND", "POLLWRNORM", "POLLWRBAND"),
]
ON_SOME_SYSTEMS = [
    *("POLLMSG", "POLLREMOVE", "POLLRDHUP", "POLLINIGNEOF", "POLLEXTEND", "POLLATTRIB"),
    *("POLLNLINK", "POLLWRITE", "POLLSTANDARD"),
]
HERE = [name for name in EVERYWHERE + ON_SOME_SYSTEMS if hasattr(pypoll, name)]


class Reactor(Poll):
    """A subclass with its own arguments and attributes, which overrides a method."""

    def __init__(self, name: str, *, size: int = 0) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.polls = 0

    def poll(self, timeout: Any = None, /) -> list[tuple[int, int]]:
        self.polls += 1
        return super().poll(timeout)


class Forgetful(Poll):
    """A subclass whose __init__ does not call that of Poll."""

    def __init__(self, name: str) -> None:
        self.name = name


class Copyable(Poll):
    """A subclass that restores object's way of making copies."""

    __reduce_ex__ = object.__reduce_ex__
    __reduce__ = object.__reduce__


MADE: dict[str, Callable[[], Poll]] = {
    "Poll": Poll,
    "own arguments": lambda: Reactor("r", size=3),
    "no super().__init__()": lambda: Forgetful("f"),
    "object's own copying": Copyable,
}


# ---- A container -----------------------------------------------------------------------------


def test_iteration_is_in_the_order_of_registration_even_if_the_set_changes_meanwhile() -> None:
    numbers = [7, C_INT_MAX, 0, *range(100, 400)]
    p = set_of(dict.fromkeys(numbers, 1))
    p.register(0, 0)
    p.modify(7, 0)
    seen = []
    for fd in p:
        assert type(fd) is int
        p.unregister(fd)
        p.register(fd // 2 + 1000)
        seen.append(fd)
    assert seen == numbers
    assert list(p) == list(dict.fromkeys(fd // 2 + 1000 for fd in numbers))
    with pytest.raises(KeyError) as caught:
        p[7]
    assert caught.value.args == (7,)


def test_iteration_and_repr_survive_another_threads_change_after_the_first_look() -> None:
    """By a length and a list that are wrong, as they are after such a change."""

    class Grown(Poll):
        def __len__(self) -> int:
            return 0

    class Shrunk(Poll):
        # Private, because nothing else removes a descriptor between two steps of repr().
        def _descriptors(self) -> list[int]:
            return [*super()._descriptors(), 123_456]

    grown, shrunk = Grown(), Shrunk()
    for fd in 5, 3, 4:
        grown.register(fd)
    assert list(grown) == [5, 3, 4]
    shrunk.register(5, 0)
    assert repr(shrunk) == f"<{Shrunk.__qualname__} of 2: 5: 0x0>"


def test_repr_names_the_class_the_size_and_up_to_eight_descriptors() -> None:
    p = set_of({3: POLLIN, 5: POLLIN | POLLOUT, 4: 0})
    assert repr(p) == str(p) == "<Poll of 3: 3: POLLIN, 5: POLLIN|POLLOUT, 4: 0x0>"
    assert repr(Reactor("x")) == "<Reactor of 0>"
    named = ", ".join(f"{fd}: POLLIN" for fd in range(8))
    for size, rest in (8, ""), (9, ", ..."):
        p = set_of(dict.fromkeys(range(size), POLLIN))
        assert repr(p) == f"<Poll of {size}: {named}{rest}>"


# ---- A class ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", rows(MADE))
def test_a_subclass_works_as_the_class_does(pipe: Pipe, make: Callable[[], Poll]) -> None:
    p = make()
    assert bool(p) is True
    p.register(pipe.writing, POLLOUT)
    p.register(pipe.reading)
    with open(pipe.reading, "rb", closefd=False) as file:
        assert file in p
    assert p.poll() == p.ppoll() == [(pipe.writing, POLLOUT)]
    p.modify(pipe.writing, 0)
    p.unregister(pipe.reading)
    assert p.poll(0) == []
    assert contents(p) == {pipe.writing: 0}


def test_a_subclass_may_have_attributes_and_override_methods() -> None:
    reactor = Reactor("r", size=3)
    reactor.extra = 1  # type: ignore[attr-defined]
    assert (reactor.name, reactor.size) == ("r", 3)
    assert reactor.poll(0) == reactor.ppoll(0) == reactor.ppoll(0, None) == []
    assert reactor.polls == 3


COPIES: list[Callable[[Any], object]] = [
    copy.copy,
    copy.deepcopy,
    *((lambda p, n=protocol: pickle.dumps([p], n)) for protocol in range(6)),
]


@pytest.mark.parametrize("make", rows(MADE))
def test_copying_and_pickling_raise_a_type_error(make: Callable[[], Poll]) -> None:
    p = make()
    p.register(NEVER_OPENED, POLLIN)
    for copied in COPIES:
        with pytest.raises(TypeError, match=type(p).__name__) as caught:
            copied(p)
        assert type(caught.value) is TypeError
    assert p.poll() == [(NEVER_OPENED, POLLNVAL)]


# ---- Constants and PollEvent -----------------------------------------------------------------


def is_constant(name: str) -> bool:
    return name.startswith("POLL") and name.isupper()


def test_the_constants_are_those_of_the_system_and_no_others() -> None:
    assert set(EVERYWHERE) <= set(HERE)
    assert [name for name in dir(pypoll) if is_constant(name)] == sorted(HERE)
    assert set(HERE) == {name for name in pypoll.__all__ if is_constant(name)}
    for name in filter(is_constant, dir(select)):
        assert getattr(pypoll, name) == getattr(select, name)
    for name in HERE:
        assert type(getattr(pypoll, name)) is int
    if sys.platform == "linux":
        assert {"POLLMSG", "POLLRDHUP"} <= set(HERE)
        assert "POLLREMOVE" in HERE or platform.libc_ver()[0] != "glibc"
        assert not set(ON_SOME_SYSTEMS[3:]) & set(HERE)


def test_poll_event_has_the_names_and_values_of_the_constants() -> None:
    assert issubclass(PollEvent, enum.IntFlag)
    assert set(HERE) == set(PollEvent.__members__)
    for name in HERE:
        member = PollEvent[name]
        assert member == getattr(pypoll, name) == PollEvent(getattr(pypoll, name))
        assert getattr(PollEvent, name) is member
        assert member.name is not None  # on mips, POLLOUT and POLLWRNORM are the same member
        assert member.name in str(member)


def test_a_poll_event_is_an_int_and_a_set_of_flags_that_shows_their_names() -> None:
    event = PollEvent(POLLIN | POLLHUP)
    assert str(event) == f"{event}" == "POLLIN|POLLHUP"
    assert repr(event) == f"<PollEvent.POLLIN|POLLHUP: {POLLIN | POLLHUP}>"
    assert event == POLLIN | POLLHUP == PollEvent.POLLIN | PollEvent.POLLHUP
    assert PollEvent.POLLIN in event
    assert PollEvent.POLLOUT not in event
    assert isinstance(PollEvent.POLLIN | PollEvent.POLLHUP, PollEvent)
    assert event & ~PollEvent.POLLIN == PollEvent.POLLHUP
    assert f"{event:#x}" == hex(POLLIN | POLLHUP)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(event, protocol)) is event
    assert copy.deepcopy(event) is event


def test_a_poll_event_shows_every_bit_of_a_mask_once() -> None:
    for value in range(0, 0x10000, 251):
        event = PollEvent(value)
        assert int(event) == value
        shown = str(event).split("|")
        named = sum(getattr(pypoll, name) for name in shown if name in HERE)
        unnamed = sum(int(text, 16) for text in shown if text not in HERE)
        assert named | unnamed == value
        for name in HERE:
            assert not unnamed & getattr(pypoll, name)


# ---- The module ------------------------------------------------------------------------------


def test_all_has_every_public_name() -> None:
    assert pypoll.poll is Poll
    assert len(set(pypoll.__all__)) == len(pypoll.__all__)
    assert {"Poll", "poll", "poll_fd", "PollEvent", "__version__", *HERE} <= set(pypoll.__all__)
    namespace: dict[str, Any] = {}
    exec("from pypoll import *", namespace)
    for name in pypoll.__all__:
        assert namespace[name] is getattr(pypoll, name)


def test_a_program_for_select_runs_with_pypoll_under_that_name(tmp_path: Path) -> None:
    assert ran("drop_in", tmp_path) == (0, "done\n", "")
