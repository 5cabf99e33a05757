"""Objects that act while they are asked for a number, and numbers that lie.

Whatever an object does when pypoll asks it, the call comes out as if that had happened before it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import sys
import sysconfig
import threading
import weakref
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Callable, NamedTuple

import pytest

from pypoll import EVENT_READ, EVENT_WRITE, POLLIN, POLLOUT, PollSelector, poll_fd
from support import (
    NEVER_OPENED,
    PATIENCE,
    PYPY,
    FileLike,
    LyingInt,
    Refusal,
    contents,
    nothing_changes,
    rows,
    set_of,
)

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class World:
    """A set and a selector over the same descriptors, two of which are ready."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.spare, self.spare_writing = os.pipe()
        os.write(self.writing, b"x")
        self.p = set_of({self.writing: POLLOUT, NEVER_OPENED: 0, self.reading: POLLIN})
        self.selector = PollSelector()
        self.selector.register(self.writing, EVENT_WRITE, "writing")
        self.selector.register(self.reading, EVENT_READ, "reading")

    def state(self) -> object:
        """Return all that can be seen of the set and of the selector."""
        return (
            list(contents(self.p).items()),
            self.p.poll(0),
            [(fd, key.events, key.data) for fd, key in self.selector.get_map().items()],
            [(key.fd, events) for key, events in self.selector.select(0)],
        )

    def close(self) -> None:
        for fd in (self.reading, self.writing, self.spare, self.spare_writing):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


# ---- What an object does when it is asked ----------------------------------------------------

Act = Callable[[World], object]


def unregister(world: World) -> None:
    with contextlib.suppress(KeyError):
        world.p.unregister(world.reading)
    with contextlib.suppress(KeyError):
        world.selector.unregister(world.reading)


def register_spare(world: World) -> None:
    world.p.register(world.spare_writing, POLLOUT)
    with contextlib.suppress(KeyError):
        world.selector.register(world.spare_writing, EVENT_WRITE)


def move_to_the_end(world: World) -> None:
    unregister(world)
    world.p.register(world.reading, POLLIN)
    world.selector.register(world.reading, EVENT_READ, "moved")


def modify(world: World) -> None:
    with contextlib.suppress(FileNotFoundError):
        world.p.modify(world.reading, POLLOUT)
    with contextlib.suppress(KeyError):
        world.selector.modify(world.reading, EVENT_WRITE, "modified")


def grow_and_shrink(world: World) -> None:
    for fd in range(NEVER_OPENED + 1, NEVER_OPENED + 300):
        world.p.register(fd, 0)
    for fd in range(NEVER_OPENED + 1, NEVER_OPENED + 300):
        world.p.unregister(fd)


def unregister_all(world: World) -> None:
    for fd in world.p:
        world.p.unregister(fd)
    for fd in list(world.selector.get_map()):
        world.selector.unregister(fd)


def wait(world: World) -> None:
    world.p.poll(0.01)
    world.p.ppoll(0)
    world.selector.select(0)
    poll_fd(world.reading, POLLIN, 0)


def close_descriptor(world: World) -> None:
    with contextlib.suppress(OSError):
        os.close(world.reading)


def in_another_thread(world: World) -> None:
    def change_and_wait() -> None:
        register_spare(world)
        wait(world)

    thread = threading.Thread(target=change_and_wait, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def collect_garbage(world: World) -> None:
    finalized: list[Garbage] = []

    class Garbage:
        def __del__(self) -> None:
            register_spare(world)
            finalized.append(self)

    cycle: list[object] = [Garbage()]
    cycle.append(cycle)
    del cycle
    gc.collect(0)
    while not finalized:
        gc.collect()


def recurse_without_end(world: World) -> None:
    class Endless:
        def fileno(self) -> int:
            world.p.register(self)
            raise AssertionError("it never comes to an end")

    with contextlib.suppress(RecursionError):
        world.p.register(Endless())


QUICK_ACTS: dict[str, Act] = {
    "registers another": register_spare,
    "unregisters the same": unregister,
    "moves the same to the end": move_to_the_end,
    "modifies the same": modify,
    "grows and shrinks the set": grow_and_shrink,
    "unregisters all": unregister_all,
    "waits": wait,
    "looks": lambda world: (list(world.p), len(world.p), repr(world.p)),
    "closes the descriptor": close_descriptor,
    "opens another file there": lambda world: os.dup2(world.spare_writing, world.reading),
    "makes the set again": lambda world: world.p.__init__(),  # type: ignore[misc]
    "lets another thread in": in_another_thread,
}
# These two take PyPy a tenth of a second each time.
ACTS = {
    **QUICK_ACTS,
    "collects garbage": collect_garbage,
    "recurses without end": recurse_without_end,
}


class Meddler:
    """Does something whenever it is asked what it stands for."""

    def __init__(self, answer: Any, act: Callable[[], object] = lambda: None) -> None:
        self.answer = answer
        self.act = act

    def _asked(self) -> Any:
        self.act()
        return self.answer

    fileno = __index__ = _asked


class MeddlingMask(Meddler):
    def __iter__(self) -> Iterator[Any]:
        return iter(self._asked())


class MeddlingRatio(Fraction):
    act: Callable[[], object]

    def __new__(cls, answer: Fraction, act: Callable[[], object]) -> MeddlingRatio:
        self = super().__new__(cls, answer)
        self.act = act
        return self

    def as_integer_ratio(self) -> tuple[int, int]:
        self.act()
        return super().as_integer_ratio()


class MeddlingFloat(MeddlingRatio):
    as_integer_ratio = Fraction.as_integer_ratio

    def __float__(self) -> float:
        self.act()
        return super().__float__()


Kind = Callable[[Any, Callable[[], object]], Any]


class Call(NamedTuple):
    """Calls with something that *of* makes of a number: the number, or a *kind* of meddler."""

    made: Callable[[World, Callable[[Any], Any]], object]
    kind: Kind = Meddler
    # What an exception of the meddler is turned into, if it does not propagate.
    becomes: type[Exception] | None = None


SHORT = Fraction(1, 1000)
SIGNAL = int(signal.SIGUSR1)

CALLS: dict[str, Call] = {
    "register": Call(lambda w, of: w.p.register(of(w.reading))),
    "register a new one": Call(lambda w, of: w.p.register(of(w.spare), POLLIN)),
    "register with a mask": Call(lambda w, of: w.p.register(w.reading, of(POLLOUT))),
    "modify": Call(lambda w, of: w.p.modify(of(w.reading), 0)),
    "modify with a mask": Call(lambda w, of: w.p.modify(w.reading, of(0))),
    "modify an unknown one": Call(lambda w, of: w.p.modify(w.spare_writing, of(0))),
    "unregister": Call(lambda w, of: w.p.unregister(of(w.reading))),
    "unregister an unknown one": Call(lambda w, of: w.p.unregister(of(w.spare_writing))),
    "in": Call(lambda w, of: of(w.reading) in w.p),
    "[]": Call(lambda w, of: w.p[of(w.reading)]),
    "poll": Call(lambda w, of: w.p.poll(of(0))),
    "poll for a ratio": Call(lambda w, of: w.p.poll(of(SHORT)), MeddlingRatio),
    "poll for a float": Call(lambda w, of: w.p.poll(of(SHORT)), MeddlingFloat),
    "ppoll": Call(lambda w, of: w.p.ppoll(of(0))),
    "ppoll with a mask": Call(lambda w, of: w.p.ppoll(0, of({SIGNAL})), MeddlingMask),
    "ppoll with a signal": Call(lambda w, of: w.p.ppoll(0, [of(SIGNAL)])),
    "poll_fd": Call(lambda w, of: poll_fd(of(w.reading), POLLIN, 0)),
    "poll_fd with a mask": Call(lambda w, of: poll_fd(w.reading, of(POLLIN), 0)),
    "poll_fd with a timeout": Call(lambda w, of: poll_fd(w.reading, POLLIN, of(0))),
    "selector.select": Call(lambda w, of: w.selector.select(of(0))),
    "selector.select for a ratio": Call(lambda w, of: w.selector.select(of(SHORT)), MeddlingRatio),
}
ON_FILE_OBJECTS: dict[str, Callable[[World, Callable[[Any], Any]], object]] = {
    "selector.register": lambda w, of: w.selector.register(of(w.spare), EVENT_READ),
    "selector.register again": lambda w, of: w.selector.register(of(w.reading), EVENT_READ),
    "selector.modify": lambda w, of: w.selector.modify(of(w.reading), EVENT_WRITE),
    "selector.unregister": lambda w, of: w.selector.unregister(of(w.reading)),
    "selector.get_key": lambda w, of: w.selector.get_key(of(w.reading)),
}
CALLS.update({name: Call(made, becomes=ValueError) for name, made in ON_FILE_OBJECTS.items()})


def outcome(world: World, call: Call, of: Callable[[Any], Any]) -> object:
    """Return what came of the call, without the object that it was called with."""
    try:
        answer: Any = call.made(world, of)
    except Exception as error:
        return type(error)
    if isinstance(answer, tuple):
        return answer[1:]
    if isinstance(answer, list) and answer and isinstance(answer[0][0], tuple):
        return [(key[1:], events) for key, events in answer]
    return answer


NOTHING = Call(lambda _world, _of: None)


def done(act: Act, call: Call, kind: Kind | None = None) -> tuple[object, ...]:
    """Return what came of a call, after the act or with an object that acts."""
    world = World()
    try:
        if kind is None:
            act(world)
            answer = outcome(world, call, lambda n: n)
        else:
            answer = outcome(world, call, lambda n: kind(n, lambda: act(world)))
        return answer, world.reading, world.state()
    finally:
        world.close()


@pytest.mark.parametrize("call", rows(CALLS))
def test_what_an_object_does_when_asked_happens_before_the_call(call: Call) -> None:
    for name, act in ACTS.items():
        assert (name, done(act, call, call.kind)) == (name, done(act, call))


class RefusalError(Exception):
    """Raised by an object that has done its work."""


@pytest.mark.parametrize("call", rows(CALLS))
def test_an_exception_of_an_object_ends_the_call_and_undoes_nothing(call: Call) -> None:
    for name, act in QUICK_ACTS.items():

        def kind(answer: Any, act: Callable[[], object]) -> Any:
            def act_and_raise() -> None:
                act()
                raise RefusalError

            return call.kind(answer, act_and_raise)

        _, *after = done(act, NOTHING)
        assert (name, done(act, call, kind)) == (name, (call.becomes or RefusalError, *after))


class Shown:
    """No number at all, and does something when a message names it."""

    def __init__(self, _answer: object, act: Callable[[], object] = lambda: None) -> None:
        self.act = act

    def __repr__(self) -> str:
        self.act()
        return "shown"


@pytest.mark.parametrize("call", rows({n: c for n, c in CALLS.items() if c.kind is Meddler}))
def test_what_an_object_does_in_its_repr_happens_before_its_refusal(call: Call) -> None:
    for name, act in QUICK_ACTS.items():
        error, *after = done(act, call, Shown)
        assert error in (TypeError, ValueError)
        _, *expected = done(act, NOTHING)
        assert (name, after) == (name, expected)


POLL_CALLS = {name: call for name, call in CALLS.items() if not name.startswith("selector")}


@pytest.mark.parametrize("call", rows(POLL_CALLS))
def test_a_set_dropped_during_a_call_lives_just_as_long_as_the_call(
    world: World, call: Call
) -> None:
    reference = weakref.ref(world.p)

    def drop() -> None:
        del world.p
        gc.collect(0)

    assert outcome(world, call, lambda n: call.kind(n, drop)) is not AttributeError
    assert not hasattr(world, "p")
    while PYPY and reference() is not None:
        gc.collect()
    assert reference() is None


@pytest.mark.skipif(PYPY or FREE_THREADED, reason="collects when it likes, whatever the threshold")
def test_a_garbage_collection_in_the_middle_of_a_call_disturbs_nothing(
    world: World, many: list[int]
) -> None:
    """What it calls, at any allocation, waits in the same set and changes it."""
    p, selector = world.p, world.selector
    for fd in many[:150]:
        p.register(fd, POLLOUT)
        selector.register(fd, EVENT_WRITE)
    ours, ready, keys = list(p), p.poll(0), selector.select(0)
    failures: list[object] = []
    turns = 0

    def act(_phase: str, _info: object) -> None:
        nonlocal turns
        turns += 1
        try:
            if turns % 2:
                p.register(world.spare, 0)
                selector.register(world.spare, EVENT_READ)
            else:
                p.unregister(world.spare)
                selector.unregister(world.spare)
            if p.poll(0) != ready or selector.select(0)[1:] != keys[1:]:
                failures.append(turns)
        except BaseException as error:
            failures.append(error)

    threshold = gc.get_threshold()
    try:
        gc.callbacks.append(act)
        gc.set_threshold(1, 10**6, 10**6)
        for turn in range(100):
            assert p.poll(0) == p.poll(SHORT) == ready
            assert selector.select(0) == keys
            p.register(FileLike(world.writing), Meddler(POLLOUT))
            p.modify(FileLike(world.reading), POLLIN)
            assert [fd for fd in p if fd != world.spare] == ours
            keys[0] = (selector.modify(world.writing, EVENT_WRITE, turn), EVENT_WRITE)
            assert repr(p)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(act)
    assert failures == []
    assert turns > 100


# ---- Numbers and objects that lie ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*__index__ returned non-int:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*__index__.. must return an int:DeprecationWarning")
def test_an_index_that_lies_counts_as_what_it_is(world: World) -> None:
    def lying(number: int) -> Any:
        return Meddler(LyingInt(number))

    world.p.register(world.reading, lying(POLLOUT))
    assert world.p[world.reading] == POLLOUT
    world.p.modify(world.reading, lying(0))
    assert world.p[world.reading] == 0
    assert [fd for fd, _ in world.p.poll(lying(0))] == [world.writing, NEVER_OPENED]
    assert poll_fd(world.reading, lying(POLLIN), lying(-1)) == POLLIN


class Incomparable(int):
    """An int that forbids every operation on itself."""

    def _forbid(self, *_arguments: object) -> Any:
        raise RefusalError

    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = __and__ = __rand__ = _forbid
    __add__ = __radd__ = __mul__ = __rmul__ = __int__ = __index__ = __float__ = __hash__ = _forbid


def test_a_number_is_asked_for_nothing_but_its_value(world: World) -> None:
    p, zero, out = world.p, Incomparable(0), Incomparable(POLLOUT)
    fd = Incomparable(world.writing)
    with nothing_changes(p):
        p.modify(fd, out)
        p.register(fd, out)
        assert fd in p
        assert p[fd] == POLLOUT
        assert p.poll(zero) == p.ppoll(zero) == p.poll(0)
        assert poll_fd(fd, out, zero) == POLLOUT
        assert world.selector.get_key(fd).fd == world.writing
        assert len(world.selector.select(zero)) == 2
    p.unregister(fd)
    assert world.writing not in p
    events = Incomparable(EVENT_WRITE)
    key = world.selector.register(world.spare_writing, events)
    assert (key, EVENT_WRITE) in world.selector.select(0)
    assert world.selector.modify(world.spare_writing, events) is key
    refusals = [Refusal(Incomparable(n), ValueError, ("Invalid events",)) for n in (16, -1)]
    refusals += [Refusal(bad, TypeError, ("events must",)) for bad in ("x", None, 1.0, Shown(1))]
    for refusal in refusals:
        refusal.check(world.selector.modify, world.reading, refusal.value)
        assert world.selector.get_key(world.reading).events == EVENT_READ


class Quarrelsome(FileLike):
    """Has a file descriptor and answers no other question."""

    def _quarrel(self, *_arguments: object) -> Any:
        raise AssertionError("none of your business")

    __eq__ = __ne__ = __lt__ = __hash__ = __bool__ = __len__ = __iter__ = _quarrel
    __contains__ = __index__ = __int__ = __repr__ = __str__ = __format__ = _quarrel


def test_a_selector_asks_a_file_object_for_its_descriptor_alone(world: World) -> None:
    selector = world.selector
    data, fileobj = Quarrelsome(-1), Quarrelsome(world.spare_writing)
    other = Quarrelsome(world.spare)
    selector.register(other, EVENT_READ)
    key = selector.register(fileobj, EVENT_WRITE, data)
    assert selector.get_key(fileobj) is selector.get_map()[fileobj] is key
    with pytest.raises(KeyError, match="already registered"):
        selector.register(fileobj, EVENT_WRITE)
    assert selector.modify(fileobj, EVENT_WRITE, data) is key
    changed = selector.modify(fileobj, EVENT_WRITE, Quarrelsome(-1))
    assert changed is not key
    assert [ready for ready, _ in selector.select(0) if ready.fd == key.fd] == [changed]
    fileobj.answer = other.answer = -1
    assert selector.unregister(fileobj) is changed
    with pytest.raises(ValueError, match="Invalid file object"):
        selector.get_key(fileobj)
    assert selector.unregister(other).fileobj is other


# ---- Deep recursion --------------------------------------------------------------------------


def at_depth(depth: int, call: Callable[[], object]) -> object:
    return at_depth(depth - 1, call) if depth else call()


def deepest() -> int:
    """Return how deep a recursion can go from here."""
    frame = sys._getframe()
    depth = sys.getrecursionlimit()
    while frame.f_back is not None:
        frame = frame.f_back
        depth -= 1
    return depth


NEAR_THE_LIMIT: dict[str, Callable[[World, int], object]] = {
    "register": lambda w, fd: w.p.register(fd, 0),
    "register an object": lambda w, fd: w.p.register(FileLike(fd), 0),
    "register with a mask": lambda w, fd: w.p.register(fd, Meddler(0)),
    "register nothing": lambda w, _: w.p.register(None),  # type: ignore[arg-type]
    "modify": lambda w, _: w.p.modify(LyingInt(w.writing), 0),
    "unregister": lambda w, _: w.p.unregister(LyingInt(w.writing)),
    "poll": lambda w, _: w.p.poll(0),
    "poll for a time": lambda w, _: w.p.poll(SHORT),
    "list": lambda w, _: list(w.p),
    "repr": lambda w, _: repr(w.p),
    "selector.register": lambda w, fd: w.selector.register(fd, EVENT_READ),
    "selector.modify": lambda w, _: w.selector.modify(w.writing, EVENT_READ),
    "selector.unregister": lambda w, _: w.selector.unregister(w.writing),
    "selector.select": lambda w, _: w.selector.select(0),
}


@pytest.mark.skipif(PYPY, reason="PyPy's limit is one of stack space, so no depth is near it")
@pytest.mark.parametrize("call", rows(NEAR_THE_LIMIT))
def test_a_call_near_the_recursion_limit_succeeds_or_changes_nothing(
    many: list[int], call: Callable[[World, int], object]
) -> None:
    states = []
    for depth in (0, deepest()):
        world = World()
        try:
            for fd in many[:150]:
                world.p.register(fd, POLLOUT)
                world.selector.register(fd, EVENT_WRITE)
            states.append(world.state())
            refused = 0
            while depth >= 0:
                try:
                    at_depth(depth, functools.partial(call, world, NEVER_OPENED - 1))
                except RecursionError:
                    refused += 1
                    depth -= 1
                    assert world.state() in states
                except (TypeError, KeyError):  # KeyError where the one before got that far
                    break
                else:
                    break
            states.append(world.state())
        finally:
            world.close()
    assert states[2:] == states[:2]
    assert refused
