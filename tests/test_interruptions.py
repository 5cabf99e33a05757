"""A signal handler or another thread may interrupt any call at any instruction.

Afterwards the object is as before the call, as after it, or in another state that the call allows.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, Callable, NamedTuple, Optional

import pytest

import pypoll
from pypoll import EVENT_READ, EVENT_WRITE, POLLIN, POLLOUT, Poll, PollSelector
from support import (
    HAS_PPOLL,
    PATIENCE,
    PYPY,
    Interruption,
    Thread,
    handling,
    settled,
)

STEP = "line" if PYPY else "opcode"  # PyPy has no trace events for instructions

# A descriptor's mask, or its events and data in a selector; None if it is not registered.
Value = Optional[tuple[Any, ...]]
Call = Callable[[Any, int], Any]


class Case(NamedTuple):
    """A call, with the values of its descriptor before it, after it, and those allowed between."""

    values: tuple[Value, ...]
    call: Call


def register_again(selector: PollSelector, fd: int) -> None:
    selector.unregister(fd)
    selector.register(fd, *NEW)


IN, OUT = (POLLIN,), (POLLOUT,)
POLL_CASES = [
    Case((None, OUT), lambda p, fd: p.register(fd, POLLOUT)),
    Case((IN, OUT), lambda p, fd: p.register(fd, POLLOUT)),
    Case((OUT, (0,)), lambda p, fd: p.modify(fd, 0)),
    Case((OUT, None), lambda p, fd: p.unregister(fd)),
    Case((OUT,), lambda p, _: p.poll()),
    Case((OUT,), lambda p, _: p.poll(0)),
    Case((IN,), lambda p, _: p.poll(0.02)),
]
if HAS_PPOLL:
    POLL_CASES += [Case((IN,), lambda p, _: p.ppoll(0.02, [signal.SIGUSR1]))]

IDLE, READY, PAUSED = (EVENT_READ, "old"), (EVENT_WRITE, "old"), (0, "old")
NEW, NEWLY_PAUSED = (EVENT_WRITE, "new"), (0, "new")
# A modify() of events that an exception interrupts may unregister the descriptor.
SELECTOR_CASES = [
    Case((None, NEW), lambda selector, fd: selector.register(fd, *NEW)),
    Case((IDLE, None, NEW), lambda selector, fd: selector.modify(fd, *NEW)),
    Case((READY, NEW), lambda selector, fd: selector.modify(fd, *NEW)),
    Case((PAUSED, None, NEW), lambda selector, fd: selector.modify(fd, *NEW)),
    Case((READY, None, NEWLY_PAUSED), lambda selector, fd: selector.modify(fd, *NEWLY_PAUSED)),
    Case((READY, None), lambda selector, fd: selector.unregister(fd)),
    Case((PAUSED, None), lambda selector, fd: selector.unregister(fd)),
    Case((READY, None, NEW), register_again),
    Case((READY,), lambda selector, _: selector.select(0)),
    Case((IDLE,), lambda selector, _: selector.select(0.00001)),
]


@pytest.fixture
def pairs(long_profile: bool) -> list[tuple[Case, Case]]:
    """Calls of a selector, each with one that another thread makes meanwhile.

    By default one call of each kind: the others have another event mask, data or timeout.
    """
    cases = SELECTOR_CASES if long_profile else [SELECTOR_CASES[i] for i in (0, 2, 4, 5, 8)]
    return [(case, other) for case in cases for other in cases]


class Subject:
    """An object with one descriptor that calls change, and others that are ready for writing."""

    def __init__(self, kind: type[Any], fds: list[int]) -> None:
        self.kind = kind
        self.cases = POLL_CASES if kind is Poll else SELECTOR_CASES
        self.idle: tuple[Any, ...] = (0,) if kind is Poll else PAUSED
        self.ready: tuple[Any, ...] = OUT if kind is Poll else READY
        self.fd, self.guest, *self.others = fds
        self.first = self.others[0]
        self.signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def begin(self, value: Value) -> None:
        """Make a new object in which the descriptor has this value."""
        self.object = self.kind()
        for fd in self.others:
            self.object.register(fd, *self.ready)
        self.object.modify(self.first, *self.idle)
        if value is not None:
            self.object.register(self.fd, *self.ready)
            self.object.modify(self.fd, *value)
        for _ in range(2):  # a selector keeps results for the next calls
            self.wait()

    def run(self, call: Call) -> Any:
        return call(self.object, self.fd)

    def tried(self, call: Call) -> None:
        with contextlib.suppress(KeyError):
            self.run(call)

    def wait(self) -> list[tuple[int, Value]]:
        return self.shown(self.object.poll(0) if self.kind is Poll else self.object.select(0))

    def shown(self, result: Any) -> list[tuple[int, Value]]:
        """Return the result of a wait as descriptors and values."""
        if self.kind is Poll:
            return [(fd, (event,)) for fd, event in result]
        assert all(events == key.events for key, events in result)
        return sorted((key.fd, (key.events, key.data)) for key, events in result)

    def registered(self) -> dict[int, Value]:
        if self.kind is Poll:
            return {fd: (self.object[fd],) for fd in self.object}
        keys = self.object.get_map().items()
        return {fd: (key.events, key.data) for fd, key in sorted(keys)}

    def check_wait(self) -> None:
        assert self.wait() == self.expected()

    def expected(self) -> list[tuple[int, Value]]:
        """Return what is registered and ready."""
        return [item for item in self.registered().items() if item[1] in (OUT, READY, NEW)]

    def use(self) -> None:
        """Change the set as a signal handler may, so that all results move, and poll."""
        self.object.modify(self.first, *self.ready)
        self.object.register(self.guest, *self.ready)
        found, expected = self.wait(), self.expected()
        if self.kind is PollSelector:
            # Its change may be half done: the key exists, but the set does not have it yet.
            found, expected = ([i for i in items if i[0] != self.fd] for items in (found, expected))
        assert found == expected
        assert pypoll.poll_fd(self.guest, POLLOUT) == POLLOUT

    def check(self, values: tuple[Value, ...], used: bool, answer: Any) -> None:
        """Check the state after a call, and the call's answer if it was a wait."""
        registered, ready = self.registered(), self.expected()
        assert self.wait() == ready
        assert registered.pop(self.fd, None) in values
        assert registered[self.first] == (self.ready if used else self.idle)
        assert (registered.pop(self.guest, None) is not None) is used
        assert list(registered) == self.others
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == self.signal_mask
        if isinstance(answer, list):
            before = [item for item in ready if item[0] not in (self.first, self.guest)]
            assert self.shown(answer) in (before, ready)
        assert self.kind is Poll or settled(self.object)


# A set of eight grows if one is added; a selector treats eight results unlike fewer.
@pytest.fixture(
    params=itertools.product([Poll, PollSelector], [1, 8, 20]),
    ids=lambda param: f"{param[0].__name__} with {param[1]} others",
)
def subject(request: pytest.FixtureRequest, many: list[int]) -> Subject:
    kind, others = request.param
    return Subject(kind, many[: others + 2])


class Handler(NamedTuple):
    """A signal handler: whether it uses the interrupted object, and whether it raises."""

    uses: bool
    raises: bool

    def interrupt(self, subject: Subject) -> None:
        if self.uses:
            subject.use()
        if self.raises:
            raise Interruption


HANDLERS = pytest.mark.parametrize(
    "handler",
    [Handler(False, True), Handler(True, False), Handler(True, True)],
    ids=["raises", "uses the object", "uses it and raises"],
)


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    """Turn PyPy's compiler off.

    Compiled code handles signals only at the end of loops, and takes minutes if it is traced.
    """
    pypyjit: Any = importlib.import_module("pypyjit") if PYPY else None
    if pypyjit:
        pypyjit.set_param("off")
    yield
    if pypyjit:
        pypyjit.set_param("default")


class Steps:
    """Runs a call with *action* before one of its instructions or lines in pypoll's code."""

    def __init__(self, step: str, action: Callable[[], None]) -> None:
        self.step = step
        self.action = action

    def run(self, call: Callable[[], Any], number: int) -> tuple[bool, Any]:
        """Return whether the call has the step *number*, and what it returned."""
        package, step = os.path.dirname(pypoll.__file__), self.step
        count, answer = 0, None

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal count
            if os.path.dirname(frame.f_code.co_filename) != package:
                return None
            frame.f_trace_opcodes = step == "opcode"
            if event == step:
                count += 1
                if count == number:
                    self.action()
            return trace

        # Coverage traces too; it continues afterwards.
        tracing_before = sys.gettrace()
        sys.settrace(trace)
        try:
            answer = call()
        except Interruption:
            pass
        finally:
            sys.settrace(tracing_before)
        return count >= number, answer


def at_each_instruction(
    begin: Callable[[], None],
    call: Callable[[], Any],
    action: Callable[[], None],
    check: Callable[[bool, Any], None],
) -> None:
    """Repeat *call* with *action* before the first instruction of pypoll's code, the second, ...

    On PyPy, it is before each line. *check* gets whether the action ran, and what the call
    returned.
    """
    steps = Steps(STEP, action)
    # CPython 3.12 traces instructions only after some code has requested it.
    steps.run(lambda: len(Poll()), 0)
    for number in itertools.count(1):
        begin()
        acted, answer = steps.run(call, number)
        check(acted, answer)
        if not acted:
            assert number > (1 if PYPY else 5)
            return


@HANDLERS
def test_a_handler_at_any_instruction_may_use_the_object_and_raise(
    subject: Subject, handler: Handler
) -> None:

    def check(values: tuple[Value, ...], acted: bool, answer: Any) -> None:
        allowed = values if acted and handler.raises else values[-1:]
        subject.check(allowed, acted and handler.uses, answer)

    for values, call in subject.cases:
        at_each_instruction(
            partial(subject.begin, values[0]),
            partial(subject.run, call),
            partial(handler.interrupt, subject),
            partial(check, values),
        )


@pytest.mark.parametrize(
    # PyPy traces each iteration of a comprehension, so large sets take minutes there.
    "counts",
    [(3, 5), (5, 3), *([] if PYPY else [(300, 20), (200, 300), (260, 300)])],
)
def test_a_wait_interrupted_by_another_at_any_instruction_returns_a_complete_result(
    many: list[int], counts: tuple[int, int]
) -> None:
    """The result is that from before or after a change that the handler makes first."""
    p = Poll()
    groups = [many[-count:] for count in counts]
    expected = [[(fd, POLLOUT) for fd in group] for group in groups]

    def choose(number: int) -> None:
        for fd in many[-max(counts) :]:
            p.register(fd, POLLOUT if fd in groups[number] else 0)

    def action() -> None:
        choose(1)
        assert p.poll(0) == expected[1]

    def check(_acted: bool, answer: object) -> None:
        assert answer in expected

    waits: list[Callable[[], object]] = [p.poll, lambda: p.poll(0), lambda: p.poll(1), p.ppoll]
    for wait in waits:
        at_each_instruction(lambda: choose(0), wait, action, check)


@pytest.mark.parametrize("others", [1, 9])
def test_a_change_by_another_thread_at_any_instruction_leaves_a_selector_exact(
    many: list[int], pairs: list[tuple[Case, Case]], others: int
) -> None:
    """The change runs in the same thread, which makes no difference to the selector."""
    subject = Subject(PollSelector, many[: others + 2])

    def check(_acted: bool, _answer: object) -> None:
        for _ in range(3):
            subject.check_wait()
            assert settled(subject.object)

    for (values, call), (_, other_call) in pairs:
        at_each_instruction(
            partial(subject.begin, values[0]),
            partial(subject.tried, call),
            partial(subject.tried, other_call),
            check,
        )


@pytest.mark.native  # no race here depends on the processor
def test_two_threads_that_take_turns_at_any_line_leave_a_selector_exact(
    many: list[int], pairs: list[tuple[Case, Case]]
) -> None:
    """One runs up to a line, then the other up to a line; then each runs to its end."""
    subject = Subject(PollSelector, many[:3])

    def interleaved(case: Case, other: Case, line: int, other_line: int) -> tuple[bool, bool]:
        """Return whether both calls have so many lines."""
        stopped, resumed = threading.Event(), threading.Event()
        thread: Thread
        has_other_line = False

        def stop() -> None:
            stopped.set()
            assert resumed.wait(PATIENCE)

        def run_other() -> bool:
            has_line, _ = Steps("line", stop).run(partial(subject.tried, other.call), other_line)
            stopped.set()
            return has_line

        def start_other() -> None:
            nonlocal thread
            thread = Thread(run_other)
            assert stopped.wait(PATIENCE)

        subject.begin(case.values[0])
        has_line, _ = Steps("line", start_other).run(partial(subject.tried, case.call), line)
        resumed.set()
        if has_line:
            has_other_line = thread.join()
        subject.check_wait()
        assert settled(subject.object)
        return has_line, has_other_line

    for case, other in pairs:
        for line in itertools.count(1):
            for other_line in itertools.count(1):
                has_lines = interleaved(case, other, line, other_line)
                if not all(has_lines):
                    break
            if not has_lines[0]:
                break


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Exceptions that a handler raises in a callback of the garbage collector do not propagate."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.asynchronous
@pytest.mark.usefixtures("no_collection")
@HANDLERS
def test_a_handler_at_any_moment_may_use_the_object_and_raise(
    subject: Subject, handler: Handler, long_profile: bool
) -> None:
    """Another thread can use the object afterwards."""
    choice = random.Random(6)
    armed = False
    hits = 0

    def handle(*_: object) -> None:
        nonlocal armed, hits
        if armed:
            armed = False
            hits += 1
            handler.interrupt(subject)

    with handling(handle), ThreadPoolExecutor(1) as thread:
        while hits < (10_000 if long_profile else 200):
            values, call = choice.choice(subject.cases)
            subject.begin(values[0])
            before, answer = hits, None
            signal.setitimer(signal.ITIMER_REAL, choice.uniform(1e-6, 2e-5))
            try:
                armed = True
                answer = subject.run(call)
                armed = False
            except Interruption:
                pass
            if hits > before:
                allowed = values if handler.raises else values[-1:]
                thread.submit(subject.check, allowed, handler.uses, answer).result(PATIENCE)
