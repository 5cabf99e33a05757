"""What pypoll has beyond select.poll: a container, a class, poll_fd, PollEvent, more constants."""

from __future__ import annotations

import copy
import enum
import functools
import gc
import os
import pickle
import platform
import select
import selectors
import sys
import weakref
from pathlib import Path
from typing import Any, Callable, get_type_hints

import pytest

import pypoll
from pypoll import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, Poll, PollEvent
from support import C_INT_MAX, NEVER_OPENED, PROGRAMS, Pipe, contents, ran, rows, set_of

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
    """A subclass with attributes and arguments of its own."""

    def __init__(self, name: str, *, size: int = 0) -> None:
        super().__init__()
        self.name = name
        self.size = size


class Forgetful(Poll):
    """A subclass whose __init__ does not call that of Poll."""

    def __init__(self, name: str) -> None:
        self.name = name


class Counting(Poll):
    """A subclass that overrides a method."""

    polls = 0

    def poll(self, timeout: Any = None, /) -> list[tuple[int, int]]:
        self.polls += 1
        return super().poll(timeout)


class Slotted(Poll):
    __slots__ = ()


class Insistent(Poll):
    """A subclass that brings back object's way of making copies."""

    __reduce_ex__ = object.__reduce_ex__
    __reduce__ = object.__reduce__


class Named:
    def __init__(self, name: str = "n") -> None:
        self.name = name


class Both(Named, Poll):
    """A subclass of several classes."""


MADE: dict[str, Callable[[], Poll]] = {
    "the class itself": Poll,
    "own arguments": lambda: Reactor("r", size=3),
    "no super().__init__()": lambda: Forgetful("f"),
    "own method": Counting,
    "slots": Slotted,
    "object's own copying": Insistent,
    "several classes": lambda: Both("b"),
}


# ---- A container -----------------------------------------------------------------------------


def test_length_membership_and_subscription_follow_each_change(pipe: Pipe) -> None:
    p = Poll()
    assert (len(p), pipe.reading in p) == (0, False)
    p.register(pipe.reading)
    assert contents(p) == {pipe.reading: POLLIN | POLLPRI | POLLOUT}
    p.register(pipe.reading, POLLIN)
    p.register(pipe.writing)
    p.modify(pipe.writing, 0)
    assert contents(p) == {pipe.reading: POLLIN, pipe.writing: 0}
    with open(pipe.reading, "rb", closefd=False) as file:
        assert file in p
        assert p[file] == POLLIN
    p.unregister(pipe.reading)
    assert (len(p), pipe.reading in p) == (1, False)
    with pytest.raises(KeyError) as caught:
        p[pipe.reading]
    assert caught.value.args == (pipe.reading,)


def test_iteration_is_over_descriptors_in_the_order_of_registration() -> None:
    numbers = [7, C_INT_MAX, 0, 3, 123456]
    p = set_of(dict.fromkeys(numbers, 1))
    p.register(3, 0)
    p.modify(7, 0)
    assert list(p) == numbers
    assert [type(fd) for fd in p] == [int] * len(numbers)
    p.unregister(7)
    p.register(7)
    assert list(p) == [C_INT_MAX, 0, 3, 123456, 7]
    first, second = iter(p), iter(p)
    assert (next(first), next(first), next(second)) == (C_INT_MAX, 0, C_INT_MAX)


def test_a_set_may_be_changed_during_iteration() -> None:
    numbers = list(range(300))
    p = set_of(dict.fromkeys(numbers, 1))
    seen = []
    for fd in p:
        p.unregister(fd)
        p.register(fd + 1000)
        seen.append(fd)
    assert seen == numbers
    assert list(p) == [number + 1000 for number in numbers]
    for fd in p:
        p.unregister(fd)
    assert list(p) == []


@pytest.mark.parametrize("length", [0, 1, 100])
def test_iteration_does_not_depend_on_the_length_that_a_subclass_claims(length: int) -> None:
    """As when another thread changes the set after the room for its descriptors was made."""

    class Misjudged(Poll):
        def __len__(self) -> int:
            return length

    p = Misjudged()
    numbers = list(range(40, 0, -1))
    for number in numbers:
        p.register(number)
    assert list(p) == numbers


def test_repr_survives_a_set_that_changes_meanwhile() -> None:
    class Unreliable(Poll):
        # Private, because nothing else removes a descriptor between two steps of repr() for sure.
        def _descriptors(self) -> list[int]:
            return [*super()._descriptors(), 123_456]

    p = Unreliable()
    p.register(5, 0)
    assert repr(p) == f"<{Unreliable.__qualname__} of 2: 5: 0x0>"


def test_sets_are_true_equal_to_themselves_alone_and_independent(pipe: Pipe) -> None:
    one, other = Poll(), Poll()
    assert bool(one) is bool(other) is bool(select.poll()) is True
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
    one.register(pipe.writing, POLLOUT)
    assert other.poll(0) == []
    other.register(pipe.writing, 0)
    assert one.poll(0) == [(pipe.writing, POLLOUT)]
    other.unregister(pipe.writing)
    assert pipe.writing in one
    assert bool(one) is True


def test_its_repr_names_the_class_the_size_and_eight_descriptors() -> None:
    p = Poll()
    assert repr(p) == "<Poll of 0>"
    p.register(3, POLLIN)
    p.register(5, POLLIN | POLLOUT)
    p.register(4, 0)
    assert repr(p) == str(p) == "<Poll of 3: 3: POLLIN, 5: POLLIN|POLLOUT, 4: 0x0>"
    assert repr(Reactor("x")) == "<Reactor of 0>"
    named = ", ".join(f"{fd}: POLLIN" for fd in range(8))
    for size, rest in (8, ""), (9, ", ..."), (5000, ", ..."):
        p = set_of(dict.fromkeys(range(size), POLLIN))
        assert repr(p) == f"<Poll of {size}: {named}{rest}>"


# ---- A class ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", rows(MADE))
def test_a_subclass_works_as_the_class_does(pipe: Pipe, make: Callable[[], Poll]) -> None:
    p = make()
    assert bool(p) is True
    p.register(pipe.writing, POLLOUT)
    p.register(pipe.reading)
    assert p.poll() == p.ppoll() == [(pipe.writing, POLLOUT)]
    p.modify(pipe.writing, 0)
    p.unregister(pipe.reading)
    assert p.poll(0) == []
    assert list(p) == [pipe.writing]


def test_a_subclass_has_attributes_and_methods_of_its_own() -> None:
    reactor = Reactor("r", size=3)
    reactor.extra = 1  # type: ignore[attr-defined]
    assert (reactor.name, reactor.size) == ("r", 3)
    counting = Counting()
    assert counting.poll(0) == counting.ppoll(0) == counting.ppoll(0, None) == []
    assert counting.polls == 3


def test_it_is_a_class_by_two_names_that_annotations_can_use() -> None:
    def wait(p: Poll) -> pypoll.poll:
        return p

    assert pypoll.poll is Poll
    assert type(pypoll.poll()) is Poll
    # By name, for typing sees only the module.
    assert get_type_hints(wait) == {"p": Poll, "return": Poll}


def test_it_can_be_referenced_weakly() -> None:
    p = Poll()
    reference = weakref.ref(p)
    values: weakref.WeakValueDictionary[str, Poll] = weakref.WeakValueDictionary(p=p)
    keys: weakref.WeakKeyDictionary[Poll, int] = weakref.WeakKeyDictionary({p: 1})
    assert reference() is values["p"] is p
    assert keys[p] == 1
    del p
    for _ in range(3):  # PyPy takes its time
        gc.collect()
    assert reference() is None
    assert not values
    assert not keys


def test_the_selectors_of_the_standard_library_can_use_it(pipe: Pipe) -> None:
    class Selector(selectors.PollSelector):
        _selector_cls = pypoll.poll

    with Selector() as selector:
        key = selector.register(pipe.writing, selectors.EVENT_WRITE, "data")
        selector.register(pipe.reading, selectors.EVENT_READ)
        assert selector.select() == [(key, selectors.EVENT_WRITE)]
        os.write(pipe.writing, b"x")
        assert len(selector.select(1)) == 2
        selector.modify(pipe.reading, selectors.EVENT_WRITE)
        selector.unregister(pipe.writing)
        assert selector.select(0.01) == []


COPIES: dict[str, Callable[[Any], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy of a list": lambda p: copy.deepcopy([p]),
    "pickle of a list": lambda p: pickle.dumps([p]),
}
for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    COPIES[f"pickle {protocol}"] = functools.partial(pickle.dumps, protocol=protocol)


@pytest.mark.parametrize("copied", rows(COPIES))
@pytest.mark.parametrize("make", rows(MADE))
def test_copying_and_pickling_are_refused(
    make: Callable[[], Poll], copied: Callable[[Any], object]
) -> None:
    p = make()
    p.register(NEVER_OPENED, POLLIN)
    with pytest.raises(TypeError, match=type(p).__name__) as caught:
        copied(p)
    assert type(caught.value) is TypeError
    assert contents(p) == {NEVER_OPENED: POLLIN}
    assert p.poll() == [(NEVER_OPENED, POLLNVAL)]


# ---- poll_fd ---------------------------------------------------------------------------------


# ---- Constants and PollEvent -----------------------------------------------------------------


def is_constant(name: str) -> bool:
    return name.startswith("POLL") and name.isupper()


def test_constants_are_those_of_the_system_and_no_others() -> None:
    assert set(EVERYWHERE) <= set(HERE)
    assert [name for name in dir(pypoll) if is_constant(name)] == sorted(HERE)
    assert set(HERE) == {name for name in pypoll.__all__ if is_constant(name)}
    assert set(HERE) == set(PollEvent.__members__)
    for name in filter(is_constant, dir(select)):
        assert getattr(pypoll, name) == getattr(select, name)


def test_constants_are_bits_in_plain_ints() -> None:
    for name in HERE:
        value = getattr(pypoll, name)
        assert type(value) is int
        assert 0 < value <= 0xFFFF
    six = [POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL]
    assert sum(six) == functools.reduce(int.__or__, six)


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_linux_has_more_constants() -> None:
    assert {"POLLMSG", "POLLRDHUP"} <= set(HERE)
    assert not set(ON_SOME_SYSTEMS[3:]) & set(HERE)
    if platform.libc_ver()[0] == "glibc":
        assert "POLLREMOVE" in HERE


def test_a_poll_event_has_the_names_and_values_of_the_constants() -> None:
    assert issubclass(PollEvent, enum.IntFlag)
    for name in HERE:
        member = PollEvent[name]
        assert member == getattr(pypoll, name) == PollEvent(getattr(pypoll, name))
        assert getattr(PollEvent, name) is member
        assert member.name is not None  # on mips, that of POLLOUT is POLLWRNORM's too
        assert member.name in str(member)


def test_a_poll_event_is_an_int_and_a_set_of_bits_that_shows_its_names() -> None:
    event = PollEvent(POLLIN | POLLHUP)
    assert str(event) == f"{event}" == "POLLIN|POLLHUP"
    assert "POLLIN|POLLHUP" in repr(event)
    assert str(POLLIN | POLLHUP) in repr(event)
    assert event == POLLIN | POLLHUP == PollEvent.POLLIN | PollEvent.POLLHUP
    assert PollEvent.POLLIN in event
    assert PollEvent.POLLOUT not in event
    assert isinstance(PollEvent.POLLIN | PollEvent.POLLHUP, PollEvent)
    assert event & ~PollEvent.POLLIN == PollEvent.POLLHUP
    assert f"{event:#x}" == hex(POLLIN | POLLHUP)
    assert hash(event) == hash(POLLIN | POLLHUP)
    assert not PollEvent(0)


@pytest.mark.parametrize("value", range(0, 0x10000, 251))
def test_every_mask_is_a_poll_event(value: int) -> None:
    event = PollEvent(value)
    assert int(event) == value
    shown = str(event).split("|")
    named = sum(getattr(pypoll, name) for name in shown if name in HERE)
    unnamed = sum(int(text, 16) for text in shown if text not in HERE)
    assert named | unnamed == value
    for name in HERE:
        assert not unnamed & getattr(pypoll, name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_poll_event_can_be_copied_and_pickled(protocol: int) -> None:
    for event in PollEvent.POLLIN, PollEvent(POLLIN | POLLHUP):
        assert pickle.loads(pickle.dumps(event, protocol)) is event
        assert copy.deepcopy(event) is event


# ---- The module ------------------------------------------------------------------------------


def test_all_names_everything_public() -> None:
    assert len(set(pypoll.__all__)) == len(pypoll.__all__)
    assert {"Poll", "poll", "poll_fd", "PollEvent", "__version__", *HERE} <= set(pypoll.__all__)
    namespace: dict[str, Any] = {}
    exec("from pypoll import *", namespace)
    for name in pypoll.__all__:
        assert namespace[name] is getattr(pypoll, name)


def test_a_program_for_select_runs_with_pypoll_under_that_name(tmp_path: Path) -> None:
    assert ran("drop_in", tmp_path) == (0, "done\n", "")
    with_select = (PROGRAMS / "drop_in.py").read_text("utf-8")
    namespace: dict[str, Any] = {}
    exec(with_select.replace("import pypoll as select", "import select"), namespace)
    os.close(namespace["reading"])
    os.close(namespace["writing"])
