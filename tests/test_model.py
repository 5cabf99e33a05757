"""Poll and PollSelector behave like models of them in plain Python, and Poll like select.poll.

hypothesis chooses the calls, on real descriptors. The models keep what is registered, in order.
They ask the kernel what is ready, one descriptor at a time.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
from support import HAS_PPOLL, PYPY, outcome

DEFAULT_MASK = POLLIN | POLLPRI | POLLOUT
ANY_EVENT = EVENT_READ | EVENT_WRITE | EVENT_URGENT | EVENT_HANGUP
# 0 if the system lacks it.
POLLRDHUP = getattr(pypoll, "POLLRDHUP", 0)

# The kernel assigns the lowest free number, so no other file gets these.
NEAR = range(600, 800)
FEW = NEAR[:6]

# Never open. Fibonacci numbers apart, they collide in the shim's hash table.
FAR = range(2**31 - 1 - 300 * 987, 2**31, 987)


def some_of(numbers: range) -> st.SearchStrategy[Sequence[int]]:
    def part(start: int, step: int, count: int) -> Sequence[int]:
        return numbers[start::step][: count + 1]

    places = st.integers(0, len(numbers) - 1)
    return st.builds(part, places, st.sampled_from([1, 2, 3, -1]), places)


ONE = st.sampled_from([*FEW, FAR[-1]]).map(lambda number: range(number, number + 1))
NUMBERS = st.one_of(ONE, ONE, some_of(NEAR), some_of(FAR))
AT_FIRST = NUMBERS | st.just([*NEAR, *FAR])
MASKS = st.sampled_from(list(PollEvent)) | st.integers(0, 0xFFFF)


def kernel(fd: int, mask: int) -> int:
    """Ask the kernel for the events of one descriptor."""
    p = select.poll()
    p.register(fd, mask)
    return dict(p.poll(0)).get(fd, 0)


def in_order(ready: list[Any]) -> list[Any]:
    """Sort a result on PyPy, where select.poll and lazy selectors have another order."""
    return sorted(ready, key=lambda pair: getattr(pair[0], "fd", pair[0])) if PYPY else ready


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
        # If the constructor refused a descriptor, CPython would leave it open.
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, "not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(fd)) as sock:
            # PyPy's constructor makes it blocking.
            sock.setblocking(False)
            call(sock)

    return of_descriptor


# Each changes what some kinds of descriptors are ready for, and fails for others.
STIRRED: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.write(fd, b"\0" * 7 + b"\1"),
    "fill": lambda fd: [os.write(fd, bytes(65536)) for _ in range(64)],
    "drain": lambda fd: [os.read(fd, 65536) for _ in range(64)],
    "shut down reading": by_socket(lambda sock: sock.shutdown(socket.SHUT_RD)),
    "shut down writing": by_socket(lambda sock: sock.shutdown(socket.SHUT_WR)),
    "send out-of-band data": by_socket(lambda sock: sock.send(b"!", socket.MSG_OOB)),
}


class Descriptors(RuleBasedStateMachine):
    """Opens and closes descriptors, and changes what they are ready for.

    It uses only kinds that change at once. A thread of the kernel may change what a pty or a TCP
    connection is ready for between two system calls.
    """

    def teardown(self) -> None:
        os.closerange(NEAR.start, NEAR.stop)

    @initialize(kind=st.sampled_from(list(OPENED)), source=st.sampled_from(FEW))
    def open_all(self, kind: str, source: int) -> None:
        """Give one file many numbers, so that a write makes many ready."""
        for place, each in ((0, "sockets"), (2, "a pipe"), (4, kind)):
            self.open(each, FEW[place:])
        self.duplicate(source, NEAR[len(FEW) :: 2])

    @rule(kind=st.sampled_from(list(OPENED)), numbers=st.permutations(FEW))
    def open(self, kind: str, numbers: Sequence[int]) -> None:
        """Open it on these numbers, which may already be open and registered."""
        for number, fd in zip(numbers, OPENED[kind]()):
            os.set_blocking(fd, False)
            os.dup2(fd, number)
            os.close(fd)

    @rule(source=st.sampled_from(FEW), numbers=some_of(NEAR))
    def duplicate(self, source: int, numbers: Sequence[int]) -> None:
        with suppress(OSError):
            for number in numbers:
                if number != source:
                    os.dup2(source, number)

    @rule(numbers=NUMBERS)
    def close(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            with suppress(OSError):
                os.close(number)

    @rule(how=st.sampled_from(list(STIRRED)), number=st.sampled_from(FEW))
    def stir(self, how: str, number: int) -> None:
        with suppress(OSError):
            STIRRED[how](number)


# ---- Poll ----------------------------------------------------------------------------------


SIGNAL_MASKS = [None, {signal.SIGUSR1}] if HAS_PPOLL else [None]


class PlainPoll(dict[int, int]):
    """A model of Poll: the masks of the descriptors, in order."""

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


class PollMachine(Descriptors):
    """Makes the same calls of a Poll, of its model, and of a select.poll."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = Poll()
        self.theirs = select.poll()
        self.model = PlainPoll()

    def same(self, method: str, number: int, *mask: int) -> None:
        expected = outcome(getattr(self.model, method), number, *mask)
        for each in (self.ours, self.theirs):
            assert outcome(getattr(each, method), number, *mask) == expected

    @initialize(numbers=AT_FIRST, mask=MASKS)
    def register_some(self, numbers: Sequence[int], mask: int) -> None:
        self.register(numbers, [mask])

    @rule(numbers=NUMBERS, mask=st.lists(MASKS, max_size=1))
    def register(self, numbers: Sequence[int], mask: list[int]) -> None:
        for number in numbers:
            self.same("register", number, *mask)

    @rule(numbers=NUMBERS, mask=MASKS)
    def modify(self, numbers: Sequence[int], mask: int) -> None:
        for number in numbers:
            self.same("modify", number, mask)

    @rule(numbers=NUMBERS)
    def unregister(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.same("unregister", number)

    @rule(timeout=st.sampled_from([0.01, 0.25, None]), mask=st.sampled_from(SIGNAL_MASKS))
    def wait(self, timeout: float | None, mask: Any) -> None:
        expected = self.model.poll()
        if expected or timeout is not None:  # otherwise nothing would end the wait
            assert self.ours.poll(timeout) == self.ours.ppoll(timeout, mask) == expected

    @rule(numbers=NUMBERS, mask=MASKS)
    def look_up(self, numbers: Sequence[int], mask: int) -> None:
        for number in numbers:
            assert (number in self.ours) == (number in self.model)
            assert outcome(self.ours.__getitem__, number) == self.model.get(number, KeyError)
            assert pypoll.poll_fd(number, mask, 0) == kernel(number, mask)

    @invariant()
    def the_same_is_registered_and_ready(self) -> None:
        assert [(fd, self.ours[fd]) for fd in self.ours] == list(self.model.items())
        assert len(self.ours) == len(self.model)
        ready = self.ours.poll(0)
        assert ready == self.model.poll()
        assert in_order(ready) == in_order(self.theirs.poll(0))


# ---- PollSelector --------------------------------------------------------------------------


def selected(fd: int, asked: int) -> int:
    """Ask the kernel which events a selector reports.

    A hang-up or an error is reported as all of them, unless EVENT_HANGUP is one of them.
    """
    if kernel(fd, 0) and not asked & EVENT_HANGUP:
        return asked
    masks = {EVENT_READ: POLLIN, EVENT_WRITE: POLLOUT, EVENT_URGENT: POLLPRI}
    ready = sum(event for event, mask in masks.items() if asked & event and kernel(fd, mask) & mask)
    return ready | (EVENT_HANGUP if asked & EVENT_HANGUP and kernel(fd, POLLRDHUP) else 0)


class PlainSelector(dict[int, SelectorKey]):
    """A model of PollSelector: the keys of the descriptors, in order.

    In results, a descriptor that was paused comes last.
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

    def register(self, fd: int, events: int, data: object) -> SelectorKey:
        if not 0 < events <= ANY_EVENT:
            raise ValueError(events)
        if fd in self:
            raise KeyError(fd)
        return self.put(SelectorKey(fd, fd, events, data))

    def modify(self, fd: int, events: int, data: object) -> SelectorKey:
        if not 0 <= events <= ANY_EVENT:
            raise ValueError(events)
        return self.put(self[fd]._replace(events=events, data=data))

    def unregister(self, fd: int) -> SelectorKey:
        self.polled.pop(fd, None)
        return self.pop(fd)

    def get_key(self, fd: int) -> SelectorKey:
        return self[fd]

    def select(self) -> list[tuple[SelectorKey, int]]:
        keys = map(self.__getitem__, self.polled)
        return [(key, events) for key in keys if (events := selected(key.fd, key.events))]


VALID_EVENTS = st.integers(1, ANY_EVENT)
EVENTS = VALID_EVENTS | st.sampled_from([0, ANY_EVENT + 1, -1])


class SelectorMachine(Descriptors):
    """Makes the same calls of a PollSelector and of its model."""

    @initialize(numbers=AT_FIRST, events=VALID_EVENTS)
    def begin(self, numbers: Sequence[int], events: int) -> None:
        self.ours = PollSelector()
        self.model = PlainSelector()
        self.register(numbers, events, 0)

    def same(self, method: str, number: int, *args: int) -> None:
        expected = outcome(getattr(self.model, method), number, *args)
        assert outcome(getattr(self.ours, method), number, *args) == expected

    @rule(numbers=NUMBERS, events=EVENTS, data=st.integers(0, 2))
    def register(self, numbers: Sequence[int], events: int, data: int) -> None:
        for number in numbers:
            self.same("register", number, events, data)

    @rule(numbers=NUMBERS, events=EVENTS, data=st.integers(0, 2))
    def modify(self, numbers: Sequence[int], events: int, data: int) -> None:
        for number in numbers:
            self.same("modify", number, events, data)

    @rule(numbers=NUMBERS, method=st.sampled_from(["unregister", "get_key"]))
    def unregister(self, numbers: Sequence[int], method: str) -> None:
        for number in numbers:
            self.same(method, number)

    @rule(timeout=st.sampled_from([0.00001, 0.00025, None]))
    def select(self, timeout: float | None) -> None:
        expected = self.model.select()
        if expected or timeout is not None:  # otherwise nothing would end the wait
            assert in_order(self.ours.select(timeout)) == in_order(expected)

    @rule(numbers=AT_FIRST, events=VALID_EVENTS)
    def close_selector(self, numbers: Sequence[int], events: int) -> None:
        registered = self.ours.get_map()
        self.ours.close()
        assert outcome(self.ours.get_key, FEW[0]) is RuntimeError
        assert self.ours.get_map() is None
        assert self.ours.select(0) == []
        assert dict(registered) == {}
        self.begin(numbers, events)

    @invariant()
    def the_same_is_registered_and_ready(self) -> None:
        assert list(self.ours.get_map().items()) == list(self.model.items())
        assert len(self.ours.get_map()) == len(self.model)
        assert in_order(self.ours.select(0)) == in_order(self.model.select())


# ---- Running them --------------------------------------------------------------------------


@pytest.fixture
def nothing_left_behind(tmp_path: Any) -> Iterator[None]:
    """Keep the files that hypothesis writes out of the current directory."""
    set_hypothesis_home_dir(tmp_path)
    yield
    set_hypothesis_home_dir(None)


@pytest.mark.usefixtures("nothing_left_behind")
@pytest.mark.parametrize("machine", [PollMachine, SelectorMachine])
def test_random_calls_have_the_same_results_as_the_model(
    machine: type[Descriptors], long_profile: bool
) -> None:
    """The long profile takes PYPOLL_TESTS_SECONDS for each class."""
    profile = settings(
        max_examples=100,
        stateful_step_count=40,
        derandomize=not long_profile,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        # On a busy machine, hypothesis chooses slowly.
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(machine, settings=profile)
    if long_profile:
        deadline = time.monotonic() + float(os.environ.get("PYPOLL_TESTS_SECONDS", "1200"))
        while time.monotonic() < deadline:
            run_state_machine_as_test(machine, settings=profile)
