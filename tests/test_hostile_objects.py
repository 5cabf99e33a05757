"""Objects that act while they are asked for a number, and objects used too early or too late.

What is refused, and with which words, is in test_arguments.py and test_timeouts.py. Here a method
that pypoll calls changes the set, closes the descriptor, collects garbage or never returns; it
must come out as if that had happened just before the call.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import gc
import itertools
import numbers
import os
import re
import resource
import signal
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from pypoll import (
    EVENT_READ,
    EVENT_WRITE,
    POLLIN,
    POLLOUT,
    Poll,
    PollSelector,
    poll_fd,
)
from pypoll.library import lib

PYPY = sys.implementation.name == "pypy"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
PATIENCE = 30.0

# Nothing is open there, nor at the numbers before it.
NEVER_OPENED = 2**31 - 1000

needs_ppoll = pytest.mark.skipif(
    not lib.pypoll_has_ppoll(), reason="this build has no ppoll, so sigmask is refused"
)


def rows(table: dict[str, Any]) -> list[Any]:
    """Return a table as the parameters of a test."""
    return [pytest.param(row, id=name) for name, row in table.items()]


class World:
    """A set and a selector over the same descriptors, two of which are ready."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.spare, self.spare_writing = os.pipe()
        os.write(self.writing, b"x")
        self.p = Poll()
        self.p.register(self.writing, POLLOUT)
        self.p.register(NEVER_OPENED, 0)
        self.p.register(self.reading, POLLIN)
        self.selector = PollSelector()
        self.selector.register(self.writing, EVENT_WRITE, "writing")
        self.selector.register(self.reading, EVENT_READ, "reading")

    def state(self) -> object:
        """Return all that can be seen of the set and of the selector."""
        assert len(self.p) == len(list(self.p))
        return (
            [(fd, self.p[fd]) for fd in self.p],
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


@contextlib.contextmanager
def nothing_changes(world: World) -> Iterator[None]:
    """Check that all is afterwards as it was, and can still change."""
    before = world.state()
    yield
    assert world.state() == before
    world.p.register(world.spare, 0)
    world.selector.register(world.spare, EVENT_READ)
    assert world.spare in world.p
    world.p.unregister(world.spare)
    world.selector.unregister(world.spare)
    assert world.state() == before


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


def look(world: World) -> None:
    assert len(list(world.p)) == len(world.p)
    assert repr(world.p)
    assert world.writing not in world.p or world.p[world.writing] == POLLOUT


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


ACTS: dict[str, Act] = {
    "registers another": register_spare,
    "unregisters the same": unregister,
    "moves the same to the end": move_to_the_end,
    "modifies the same": modify,
    "grows and shrinks the set": grow_and_shrink,
    "unregisters all": unregister_all,
    "waits": wait,
    "looks": look,
    "closes the descriptor": close_descriptor,
    "opens another file there": lambda world: os.dup2(world.spare_writing, world.reading),
    "makes the set again": lambda world: world.p.__init__(),  # type: ignore[misc]
    "collects garbage": collect_garbage,
    "lets another thread in": in_another_thread,
    "recurses without end": recurse_without_end,
}

# These two take PyPy a tenth of a second each time.
QUICK_ACTS = {
    name: act for name, act in ACTS.items() if act not in (collect_garbage, recurse_without_end)
}


class Meddler:
    """Does something whenever it is asked what it stands for."""

    def __init__(self, answer: Any, act: Callable[[], object]) -> None:
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


class Call(NamedTuple):
    """Calls with something that *of* makes of a number: the number, or a *kind* of meddler."""

    made: Callable[[World, Callable[[Any], Any]], object]
    kind: Callable[[Any, Callable[[], object]], Any] = Meddler
    # What becomes of an exception of the meddler, if it does not leave the call.
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
    "selector.register": Call(
        lambda w, of: w.selector.register(of(w.spare), EVENT_READ), becomes=ValueError
    ),
    "selector.register again": Call(
        lambda w, of: w.selector.register(of(w.reading), EVENT_READ), becomes=ValueError
    ),
    "selector.modify": Call(
        lambda w, of: w.selector.modify(of(w.reading), EVENT_WRITE), becomes=ValueError
    ),
    "selector.unregister": Call(
        lambda w, of: w.selector.unregister(of(w.reading)), becomes=ValueError
    ),
    "selector.get_key": Call(lambda w, of: w.selector.get_key(of(w.reading)), becomes=ValueError),
    "selector.select": Call(lambda w, of: w.selector.select(of(0))),
    "selector.select for a ratio": Call(lambda w, of: w.selector.select(of(SHORT)), MeddlingRatio),
}


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


Kind = Callable[[Any, Callable[[], object]], Any]
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
def test_what_an_object_raises_ends_the_call_and_undoes_nothing(call: Call) -> None:
    for name, act in QUICK_ACTS.items():

        def kind(answer: Any, act: Callable[[], object]) -> Any:
            def act_and_raise() -> None:
                act()
                raise RefusalError

            return call.kind(answer, act_and_raise)

        _, *after = done(act, NOTHING)
        raised = call.becomes or RefusalError
        assert (name, done(act, call, kind)) == (name, (raised, *after))


class Shown:
    """No number at all, and does something when a message names it."""

    def __init__(self, _answer: object, act: Callable[[], object]) -> None:
        self.act = act

    def __repr__(self) -> str:
        self.act()
        return "shown"


@pytest.mark.parametrize("call", rows({n: c for n, c in CALLS.items() if c.kind is Meddler}))
def test_what_an_object_does_when_shown_happens_before_its_refusal(call: Call) -> None:
    for name, act in QUICK_ACTS.items():
        error, *after = done(act, call, Shown)
        assert error in (TypeError, ValueError)
        _, *expected = done(act, NOTHING)
        assert (name, after) == (name, expected)


class FileLike:
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd


MASKS: dict[str, tuple[Callable[[World], Any], type[Exception]]] = {
    "an iterator that raises": (lambda w: (w.p[fd] for fd in (w.reading, w.spare)), KeyError),
    "__iter__() returns no iterator": (lambda _: MeddlingMask(5, lambda: None), TypeError),
    "an iterator that stops by itself": (lambda _: (next(iter(())) for _ in "x"), RuntimeError),
    "numbers without end": (lambda _: itertools.count(signal.NSIG - 1), ValueError),
    "a set that grows": (lambda _: growing({1}), RuntimeError),
    "a str": (lambda _: "\x01", TypeError),
    "signals and a descriptor": (lambda w: [SIGNAL, FileLike(w.reading)], TypeError),
}


def growing(signals: set[int]) -> Iterator[int]:
    for number in signals:
        signals.add(number + 1)
        yield number


@pytest.mark.parametrize("row", rows(MASKS))
def test_a_bad_signal_mask_changes_no_mask(
    world: World, row: tuple[Callable[[World], Any], type[Exception]]
) -> None:
    make, error = row
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with nothing_changes(world), pytest.raises(error) as caught:
        world.p.ppoll(0, make(world))
    assert caught.type is error
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


class LyingInt(int):
    """Tells of another number than the one it is."""

    def _lie(self, *_arguments: object) -> Any:
        return 7

    __int__ = __index__ = __neg__ = __add__ = __mul__ = __and__ = __rand__ = _lie

    def __eq__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__
    __ne__ = __le__ = __ge__ = __eq__
    __gt__ = __lt__


@needs_ppoll
def test_a_signal_number_is_what_it_is_and_not_what_it_says() -> None:
    taken = []
    handler = signal.signal(signal.SIGUSR1, lambda number, _frame: taken.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [SIGNAL])
    try:
        signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
        assert Poll().ppoll(0, [LyingInt(SIGNAL)]) == []
        assert taken == []
        assert Poll().ppoll(0, [LyingInt(signal.SIGUSR2)]) == []
        assert taken == [SIGNAL]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, handler)


@pytest.mark.filterwarnings("ignore:.*__index__ returned non-int:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*__index__.. must return an int:DeprecationWarning")
def test_an_index_that_lies_is_what_it_is_and_not_what_it_says(world: World) -> None:
    def lying(number: int) -> Any:
        return Meddler(LyingInt(number), lambda: None)

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
    with nothing_changes(world):
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


@numbers.Real.register
class Measured:
    """A real number that says no more than how large it is."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


@pytest.mark.parametrize(
    "seconds", [LyingInt(0), LyingInt(-1), Meddler(-1, lambda: None), Measured(-0.5)]
)
def test_a_selector_does_not_wait_for_less_than_nothing(world: World, seconds: Any) -> None:
    selector = PollSelector()
    selector.register(world.spare, EVENT_READ)
    # Ends the wait that must not be.
    timer = threading.Timer(5, os.write, (world.spare_writing, b"x"))
    timer.start()
    try:
        assert selector.select(seconds) == []
    finally:
        timer.cancel()
        timer.join()


class Quarrelsome:
    """Has a file descriptor and answers no question but for that."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def _quarrel(self, *_arguments: object) -> Any:
        raise AssertionError("none of your business")

    __eq__ = __ne__ = __lt__ = __hash__ = __bool__ = __len__ = __iter__ = _quarrel
    __contains__ = __index__ = __int__ = __repr__ = __str__ = __format__ = _quarrel


def test_a_selector_asks_a_file_object_for_its_descriptor_and_data_for_nothing(
    world: World,
) -> None:
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
    assert [ready for ready, _ in selector.select(0) if ready.fd == fileobj.fd] == [changed]
    fileobj.fd = other.fd = -1
    assert selector.unregister(fileobj) is changed
    with pytest.raises(ValueError, match="Invalid file object"):
        selector.get_key(fileobj)
    assert selector.unregister(other).fileobj is other


def test_events_are_what_they_are_and_not_what_they_say(world: World) -> None:
    selector = world.selector
    key = selector.register(world.spare_writing, Incomparable(EVENT_WRITE))
    assert (key, EVENT_WRITE) in selector.select(0)
    assert selector.modify(world.spare_writing, Incomparable(EVENT_WRITE)) is key
    changed = selector.modify(world.spare_writing, Incomparable(EVENT_READ))
    assert changed.events == EVENT_READ
    assert [ready.fd for ready, _ in selector.select(0)] == [world.writing, world.reading]
    with nothing_changes(world):
        for events in (Incomparable(16), Incomparable(-1)):
            with pytest.raises(ValueError, match="Invalid events"):
                selector.modify(world.reading, events)
        for bad in ("x", None, 1.0, Shown(1, lambda: None)):
            with pytest.raises(TypeError, match="events must be an int, not"):
                selector.modify(world.reading, bad)  # type: ignore[arg-type]


def test_a_closed_file_object_is_found_while_another_thread_changes_keys() -> None:
    selector = PollSelector()
    files = [FileLike(NEVER_OPENED - number) for number in range(3000)]
    for file in files:
        selector.register(file, EVENT_READ)
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            selector.register(0, EVENT_READ)
            selector.unregister(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for file in files[-200:]:
            file.fd = -1
            assert selector.unregister(file).fileobj is file
    finally:
        done.set()
        thread.join(PATIENCE)
        sys.setswitchinterval(interval)


# ---- What is hard to show --------------------------------------------------------------------


class EqualToAll(type):
    """Makes classes that are equal to every other, str among them."""

    def __eq__(cls, other: object) -> bool:
        return True

    def __ne__(cls, other: object) -> bool:
        return False

    __hash__ = type.__hash__


class LyingStr(str, metaclass=EqualToAll):
    """Is not as long as it says, and cannot be formatted."""

    __slots__ = ()

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: object) -> LyingStr:
        return self

    def __add__(self, other: str) -> LyingStr:
        return self

    __radd__ = __add__

    def __format__(self, spec: str) -> str:
        raise RefusalError


class LyingMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__repr__"):
            raise RefusalError
        return super().__getattribute__(name)


class Untold(metaclass=LyingMeta):
    pass


class ShownByLies:
    def __repr__(self) -> str:
        return LyingStr("lies")


class ShownWithoutEnd:
    def __repr__(self) -> str:
        return repr(self)


class Misnamed:
    pass


Misnamed.__name__ = LyingStr("Misnamed")


def nested(depth: int) -> object:
    return [nested(depth - 1)] * 6 if depth else "0123456789" * 3


UNSHOWABLE: dict[str, Callable[[], Any]] = {
    "its class does not tell its name": Untold,
    "its class has a name that lies": Misnamed,
    "its class has a long name": type("L" * 10_000, (), {}),
    "its repr is a str that lies": ShownByLies,
    "its repr never ends": ShownWithoutEnd,
    "its repr is long all over": lambda: nested(4),
}


@pytest.mark.parametrize("make", rows(UNSHOWABLE))
def test_what_is_hard_to_show_is_refused_like_anything_else(
    world: World, make: Callable[[], Any]
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: world.p.register(make()),
        lambda: world.p.register(FileLike(make())),
        lambda: world.p.register(0, make()),
        lambda: world.p.poll(make()),
        lambda: world.p.ppoll(0, [make()]),
        lambda: world.selector.register(make(), EVENT_READ),
    ]
    with nothing_changes(world):
        for call in calls:
            # Not by pytest.raises(): pytest fails itself where it shows such objects.
            try:
                call()
            except Exception as error:
                kind, message = type(error), str(error)
            assert kind in (TypeError, ValueError)
            assert re.match("[a-z ]+ must |fileno|Invalid file object: ", message)
            assert len(message) < 450


def message_about(value: Any) -> str:
    with pytest.raises(TypeError) as caught:
        Poll().register(0, value)
    return str(caught.value)


@pytest.mark.parametrize("length", [197, 198, 199, 10_000])
def test_what_a_message_shows_is_cut_after_200_characters(length: int) -> None:
    shown = "a " + "L" * length
    cut = shown if len(shown) <= 200 else shown[:200] + "..."
    assert message_about(type("L" * length, (), {})()) == f"event mask must be an int, not {cut}"


class EqualMethod:
    """Is equal to the repr that every object has."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __call__(self) -> str:
        return "shown all the same"

    __hash__ = object.__hash__


def test_an_object_with_a_repr_of_its_own_is_shown_by_it() -> None:
    value = type("Shown", (), {"__repr__": EqualMethod()})()
    assert message_about(value) == "event mask must be an int, not shown all the same"


# ---- Deep recursion --------------------------------------------------------------------------

# So many ready that a result is handed over in parts.
MANY = 150


@pytest.fixture
def many() -> Iterator[list[int]]:
    """Descriptors that are ready for writing."""
    reading, writing = os.pipe()
    fds = [writing, *(os.dup(writing) for _ in range(MANY - 1))]
    yield fds
    for fd in (reading, *fds):
        os.close(fd)


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


def at_the_end(call: Callable[[], object]) -> object:
    """Call from the deepest level, then one higher and so on until it succeeds."""
    try:
        return at_the_end(call)
    except RecursionError:  # suppress() would take a level of its own
        pass
    return call()


@pytest.mark.skipif(PYPY, reason="PyPy's limit is one of stack space, so no depth is near it")
def test_a_call_where_recursion_ends_succeeds_or_changes_nothing(
    world: World, many: list[int]
) -> None:
    for fd in many:
        world.p.register(fd, POLLOUT)
    before = list(world.p)
    attempts: list[int] = []

    def register() -> None:
        attempts.append(NEVER_OPENED + len(attempts) + 1)
        world.p.register(FileLike(attempts[-1]), Meddler(0, lambda: None))

    at_the_end(register)
    assert list(world.p) == [*before, attempts[-1]]
    if sys.version_info >= (3, 10):
        # Before, whoever has caught a RecursionError has 50 levels more, and may succeed at once.
        assert len(attempts) > 1
    ready = world.p.poll(0)
    assert at_the_end(lambda: world.p.poll(0)) == ready
    assert at_the_end(lambda: world.p.poll(SHORT)) == ready
    assert len(ready) == MANY + 4


NEAR_THE_LIMIT: dict[str, Callable[[World, int], object]] = {
    "register": lambda w, fd: w.p.register(fd, 0),
    "register an object": lambda w, fd: w.p.register(FileLike(fd), 0),
    "register with a mask": lambda w, fd: w.p.register(fd, Meddler(0, lambda: None)),
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
            for fd in many:
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


# ---- Too early -------------------------------------------------------------------------------


def ran(program: str, directory: Path) -> tuple[int, str, str]:
    """Run a program in which what is freed is overwritten, and one that hangs is stopped."""
    limited = f"import faulthandler\nfaulthandler.dump_traceback_later({PATIENCE}, exit=True)\n"
    done = subprocess.run(
        [sys.executable, "-c", limited + program],
        cwd=directory,
        env={**os.environ, "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


class RefusesLate(Poll):
    """Fails once it has told somebody of itself."""

    def __init__(self, told: list[Poll]) -> None:
        told.append(self)
        raise RefusalError


class RefusesEarly(Poll):
    def __new__(cls) -> RefusesEarly:
        super().__new__(cls)
        raise RefusalError


def test_a_set_whose_construction_failed_works_where_it_is_known(world: World) -> None:
    told: list[Poll] = []
    with pytest.raises(RefusalError):
        RefusesLate(told)
    told[0].register(world.writing, POLLOUT)
    assert told[0].poll() == [(world.writing, POLLOUT)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
def test_failed_constructions_keep_no_memory() -> None:
    def size() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def fail() -> None:
        for _ in range(5000):
            with contextlib.suppress(RefusalError):
                RefusesEarly()
            with contextlib.suppress(RefusalError):
                RefusesLate([])

    fail()
    before = size()
    fail()
    # Each of the 10,000 sets has more than 1,500 bytes.
    assert size() - before < 5_000_000


UNMADE: dict[str, Callable[[], Any]] = {
    "object.__new__": lambda: object.__new__(Poll),
    "copyreg": lambda: copyreg._reconstructor(Poll, object, None),  # type: ignore[attr-defined]
    "PollSelector.__new__": lambda: PollSelector.__new__(PollSelector),
}

METHODS: dict[str, Callable[[Any], object]] = {
    "register": lambda p: p.register(0, EVENT_READ),
    "modify": lambda p: p.modify(0, EVENT_READ),
    "unregister": lambda p: p.unregister(0),
    "poll": lambda p: p.poll(),
    "poll(0)": lambda p: p.poll(0),
    "poll(1)": lambda p: p.poll(1),
    "ppoll": lambda p: p.ppoll(0, ()),
    "select": lambda p: p.select(0),
    "close": lambda p: p.close(),
    "get_key": lambda p: p.get_key(0),
    "len": len,
    "in": lambda p: 0 in p,
    "[]": lambda p: p[0],
    "list": list,
}


@pytest.mark.parametrize("make", rows(UNMADE))
def test_what_was_never_made_fails_and_does_not_crash(make: Callable[[], Any]) -> None:
    for call in METHODS.values():
        with pytest.raises((AttributeError, TypeError, NotImplementedError)):
            call(make())


class Other(Poll):
    """A subclass like RefusesLate."""


def test_a_set_may_become_one_of_another_class(world: World) -> None:
    p = Other()
    p.register(world.writing, POLLOUT)
    p.__class__ = RefusesLate  # type: ignore[assignment]
    assert p.poll() == [(world.writing, POLLOUT)]
    with pytest.raises(TypeError):
        p.__class__ = World  # type: ignore[assignment]
    assert p.poll() == [(world.writing, POLLOUT)]


class Server(Poll):
    def __init__(self) -> None:
        self._few = self._many = self._owner = self._set = self._window = "somebody"


def test_a_subclass_may_give_its_attributes_any_names(many: list[int]) -> None:
    server = Server()
    for fd in many:
        server.register(fd, POLLOUT)
    assert server.poll(0) == server.poll(1) == [(fd, POLLOUT) for fd in many]
    assert set(vars(server).values()) == {"somebody"}


# ---- Too late --------------------------------------------------------------------------------


# What the collector finds in a cycle it finalizes in an order of its own.
CYCLES = """
import asyncio, gc, os, warnings
import pypoll

gc.disable()
reading, writing = os.pipe()
ready = [(writing, pypoll.POLLOUT)]
died = []


def set_of(fd, cls=pypoll.Poll):
    p = cls()
    p.register(fd, pypoll.POLLOUT)
    return p


def collect():
    for _ in range(5):
        gc.collect()
"""

RETURNS = """
class Revenant(pypoll.Poll):
    def __del__(self):
        died.append((self, self.poll(0)))


for _ in range(100):
    p = set_of(writing, Revenant)
    p.cycle = p
del p
collect()
assert len(died) > 50, died
for p, seen in died:
    assert seen == p.poll(0) == ready, seen
    p.register(reading, 0)
    assert list(p) == [writing, reading]
"""

TIDIES_UP = """
class Server:
    def __init__(self, p):
        self.p = p
        self.cycle = self

    def __del__(self):
        died.append(self.p.poll(0))
        for fd in range(1000, 1100):
            self.p.register(fd, 0)
        self.p.unregister(writing)
        assert list(self.p) == list(range(1000, 1100))


for _ in range(100):
    Server(set_of(writing))
collect()
assert len(died) > 50, died
assert all(seen == ready for seen in died), died
"""

EVENT_LOOP = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(10):
        loop = asyncio.SelectorEventLoop(pypoll.PollSelector())
        loop.run_until_complete(asyncio.sleep(0))
        loop.cycle = loop
    del loop
    collect()
closed = [warning for warning in caught if "unclosed event loop" in str(warning.message)]
assert len(closed) > 5, caught
"""


@pytest.mark.parametrize(
    "program",
    [RETURNS, TIDIES_UP, EVENT_LOOP],
    ids=["waits and comes back", "tidies up", "an event loop that nobody closed"],
)
def test_a_set_can_be_used_until_all_finalizers_have_run(program: str, tmp_path: Path) -> None:
    assert ran(CYCLES + program, tmp_path) == (0, "", "")


POLL_CALLS = {name: call for name, call in CALLS.items() if not name.startswith("selector")}


@pytest.mark.parametrize("call", rows(POLL_CALLS))
def test_a_set_that_is_dropped_in_a_call_lives_just_as_long_as_that(
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


def test_a_thread_that_waits_in_a_set_keeps_it(
    pipe: tuple[int, int], until_waiting: Callable[[Poll], None]
) -> None:
    p = Poll()
    p.register(pipe[0], POLLIN)
    reference = weakref.ref(p)
    results: list[object] = []

    def wait(p: Poll) -> None:
        while not results:
            with contextlib.suppress(RuntimeError):
                results.append(p.poll())

    thread = threading.Thread(target=wait, args=(p,))
    thread.start()
    until_waiting(p)
    del p
    gc.collect()
    for _ in range(100):
        Poll().register(0, 0)
    os.write(pipe[1], b"x")
    thread.join(PATIENCE)
    assert results == [[(pipe[0], POLLIN)]]
    while PYPY and reference() is not None:
        gc.collect()
    assert reference() is None


@pytest.mark.skipif(PYPY or FREE_THREADED, reason="collects when it likes, whatever the threshold")
def test_a_collector_that_calls_others_in_the_middle_of_calls_disturbs_nothing(
    world: World, many: list[int]
) -> None:
    """It does at any allocation. They wait in the same set and change it, and are never refused."""
    p, selector = world.p, world.selector
    for fd in many:
        p.register(fd, POLLOUT)
        selector.register(fd, EVENT_WRITE)
    ours = list(p)
    ready = p.poll(0)
    keys = selector.select(0)
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
            if p.poll(0) != ready:
                failures.append("poll")
            if selector.select(0)[1:] != keys[1:]:
                failures.append("select")
        except BaseException as error:
            failures.append(error)

    threshold = gc.get_threshold()
    try:
        gc.callbacks.append(act)
        gc.set_threshold(1, 10**6, 10**6)
        for turn in range(100):
            assert p.poll(0) == p.poll(SHORT) == ready
            assert selector.select(0) == keys
            p.register(FileLike(world.writing), Meddler(POLLOUT, lambda: None))
            p.modify(FileLike(world.reading), POLLIN)
            assert [fd for fd in p if fd != world.spare] == ours
            keys[0] = (selector.modify(world.writing, EVENT_WRITE, turn), EVENT_WRITE)
            assert repr(p)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(act)
    assert failures == []
    assert turns > 100


# Daemon threads that wait, read results or change a set while the interpreter goes down.
WAITING = """
import os, signal, sys, threading, time
import pypoll

idle, waker = os.pipe()
many = [os.dup(waker) for _ in range(300)]


def set_of(fds, mask):
    p = pypoll.Poll()
    for fd in fds:
        p.register(fd, mask)
    return p


def selector_of(fds, events):
    selector = pypoll.PollSelector()
    for fd in fds:
        selector.register(fd, events)
    return selector


changed = set_of([idle], pypoll.POLLIN)


def change():
    for fd in many:
        changed.register(fd, 0)
    for fd in many:
        changed.unregister(fd)


def in_thread(call):
    def call_for_ever():
        while True:
            try:
                call()
            except RuntimeError:  # the main thread looks whether this one waits
                pass

    threading.Thread(target=call_for_ever, daemon=True).start()


waiting = [set_of([idle], pypoll.POLLIN) for _ in range(4)]
in_thread(waiting[0].poll)
in_thread(lambda: waiting[1].poll(3_600_000))
in_thread(lambda: waiting[2].ppoll(3_600_000.5))
in_thread(lambda: waiting[3].poll(0.1))
in_thread(lambda: pypoll.poll_fd(idle, pypoll.POLLIN))
in_thread(lambda: pypoll.poll_fd(idle, pypoll.POLLIN, 0.1))
in_thread(selector_of([idle], pypoll.EVENT_READ).select)
in_thread(lambda selector=selector_of([idle], pypoll.EVENT_READ): selector.select(3600))
in_thread(lambda p=set_of(many, pypoll.POLLOUT): p.poll(0))
in_thread(lambda selector=selector_of(many, pypoll.EVENT_WRITE): selector.select(0))
in_thread(change)
in_thread(lambda: changed.poll(0.1))
in_thread(lambda: set_of(many, pypoll.POLLOUT))
if pypoll.library.lib.pypoll_has_ppoll():
    in_thread(lambda p=set_of([idle], 1): p.ppoll(None, {signal.SIGUSR1}))


def is_refused(wait):
    try:
        wait(0)
    except RuntimeError:
        return True
    return False


while not all(is_refused(p.poll) for p in waiting[:3]):
    time.sleep(0.001)
"""

# A thread that goes on in the middle of the end must not. The names of sys alone are dropped by the
# interpreter itself: those of __main__ live on in the frames of the threads.
WOKEN = """
class Last:
    def __del__(self, write=os.write, fd=waker, sleep=time.sleep):
        write(fd, b"x")
        sleep(0.05)
        write(1, b"woken")


sys.last_of_all = Last()
"""

AT_EXIT = """
import atexit


def look():
    for p in waiting:
        p.register(waker, 0)
        p.unregister(waker)
    assert is_refused(waiting[0].poll)
    assert set_of([waker], pypoll.POLLOUT).poll(0) == [(waker, pypoll.POLLOUT)]


atexit.register(look)
"""


@pytest.mark.parametrize("end", ["", WOKEN, AT_EXIT], ids=["asleep", "woken", "in atexit"])
def test_the_interpreter_ends_while_threads_wait(end: str, tmp_path: Path) -> None:
    for _ in range(2):
        # PyPy calls no __del__ when it ends.
        woken = "woken" if end is WOKEN and sys.implementation.name != "pypy" else ""
        assert ran(WAITING + end, tmp_path) == (0, woken, "")


FINALIZED = """
import atexit, os
import pypoll

reading, writing = os.pipe()


class Late(pypoll.Poll):
    def __init__(self, name):
        self.name = name
        self.selector = pypoll.PollSelector()

    def look(self, write=os.write, fd=writing, other=reading, poll_fd=pypoll.poll_fd):
        self.register(fd, 4)
        self.register(other, 1)
        self.modify(other, 0)
        assert self.poll(0) == self.poll(0.01) == self.ppoll() == [(fd, 4)]
        assert repr(self) and list(self) == [fd, other]
        self.unregister(other)
        self.selector.register(fd, 2)
        assert [(key.fd, events) for key, events in self.selector.select(0.01)] == [(fd, 2)]
        self.selector.close()
        assert poll_fd(fd, 4, 0) == 4
        write(1, self.name)

    __del__ = look


in_module = Late(b"finalized ")
atexit.register(in_module.look)
in_cycle = Late(b"finalized ")
in_cycle.cycle = in_cycle
"""


def test_what_is_finalized_with_the_interpreter_can_still_poll(tmp_path: Path) -> None:
    looks = 1 if PYPY else 3  # PyPy ends without finalizing
    assert ran(FINALIZED, tmp_path) == (0, "finalized " * looks, "")
