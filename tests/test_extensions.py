"""What pypoll has and select has not: the contract's extensions."""

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
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, get_type_hints

import pytest

import pypoll
from pypoll import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, Poll, PollEvent, poll_fd

C_INT_MAX = 2**31 - 1
NEVER_OPENED = C_INT_MAX - 5

# The contract's list of names; a system has some of them.
KNOWN_NAMES = [
    "POLLIN",
    "POLLPRI",
    "POLLOUT",
    "POLLERR",
    "POLLHUP",
    "POLLNVAL",
    "POLLRDNORM",
    "POLLRDBAND",
    "POLLWRNORM",
    "POLLWRBAND",
    "POLLMSG",
    "POLLREMOVE",
    "POLLRDHUP",
    "POLLINIGNEOF",
    "POLLEXTEND",
    "POLLATTRIB",
    "POLLNLINK",
    "POLLWRITE",
    "POLLSTANDARD",
]
EVERYWHERE = KNOWN_NAMES[:10]
HERE = [name for name in KNOWN_NAMES if hasattr(pypoll, name)]


class Pipe(NamedTuple):
    reading: int
    writing: int


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = Pipe(*os.pipe())
    yield ends
    for fd in ends:
        os.close(fd)


class Reactor(Poll):
    """A subclass with attributes and arguments of its own."""

    def __init__(self, name: str, *, size: int = 0) -> None:
        super().__init__()
        self.name = name
        self.size = size


class Forgetful(Poll):
    """A subclass whose __init__ forgets that of Poll."""

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


# ---- A container ---------------------------------------------------------------------------


def test_its_length_is_how_many_are_registered(pipe: Pipe) -> None:
    p = Poll()
    assert len(p) == 0
    p.register(pipe.reading)
    assert len(p) == 1
    p.register(pipe.reading, POLLIN)
    assert len(p) == 1
    p.register(pipe.writing)
    assert len(p) == 2
    p.modify(pipe.writing, 0)
    assert len(p) == 2
    p.unregister(pipe.reading)
    assert len(p) == 1
    p.unregister(pipe.writing)
    assert len(p) == 0


def test_in_says_whether_a_descriptor_is_registered(pipe: Pipe) -> None:
    p = Poll()
    assert pipe.reading not in p
    p.register(pipe.reading)
    assert pipe.reading in p
    assert pipe.writing not in p
    with open(pipe.reading, "rb", closefd=False) as file:
        assert file in p
    p.unregister(pipe.reading)
    assert pipe.reading not in p


def test_a_descriptor_that_was_closed_is_still_in_it() -> None:
    p = Poll()
    reading, writing = os.pipe()
    p.register(reading, POLLIN)
    os.close(reading)
    os.close(writing)
    assert reading in p
    assert p[reading] == POLLIN
    assert list(p) == [reading]


def test_subscription_gives_the_mask(pipe: Pipe) -> None:
    p = Poll()
    p.register(pipe.reading)
    assert p[pipe.reading] == POLLIN | POLLPRI | POLLOUT
    p.modify(pipe.reading, 0)
    assert p[pipe.reading] == 0
    p.register(pipe.reading, POLLIN)
    assert p[pipe.reading] == POLLIN
    with open(pipe.reading, "rb", closefd=False) as file:
        assert p[file] == POLLIN
    assert type(p[pipe.reading]) is int
    with pytest.raises(KeyError) as caught:
        p[pipe.writing]
    assert caught.value.args == (pipe.writing,)


def test_it_is_changed_by_its_methods_alone(pipe: Pipe) -> None:
    p: Any = Poll()
    p.register(pipe.reading)
    with pytest.raises(TypeError):
        p[pipe.reading] = 0
    with pytest.raises(TypeError):
        del p[pipe.reading]
    assert p[pipe.reading] == POLLIN | POLLPRI | POLLOUT


def test_iteration_is_over_descriptors_in_the_order_of_registration() -> None:
    p = Poll()
    numbers = [7, C_INT_MAX, 0, 3, 123456]
    for number in numbers:
        p.register(number)
    p.register(3, 0)
    p.modify(7, 0)
    assert list(p) == numbers
    assert [type(fd) for fd in p] == [int] * len(numbers)
    p.unregister(7)
    p.register(7)
    assert list(p) == [C_INT_MAX, 0, 3, 123456, 7]
    assert {fd: p[fd] for fd in p}[3] == 0


def test_a_set_may_be_changed_while_one_iterates_over_it() -> None:
    p = Poll()
    numbers = list(range(300))
    for number in numbers:
        p.register(number)
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
def test_iteration_does_not_depend_on_what_a_subclass_has_for_its_length(length: int) -> None:
    """As when another thread changes the set after the room for its descriptors was made."""

    class Misjudged(Poll):
        def __len__(self) -> int:
            return length

    p = Misjudged()
    numbers = list(range(40, 0, -1))
    for number in numbers:
        p.register(number)
    assert list(p) == numbers


def test_iterators_are_independent() -> None:
    p = Poll()
    for number in range(3):
        p.register(number)
    first, second = iter(p), iter(p)
    assert next(first) == 0
    assert next(first) == 1
    assert next(second) == 0
    assert list(first) == [2]
    assert list(second) == [1, 2]


@pytest.mark.parametrize("make", [Poll, Slotted, lambda: Forgetful("x")])
def test_it_is_true_also_when_it_is_empty(make: Callable[[], Poll]) -> None:
    p = make()
    assert bool(p) is True
    p.register(0)
    assert bool(p) is True
    assert bool(select.poll()) is True


def test_two_sets_are_equal_only_if_they_are_one() -> None:
    one, other = Poll(), Poll()
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2


def test_two_sets_know_nothing_of_each_other(pipe: Pipe) -> None:
    one, other = Poll(), Poll()
    one.register(pipe.writing, POLLOUT)
    assert other.poll(0) == []
    other.register(pipe.writing, 0)
    assert one.poll(0) == [(pipe.writing, POLLOUT)]
    other.unregister(pipe.writing)
    assert pipe.writing in one


# ---- repr ----------------------------------------------------------------------------------


def test_its_repr_says_what_is_registered() -> None:
    p = Poll()
    assert repr(p) == "<Poll of 0>"
    p.register(3, POLLIN)
    assert repr(p) == "<Poll of 1: 3: POLLIN>"
    p.register(5, POLLIN | POLLOUT)
    p.register(4, 0)
    assert repr(p) == "<Poll of 3: 3: POLLIN, 5: POLLIN|POLLOUT, 4: 0x0>"
    assert str(p) == repr(p)
    p.unregister(3)
    assert "3:" not in repr(p).replace("of 2:", "")


def test_the_repr_of_a_subclass_names_it() -> None:
    assert repr(Reactor("x")) == "<Reactor of 0>"


def test_the_repr_of_a_large_set_is_short_and_tells_its_size() -> None:
    p = Poll()
    for number in range(5000):
        p.register(number, 0xFFFF)
    assert "of 5000" in repr(p)
    assert "0: POLLIN|" in repr(p)
    assert len(repr(p)) < 5000


@pytest.mark.parametrize(("size", "rest"), [(8, ""), (9, ", ...")])
def test_the_repr_names_eight_descriptors(size: int, rest: str) -> None:
    p = Poll()
    for fd in range(size):
        p.register(fd, POLLIN)
    named = ", ".join(f"{fd}: POLLIN" for fd in range(8))
    assert repr(p) == f"<Poll of {size}: {named}{rest}>"


# ---- A class -------------------------------------------------------------------------------


def test_poll_is_the_class_by_another_name(pipe: Pipe) -> None:
    assert pypoll.poll is Poll
    assert isinstance(Poll, type)
    p = pypoll.poll()
    assert type(p) is Poll
    assert isinstance(p, pypoll.poll)
    p.register(pipe.writing, POLLOUT)
    assert p.poll() == [(pipe.writing, POLLOUT)]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Reactor("r", size=3), id="own arguments"),
        pytest.param(lambda: Forgetful("f"), id="no super().__init__()"),
        pytest.param(Counting, id="own method"),
        pytest.param(Slotted, id="slots"),
    ],
)
def test_a_subclass_works_as_the_class_does(pipe: Pipe, make: Callable[[], Poll]) -> None:
    p = make()
    assert isinstance(p, Poll)
    p.register(pipe.writing, POLLOUT)
    p.register(pipe.reading)
    assert p.poll() == [(pipe.writing, POLLOUT)]
    assert p.ppoll() == [(pipe.writing, POLLOUT)]
    p.modify(pipe.writing, 0)
    p.unregister(pipe.reading)
    assert p.poll(0) == []
    assert list(p) == [pipe.writing]


def test_a_subclass_has_attributes_and_methods_of_its_own() -> None:
    reactor = Reactor("r", size=3)
    reactor.extra = 1  # type: ignore[attr-defined]
    assert (reactor.name, reactor.size) == ("r", 3)
    counting = Counting()
    counting.poll(0)
    counting.poll(0)
    assert counting.polls == 2


def test_a_subclass_of_several_classes_works(pipe: Pipe) -> None:
    class Named:
        def __init__(self, name: str = "n") -> None:
            self.name = name

    class Both(Named, Poll):
        pass

    p = Both("x")
    p.register(pipe.writing, POLLOUT)
    assert (p.name, p.poll()) == ("x", [(pipe.writing, POLLOUT)])


def test_it_can_be_an_annotation() -> None:
    def wait(p: Poll) -> pypoll.poll:
        return p

    # By name, for typing sees only the module.
    assert get_type_hints(wait) == {"p": Poll, "return": Poll}


def test_it_can_be_referenced_weakly() -> None:
    p = Poll()
    reference = weakref.ref(p)
    values: weakref.WeakValueDictionary[str, Poll] = weakref.WeakValueDictionary(p=p)
    keys: weakref.WeakKeyDictionary[Poll, int] = weakref.WeakKeyDictionary({p: 1})
    assert reference() is p
    assert values["p"] is p
    assert keys[p] == 1
    del p
    for _ in range(3):  # PyPy takes its time
        gc.collect()
    assert reference() is None
    assert not values
    assert not keys


@pytest.mark.parametrize("cls", [Poll, Counting])
def test_as_a_class_attribute_it_does_not_bind(cls: type[Poll], pipe: Pipe) -> None:
    class Selector:
        factory = cls

        def make(self) -> Poll:
            return self.factory()

    assert Selector.factory is cls
    assert Selector().factory is cls
    p = Selector().make()
    assert type(p) is cls
    p.register(pipe.writing, POLLOUT)
    assert p.poll() == [(pipe.writing, POLLOUT)]


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


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("make", [Poll, Counting, Slotted, Insistent, lambda: Reactor("x")])
def test_copying_and_pickling_are_refused(
    make: Callable[[], Poll], copied: Callable[[Any], object]
) -> None:
    p = make()
    p.register(NEVER_OPENED, POLLIN)
    with pytest.raises(TypeError, match=type(p).__name__) as caught:
        copied(p)
    assert type(caught.value) is TypeError
    assert [(fd, p[fd]) for fd in p] == [(NEVER_OPENED, POLLIN)]
    assert p.poll() == [(NEVER_OPENED, POLLNVAL)]


# ---- poll_fd -------------------------------------------------------------------------------


def test_poll_fd_returns_the_events_of_one_descriptor(pipe: Pipe) -> None:
    assert poll_fd(pipe.writing) == POLLOUT
    assert poll_fd(pipe.writing, POLLIN | POLLOUT) == POLLOUT
    assert poll_fd(pipe.reading, POLLIN, 0) == 0
    assert poll_fd(pipe.reading, POLLIN, 1.5) == 0
    os.write(pipe.writing, b"x")
    assert poll_fd(pipe.reading) == POLLIN
    assert poll_fd(pipe.reading, POLLIN, None) == POLLIN
    assert poll_fd(pipe.reading, POLLOUT, 0) == 0
    assert poll_fd(NEVER_OPENED) == POLLNVAL
    with open(pipe.reading, "rb", closefd=False) as file:
        assert poll_fd(file) == POLLIN


def test_poll_fd_has_the_default_mask_of_register(pipe: Pipe) -> None:
    p = Poll()
    os.write(pipe.writing, b"x")
    for fd in pipe:
        p.register(fd)
    assert dict(p.poll(0)) == {fd: poll_fd(fd) for fd in pipe}


# ---- Constants -----------------------------------------------------------------------------


def is_constant(name: str) -> bool:
    return name.startswith("POLL") and name.isupper()


def test_there_are_no_constants_but_the_known() -> None:
    assert [name for name in dir(pypoll) if is_constant(name)] == sorted(HERE)


def test_constants_are_bits_in_plain_ints() -> None:
    for name in HERE:
        value = getattr(pypoll, name)
        assert type(value) is int
        assert 0 < value <= 0xFFFF


@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_system_has(name: str) -> None:
    assert name in HERE


@pytest.mark.parametrize("name", KNOWN_NAMES)
def test_a_constant_is_in_all_its_places_or_in_none(name: str) -> None:
    present = name in HERE
    assert (name in pypoll.__all__) == present
    assert (name in PollEvent.__members__) == present
    assert (name in dir(pypoll)) == present


@pytest.mark.parametrize("name", sorted(name for name in dir(select) if is_constant(name)))
def test_a_constant_has_the_value_of_select(name: str) -> None:
    assert getattr(pypoll, name) == getattr(select, name)


def test_the_constants_of_the_seed_differ() -> None:
    six = [POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL]
    for index, one in enumerate(six):
        for other in six[index + 1 :]:
            assert one & other == 0


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_linux_has_more_constants() -> None:
    assert {"POLLMSG", "POLLRDHUP"} <= set(HERE)
    if platform.libc_ver()[0] == "glibc":
        assert "POLLREMOVE" in HERE
    foreign = {"POLLINIGNEOF", "POLLEXTEND", "POLLATTRIB", "POLLNLINK", "POLLWRITE", "POLLSTANDARD"}
    assert not foreign & set(HERE)


# ---- PollEvent -----------------------------------------------------------------------------


def test_a_poll_event_shows_its_names() -> None:
    event = PollEvent(POLLIN | POLLHUP)
    assert str(event) == "POLLIN|POLLHUP"
    assert "POLLIN|POLLHUP" in repr(event)
    assert f"{event}" == "POLLIN|POLLHUP"
    assert str(PollEvent(POLLNVAL)) == "POLLNVAL"
    assert str(POLLIN | POLLHUP) in repr(event)


def test_a_poll_event_has_the_names_and_values_of_the_constants() -> None:
    assert issubclass(PollEvent, enum.IntFlag)
    assert {name: int(member) for name, member in PollEvent.__members__.items()} == {
        name: getattr(pypoll, name) for name in HERE
    }
    for name in HERE:
        member = PollEvent[name]
        assert member == getattr(pypoll, name) == PollEvent(getattr(pypoll, name))
        assert getattr(PollEvent, name) is member
        assert member.name is not None  # on mips, that of POLLOUT is POLLWRNORM's too
        assert member.name in str(member)


def test_a_poll_event_is_an_int_and_a_set_of_bits() -> None:
    event = PollEvent(POLLIN | POLLHUP)
    assert isinstance(event, int)
    assert event == POLLIN | POLLHUP
    assert event & POLLHUP == POLLHUP
    assert not event & POLLOUT
    assert PollEvent.POLLIN in event
    assert PollEvent.POLLOUT not in event
    assert event == PollEvent.POLLIN | PollEvent.POLLHUP
    assert isinstance(PollEvent.POLLIN | PollEvent.POLLHUP, PollEvent)
    assert event & ~PollEvent.POLLIN == PollEvent.POLLHUP
    assert f"{event:#x}" == hex(POLLIN | POLLHUP)
    assert hash(event) == hash(POLLIN | POLLHUP)


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


def test_a_poll_event_without_bits_is_false() -> None:
    assert not PollEvent(0)
    assert PollEvent(0) == 0


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_poll_event_can_be_copied_and_pickled(protocol: int) -> None:
    for event in PollEvent.POLLIN, PollEvent(POLLIN | POLLHUP):
        assert pickle.loads(pickle.dumps(event, protocol)) is event
        assert copy.deepcopy(event) is event


def test_poll_events_read_what_poll_returns(pipe: Pipe) -> None:
    p = Poll()
    p.register(pipe.writing, PollEvent.POLLIN | PollEvent.POLLOUT)
    ((_, event),) = p.poll()
    assert type(event) is int
    assert PollEvent(event) is PollEvent.POLLOUT
    assert type(p[pipe.writing]) is int


# ---- The module ----------------------------------------------------------------------------


def test_all_names_what_there_is() -> None:
    assert len(set(pypoll.__all__)) == len(pypoll.__all__)
    assert {"Poll", "poll", "poll_fd", "PollEvent", "__version__", *HERE} <= set(pypoll.__all__)
    namespace: dict[str, Any] = {}
    exec("from pypoll import *", namespace)
    for name in pypoll.__all__:
        assert namespace[name] is getattr(pypoll, name)


PROGRAM = """
import os
import pypoll as select

reading, writing = os.pipe()
poller = select.poll()
poller.register(reading)
poller.register(writing, select.POLLOUT)
assert poller.poll(0) == [(writing, select.POLLOUT)]
poller.modify(writing, 0)
assert poller.poll(0) == []
os.write(writing, b"x")
for fd, event in poller.poll():
    assert fd == reading
    assert event & select.POLLIN
    assert not event & (select.POLLPRI | select.POLLERR | select.POLLHUP | select.POLLNVAL)
poller.unregister(reading)
assert poller.poll(1) == []
print("done")
"""


def test_a_program_for_select_runs_with_pypoll_under_that_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=tmp_path,  # the working directory comes first on its path, and may be a source tree
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_same_program_runs_with_select_itself() -> None:
    namespace: dict[str, Any] = {}
    exec(PROGRAM.replace("import pypoll as select", "import select"), namespace)
    os.close(namespace["reading"])
    os.close(namespace["writing"])
