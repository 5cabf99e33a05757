"""Poll and PollSelector do what models of them in plain Python do, and what the standard ones do.

hypothesis chooses the calls, on real descriptors. The models know what is registered, and in what
order; what it is ready for they ask the kernel, one descriptor at a time.
"""

from __future__ import annotations

import errno
import math
import os
import select
import selectors
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from operator import or_
from selectors import SelectorKey
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import pypoll
from pypoll import (
    EVENT_HANGUP,
    EVENT_READ,
    EVENT_URGENT,
    EVENT_WRITE,
    POLLIN,
    POLLOUT,
    POLLPRI,
    Poll,
    PollEvent,
    PollSelector,
)
from support import HAS_PPOLL, PYPY

DEFAULT_MASK = POLLIN | POLLPRI | POLLOUT
ANY_EVENT = EVENT_READ | EVENT_WRITE | EVENT_URGENT | EVENT_HANGUP
# 0 where the system does not have it.
POLLRDHUP = getattr(pypoll, "POLLRDHUP", 0)

# The kernel gives the lowest number that is free, so nobody else's file comes here.
NEAR = range(600, 800)
FEW = NEAR[:6]

# Never open. So many apart, a Fibonacci number, that they crowd in the shim's hash table.
FAR = range(2**31 - 1 - 300 * 987, 2**31, 987)


class File:
    """A file object; that of a closed socket has the number -1."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


def some_of(numbers: range) -> st.SearchStrategy[Sequence[int]]:
    def part(start: int, step: int, count: int) -> Sequence[int]:
        return numbers[start::step][: count + 1]

    places = st.integers(0, len(numbers) - 1)
    return st.builds(part, places, st.sampled_from([1, 2, 3, -1]), places)


def one_of(numbers: Sequence[int]) -> st.SearchStrategy[Sequence[int]]:
    return st.sampled_from(numbers).map(lambda number: range(number, number + 1))


NEAR_NUMBERS = st.one_of(one_of(FEW), some_of(NEAR))
ONE = one_of([*FEW, FAR[-1]])
NUMBERS = st.one_of(ONE, ONE, some_of(NEAR), some_of(FAR))
AT_FIRST = st.one_of(st.just([]), ONE, some_of(NEAR), some_of(FAR), st.just([*NEAR, *FAR]))

MASKS = st.one_of(
    st.lists(st.sampled_from(list(PollEvent)), max_size=4).map(lambda bits: reduce(or_, bits, 0)),
    st.integers(0, 0xFFFF),
)


def times(longest: Fraction) -> st.SearchStrategy[Any]:
    """Return short times, as numbers of every kind, and no limits."""
    exact = st.fractions(0, longest)
    return st.one_of(
        exact,
        exact.map(float),
        exact.map(lambda time: Decimal(time.numerator) / time.denominator),
        st.sampled_from([0, -0.0, False, -1, -0.5, -1e-100, -math.inf, Fraction(-1, 3)]),
        st.sampled_from([None, math.inf, Decimal("Infinity")]),
    )


def kernel(fd: int, mask: int) -> int:
    """Ask the kernel for the events of one descriptor."""
    p = select.poll()
    p.register(fd, mask)
    return dict(p.poll(0)).get(fd, 0)


def outcome(call: Callable[..., object], *args: object) -> object:
    """Return what the call returns, or the type of what it raises."""
    try:
        return call(*args)
    except Exception as error:
        return type(error)


def in_order(ready: list[Any]) -> list[Any]:
    """Return a result as it compares with the interpreter's: PyPy's has an order of its own."""
    if not PYPY:
        return ready
    return sorted(ready, key=lambda pair: getattr(pair[0], "fd", pair[0]))


# ---- The descriptors -----------------------------------------------------------------------


OPENED: dict[str, Callable[[], tuple[int, ...]]] = {
    "a pipe": os.pipe,
    "sockets": lambda: tuple(each.detach() for each in socket.socketpair()),
    "a device": lambda: (os.open(os.devnull, os.O_RDWR),),
    "a regular file": lambda: (os.open(__file__, os.O_RDONLY),),
}
if hasattr(os, "eventfd"):
    OPENED["an eventfd"] = lambda: (os.eventfd(0),)


def by_socket(call: Callable[[socket.socket], object]) -> Callable[[int], object]:
    """Return the call as one for a descriptor."""

    def of_descriptor(fd: int) -> None:
        # CPython's constructor leaves open what it refuses; PyPy's collector closes that.
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, "not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(fd)) as sock:
            # PyPy's constructor has just undone that.
            sock.setblocking(False)
            call(sock)

    return of_descriptor


# Each changes what some descriptors are ready for, and fails with others.
STIRRED: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.write(fd, b"\0" * 7 + b"\1"),
    "fill": lambda fd: [os.write(fd, bytes(65536)) for _ in range(64)],
    "drain": lambda fd: [os.read(fd, 65536) for _ in range(64)],
    "shut down reading": by_socket(lambda sock: sock.shutdown(socket.SHUT_RD)),
    "shut down writing": by_socket(lambda sock: sock.shutdown(socket.SHUT_WR)),
}


class Descriptors(RuleBasedStateMachine):
    """Opens and closes numbers, and makes them ready and idle.

    Only kinds whose state changes at once: what a pty or a TCP connection is ready for, a thread
    of the kernel may change between two looks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[int, File] = {}

    def teardown(self) -> None:
        os.closerange(NEAR.start, NEAR.stop)

    def passed(self, number: int, as_file: bool) -> Any:
        """Return the number, or its file object: one and the same for as long as it is open."""
        return self.files.setdefault(number, File(number)) if as_file else number

    def close_file(self, number: int) -> None:
        if number in self.files:
            self.files.pop(number).number = -1

    @initialize(kind=st.sampled_from(list(OPENED)), source=st.sampled_from(FEW))
    def open_all(self, kind: str, source: int) -> None:
        """Begin with one of them on so many numbers that a write makes many ready."""
        for place, each in ((0, "sockets"), (2, "a pipe"), (4, kind)):
            self.open(each, FEW[place:])
        self.duplicate(source, NEAR[len(FEW) :: 2])

    @rule(kind=st.sampled_from(list(OPENED)), numbers=st.permutations(FEW))
    def open(self, kind: str, numbers: Sequence[int]) -> None:
        """Open it on these numbers, which may be open, and registered, already."""
        for number, fd in zip(numbers, OPENED[kind]()):
            self.close_file(number)
            os.set_blocking(fd, False)
            os.dup2(fd, number)
            os.close(fd)

    @rule(source=st.sampled_from(FEW), numbers=NEAR_NUMBERS)
    def duplicate(self, source: int, numbers: Sequence[int]) -> None:
        with suppress(OSError):
            for number in numbers:
                if number != source:
                    os.dup2(source, number)
                    self.close_file(number)

    @rule(numbers=NEAR_NUMBERS)
    def close(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.close_file(number)
            with suppress(OSError):
                os.close(number)

    @rule(
        stirs=st.lists(
            st.tuples(st.sampled_from(list(STIRRED)), st.sampled_from(FEW)), min_size=1, max_size=6
        )
    )
    def stir(self, stirs: list[tuple[str, int]]) -> None:
        for how, number in stirs:
            with suppress(OSError):
                STIRRED[how](number)

    @rule()
    def send_out_of_band(self) -> None:
        """Wherever it can be: nothing else makes POLLPRI."""
        for number in FEW:
            with suppress(OSError):
                by_socket(lambda sock: sock.send(b"!", socket.MSG_OOB))(number)


# ---- Poll ----------------------------------------------------------------------------------


class PlainPoll(dict[int, int]):
    """The model of Poll: the masks of the descriptors, in order."""

    def register(self, fd: int, mask: int = DEFAULT_MASK) -> None:
        self[fd] = mask

    def modify(self, fd: int, mask: int) -> None:
        if fd not in self:
            raise FileNotFoundError(errno.ENOENT)
        self[fd] = mask

    def unregister(self, fd: int) -> None:
        del self[fd]

    def poll(self) -> list[tuple[int, int]]:
        return [(fd, event) for fd, mask in self.items() if (event := kernel(fd, mask))]

    def __repr__(self) -> str:
        shown = [f" {fd}: {PollEvent(mask)}" for fd, mask in list(self.items())[:8]]
        return (
            f"<Poll of {len(self)}{':' * bool(self)}{','.join(shown)}{', ...' * (len(self) > 8)}>"
        )


WAITS: dict[str, Callable[[Poll, Any], Any]] = {
    "poll": lambda p, timeout: p.poll(timeout),
    "ppoll": lambda p, timeout: p.ppoll(timeout),
}
if HAS_PPOLL:
    WAITS["ppoll with a mask"] = lambda p, timeout: p.ppoll(timeout, {signal.SIGUSR1})


class PollMachine(Descriptors):
    """Does the same to a Poll, to the model, and to the interpreter's own object."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = Poll()
        self.theirs = select.poll()
        self.model = PlainPoll()

    def same(self, method: str, number: int, as_file: bool, *mask: int) -> None:
        expected = outcome(getattr(self.model, method), number, *mask)
        for each in (self.ours, self.theirs):
            assert outcome(getattr(each, method), self.passed(number, as_file), *mask) == expected

    @initialize(numbers=AT_FIRST, mask=MASKS)
    def register_some(self, numbers: Sequence[int], mask: int) -> None:
        self.register(numbers, False, [mask])

    @rule(numbers=NUMBERS, as_file=st.booleans(), mask=st.lists(MASKS, max_size=1))
    def register(self, numbers: Sequence[int], as_file: bool, mask: list[int]) -> None:
        for number in numbers:
            self.same("register", number, as_file, *mask)

    @rule(numbers=NUMBERS, as_file=st.booleans(), mask=MASKS)
    def modify(self, numbers: Sequence[int], as_file: bool, mask: int) -> None:
        for number in numbers:
            self.same("modify", number, as_file, mask)

    @rule(numbers=NUMBERS, as_file=st.booleans())
    def unregister(self, numbers: Sequence[int], as_file: bool) -> None:
        for number in numbers:
            self.same("unregister", number, as_file)

    @rule()
    def unregister_what_is_ready(self) -> None:
        for fd, _ in self.model.poll():
            self.same("unregister", fd, False)

    @rule(call=st.sampled_from(list(WAITS)), timeout=times(Fraction(1, 4)))
    def wait(self, call: str, timeout: Any) -> None:
        expected = self.model.poll()
        limited = timeout is not None and 0 <= timeout < math.inf
        # Nothing would end it.
        if not expected and not limited:
            return
        begun = time.monotonic_ns()
        assert WAITS[call](self.ours, timeout) == expected
        waited = time.monotonic_ns() - begun
        assert expected or waited >= Fraction(timeout) * 1_000_000

    @rule(numbers=NUMBERS, as_file=st.booleans(), mask=MASKS)
    def look_up(self, numbers: Sequence[int], as_file: bool, mask: int) -> None:
        for number in numbers:
            fd = self.passed(number, as_file)
            assert (fd in self.ours) == (number in self.model)
            assert outcome(self.ours.__getitem__, fd) == outcome(self.model.__getitem__, number)
            assert pypoll.poll_fd(fd, mask, 0) == kernel(number, mask)

    @invariant()
    def what_is_registered_is_the_same(self) -> None:
        assert [(fd, self.ours[fd]) for fd in self.ours] == list(self.model.items())
        assert len(self.ours) == len(self.model)
        assert repr(self.ours) == repr(self.model)
        assert bool(self.ours) is True

    @invariant()
    def what_is_ready_is_the_same(self) -> None:
        ready = self.ours.poll(0)
        assert ready == self.model.poll()
        assert in_order(ready) == in_order(self.theirs.poll(0))


# ---- PollSelector --------------------------------------------------------------------------


def selected(fd: int, asked: int) -> int:
    """Ask the kernel which of the events a selector reports.

    All, if it is broken or hung up and nobody asks for that; none in a pause.
    """
    if kernel(fd, 0) and not asked & EVENT_HANGUP:
        return asked
    masks = {EVENT_READ: POLLIN, EVENT_WRITE: POLLOUT, EVENT_URGENT: POLLPRI}
    ready = sum(event for event, mask in masks.items() if asked & event and kernel(fd, mask) & mask)
    return ready | (EVENT_HANGUP if asked & EVENT_HANGUP and kernel(fd, POLLRDHUP) else 0)


class PlainSelector(dict[int, SelectorKey]):
    """The model of PollSelector: the keys of the descriptors, in order.

    Results have an order of their own: a descriptor that was paused comes last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.polled: dict[int, None] = {}

    def put(self, key: SelectorKey) -> SelectorKey:
        self[key.fd] = key
        if key.events:
            self.polled[key.fd] = None
        else:
            self.polled.pop(key.fd, None)
        return key

    def fd_of(self, fileobj: Any) -> int:
        number: int = fileobj.fileno() if isinstance(fileobj, File) else fileobj
        if number >= 0:
            return number
        for key in self.values():
            if key.fileobj is fileobj:
                return key.fd
        raise ValueError(fileobj)

    def register(self, fileobj: Any, events: int, data: object) -> SelectorKey:
        if not 0 < events <= ANY_EVENT:
            raise ValueError(events)
        fd = self.fd_of(fileobj)
        if fd in self:
            raise KeyError(fileobj)
        return self.put(SelectorKey(fileobj, fd, events, data))

    def modify(self, fileobj: Any, events: int, data: object) -> SelectorKey:
        if not 0 <= events <= ANY_EVENT:
            raise ValueError(events)
        return self.put(self.get_key(fileobj)._replace(events=events, data=data))

    def unregister(self, fileobj: Any) -> SelectorKey:
        key = self.pop(self.fd_of(fileobj))
        self.polled.pop(key.fd, None)
        return key

    def get_key(self, fileobj: Any) -> SelectorKey:
        return self[self.fd_of(fileobj)]

    def select(self) -> list[tuple[SelectorKey, int]]:
        keys = map(self.__getitem__, self.polled)
        return [(key, events) for key in keys if (events := selected(key.fd, key.events))]


VALID_EVENTS = st.integers(1, ANY_EVENT)
EVENTS = st.one_of(
    VALID_EVENTS,
    VALID_EVENTS,
    st.sampled_from([0, ANY_EVENT + 1, EVENT_READ | 1 << 70, -1]),
)

# How a file object is named: by its number, itself, or as it was registered (and closed since).
NAMED = st.sampled_from(["number", "file", "registered"])


class SelectorMachine(Descriptors):
    """Does the same to a PollSelector, to the model, and to the standard library's own."""

    @initialize(extended=st.booleans(), numbers=AT_FIRST, events=VALID_EVENTS)
    def begin(self, extended: bool, numbers: Sequence[int], events: int) -> None:
        self.ours = PollSelector()
        # The library's own knows reading and writing, and no pause.
        self.theirs = None if extended else selectors.PollSelector()
        self.model = PlainSelector()
        self.register(numbers, "file", events, 0)

    def fileobj(self, number: int, named: str) -> Any:
        if named == "registered" and number in self.model:
            return self.model[number].fileobj
        return self.passed(number, named != "number")

    def events(self, events: int) -> int:
        """Return what both selectors know of the events."""
        return events & ~(EVENT_URGENT | EVENT_HANGUP) if self.theirs and events > 0 else events

    @rule(numbers=NUMBERS, named=NAMED, events=EVENTS, data=st.integers(0, 2))
    def register(self, numbers: Sequence[int], named: str, events: int, data: int) -> None:
        for number in numbers:
            self.same("register", number, named, self.events(events), data)

    @rule(numbers=NUMBERS, named=NAMED, events=EVENTS | st.just(0), data=st.integers(0, 2))
    def modify(self, numbers: Sequence[int], named: str, events: int, data: int) -> None:
        events = self.events(events)
        for number in numbers if events or not self.theirs else ():
            self.same("modify", number, named, events, data)

    @rule(numbers=NUMBERS, named=NAMED, data=st.integers(0, 2))
    def modify_data(self, numbers: Sequence[int], named: str, data: int) -> None:
        for number in numbers:
            if number in self.model:
                self.same("modify", number, named, self.model[number].events, data)

    @rule(numbers=NUMBERS, named=NAMED, method=st.sampled_from(["unregister", "get_key"]))
    def unregister(self, numbers: Sequence[int], named: str, method: str) -> None:
        for number in numbers:
            self.same(method, number, named)

    @rule()
    def unregister_what_is_ready(self) -> None:
        for key, _ in self.model.select():
            self.same("unregister", key.fd, "registered")

    def same(self, method: str, number: int, named: str, *args: int) -> None:
        fileobj = self.fileobj(number, named)
        expected = outcome(getattr(self.model, method), fileobj, *args)
        assert outcome(getattr(self.ours, method), fileobj, *args) == expected
        # The library's own modify() takes whatever the events are.
        if self.theirs and not (method == "modify" and expected is ValueError):
            assert outcome(getattr(self.theirs, method), fileobj, *args) == expected

    @rule(timeout=times(Fraction(1, 4000)))
    def select(self, timeout: Any) -> None:
        expected = self.model.select()
        limited = timeout is not None and timeout < math.inf
        # Nothing would end it.
        if not expected and not limited:
            return
        begun = time.monotonic_ns()
        assert in_order(self.ours.select(timeout)) == in_order(expected)
        waited = time.monotonic_ns() - begun
        assert expected or waited >= timeout * 1_000_000_000

    @rule(extended=st.booleans(), numbers=AT_FIRST, events=VALID_EVENTS)
    def close_and_begin_anew(self, extended: bool, numbers: Sequence[int], events: int) -> None:
        registered = self.ours.get_map()
        for selector in filter(None, (self.ours, self.theirs)):
            selector.close()
            assert outcome(selector.get_key, FEW[0]) is RuntimeError
            assert selector.get_map() is None
            assert selector.select(0) == []
        assert dict(registered) == {}
        self.begin(extended, numbers, events)

    @invariant()
    def what_is_registered_is_the_same(self) -> None:
        assert list(self.ours.get_map().items()) == list(self.model.items())
        assert len(self.ours.get_map()) == len(self.model)

    @invariant()
    def what_is_ready_is_the_same(self) -> None:
        ready = self.ours.select(0)
        assert in_order(ready) == in_order(self.model.select())
        if self.theirs:
            assert in_order(ready) == in_order(self.theirs.select(0))


# ---- Running them --------------------------------------------------------------------------


@pytest.fixture
def nothing_left_behind(tmp_path: Any) -> Iterator[None]:
    """Keep what hypothesis writes to disk, whatever its database, out of the current directory."""
    set_hypothesis_home_dir(tmp_path)
    yield
    set_hypothesis_home_dir(None)


@pytest.mark.usefixtures("nothing_left_behind")
@pytest.mark.parametrize("machine", [PollMachine, SelectorMachine])
def test_it_does_what_its_model_does(machine: type[Descriptors], long_profile: bool) -> None:
    """The long profile takes PYPOLL_TESTS_SECONDS for each of the two."""
    profile = settings(
        max_examples=100,
        stateful_step_count=40,
        derandomize=not long_profile,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        # A busy machine draws slowly.
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(machine, settings=profile)
    if long_profile:
        deadline = time.monotonic() + float(os.environ.get("PYPOLL_TESTS_SECONDS", "1200"))
        while time.monotonic() < deadline:
            run_state_machine_as_test(machine, settings=profile)
