"""Exceptions and signal handlers at any instruction of any call: the object stays right.

It is as before the call, as after it, or in a state between that the call allows.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import itertools
import os
import random
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, Callable

import pytest

import pypoll
from pypoll import EVENT_READ, EVENT_WRITE
from support import HAS_PPOLL, PATIENCE, PYPY, settled

# What is registered: for each descriptor its mask, or its events and data.
State = tuple[tuple[int, tuple[Any, ...]], ...]
# A call, its arguments, and the states of which one is there if a signal cuts it off: that before
# it first, that after it last.
Step = tuple[Callable[..., object], tuple[Any, ...], list[State]]


class HandlerError(Exception):
    """Raised by the signal handler."""


class Pipes:
    """Descriptors of which it is known for what they are ready."""

    def __init__(self) -> None:
        pairs = [os.pipe() for _ in range(4)]
        for _, writing in pairs[:2]:
            os.write(writing, b"x")
        self.guest = pairs[0][1]
        self.flood = [os.dup(pairs[0][1]) for _ in range(300)]
        self.opened = [*(end for pair in pairs for end in pair), *self.flood]
        self.ready = dict.fromkeys(self.opened, 0)
        for reading, _ in pairs[:2]:
            self.ready[reading] = pypoll.POLLIN
        for fd in (*(writing for _, writing in pairs), *self.flood):
            self.ready[fd] = pypoll.POLLOUT
        self.changing = [pairs[0][0], pairs[1][1], pairs[1][0], pairs[2][0], pairs[2][1]]

    def close(self) -> None:
        for fd in self.opened:
            os.close(fd)


class Subject:
    """An object, programs that change it and wait in it, and what is to be seen of it."""

    object: Any
    # What descriptors may be registered with, the first of them for the guest.
    values: tuple[tuple[Any, ...], ...]
    # Waits that end without a signal too.
    waits: list[tuple[Callable[..., object], tuple[Any, ...]]]

    def __init__(self, pipes: Pipes) -> None:
        self.pipes = pipes
        self.guest_is_there = False
        self.initial = dict(zip(pipes.changing, self.values[:4]))
        self.restore(self.initial)

    def program(self, choice: random.Random) -> list[Step]:
        """Return steps that begin and end with the initial state."""
        steps: list[Step] = []
        values = self.initial.copy()

        def change(call: Callable[..., object], fd: int, *value: Any) -> None:
            before = self.state(values)
            values[fd] = value
            if not value:
                del values[fd]
            steps.append((call, (fd, *value), [before, self.state(values)]))

        changing = choice.choice([0.2, 1])
        for _ in range(30):
            fd, value = choice.choice(self.pipes.changing), choice.choice(self.values)
            if choice.random() > changing:
                steps.append((*choice.choice(self.waits), [self.state(values)]))
            elif fd not in values:
                change(self.object.register, fd, *(value if value[0] else self.values[0]))
            elif choice.random() < 0.4:
                change(self.object.unregister, fd)
            else:
                change(self.object.modify, fd, *value)
        for fd in list(values):
            change(self.object.unregister, fd)
        for fd, value in self.initial.items():
            change(self.object.register, fd, *value)
        return steps

    def restore(self, values: dict[int, tuple[Any, ...]]) -> None:
        """Register these in the place of what is registered."""
        for fd in self.registered():
            self.object.unregister(fd)
        self.guest_is_there = False
        for fd, value in values.items():
            self.object.register(fd, *value)

    def names(self) -> set[str]:
        """Return the names of what programs call."""
        return {"register", "modify", "unregister", *(call.__name__ for call, _ in self.waits)}

    def toggle_guest(self) -> None:
        """Register a descriptor that no program knows, or unregister it."""
        if self.guest_is_there:
            self.object.unregister(self.pipes.guest)
        else:
            self.object.register(self.pipes.guest, *self.values[0])
        self.guest_is_there = not self.guest_is_there

    def check(self, allowed: list[State]) -> None:
        """See that one of these states is there, with all that follows from it."""
        values = self.registered()
        assert self.polled() == self.results(self.state(values))
        known = {fd: value for fd, value in values.items() if fd != self.pipes.guest}
        assert self.state(known) in allowed
        assert (self.pipes.guest in values) is self.guest_is_there

    def check_answer(self, answer: Any, state: State) -> None:
        """See that a wait has this answer, whatever the handler did about the guest meanwhile."""
        guests = [each for each in self.shown(answer) if each[0] == self.pipes.guest]
        assert len(guests) <= 1
        found = [each for each in self.shown(answer) if each[0] != self.pipes.guest]
        assert found == self.results(state)

    def shown(self, answer: list[Any]) -> list[Any]:
        """Return the answer of a wait as results() gives it."""
        return answer

    # What is ready in a state, of results(), is also what polled() must return in it.
    state: Callable[[dict[int, tuple[Any, ...]]], State]
    registered: Callable[[], dict[int, tuple[Any, ...]]]
    polled: Callable[[], list[Any]]
    results: Callable[[State], list[Any]]


class PollSubject(Subject):
    """A Poll. The order of registration is a part of its state."""

    values = ((pypoll.POLLOUT,), (pypoll.POLLIN,), (pypoll.POLLIN | pypoll.POLLOUT,), (0,))

    def __init__(self, pipes: Pipes, flood: list[int]) -> None:
        self.object = p = pypoll.Poll()
        self.flood = flood
        for fd in flood:
            p.register(fd, pypoll.POLLOUT)
        reading = pipes.changing[0]
        self.waits = [
            (p.poll, (0,)),
            (p.poll, (0.02,)),
            (p.ppoll, (0.02,)),
            (pypoll.poll_fd, (reading, pypoll.POLLIN)),
            (pypoll.poll_fd, (reading, pypoll.POLLPRI, 0.02)),
        ]
        if HAS_PPOLL:
            self.waits.append((p.ppoll, (0.02, [signal.SIGUSR1])))
        if flood:
            self.waits.append((p.poll, ()))
        super().__init__(pipes)

    def program(self, choice: random.Random) -> list[Step]:
        """Return steps of which some change a mask by register()."""
        p = self.object
        return [
            (p.register if call == p.modify and choice.random() < 0.5 else call, arguments, states)
            for call, arguments, states in super().program(choice)
        ]

    def state(self, values: dict[int, tuple[Any, ...]]) -> State:
        return tuple(values.items())

    def registered(self) -> dict[int, tuple[Any, ...]]:
        fds = list(self.object)
        assert len(fds) == len(self.object)
        assert fds[: len(self.flood)] == self.flood
        return {fd: (self.object[fd],) for fd in fds[len(self.flood) :]}

    def polled(self) -> list[Any]:
        found: list[Any] = self.object.poll(0)
        return found

    def results(self, state: State) -> list[Any]:
        events = [(fd, self.pipes.ready[fd] & mask) for fd, (mask,) in state]
        return [(fd, pypoll.POLLOUT) for fd in self.flood] + [pair for pair in events if pair[1]]


class SelectorSubject(Subject):
    """A PollSelector. A modify() of events that is cut off may also take the key away."""

    values = (
        (EVENT_WRITE, "written"),
        (EVENT_READ, "read"),
        (EVENT_READ | EVENT_WRITE, None),
        (EVENT_READ, "also read"),
        # No program registers with this one, which is a pause.
        (0, "paused"),
    )

    def __init__(self, pipes: Pipes, flood: list[int]) -> None:
        self.object = selector = pypoll.PollSelector()
        self.flood = flood
        for fd in flood:
            selector.register(fd, EVENT_WRITE)
        self.waits = [(selector.select, (0,)), (selector.select, (0.00002,))]
        super().__init__(pipes)

    def restore(self, values: dict[int, tuple[Any, ...]]) -> None:
        super().restore({fd: value for fd, value in values.items() if value[0]})
        for fd, value in values.items():
            if not value[0]:
                self.object.register(fd, EVENT_READ)
                self.object.modify(fd, *value)
        # What select() returns is kept for the next ones.
        for _ in range(3):
            self.object.select(0)

    def program(self, choice: random.Random) -> list[Step]:
        steps = super().program(choice)
        for call, arguments, states in steps:
            if call == self.object.modify:
                fd, events, _ = arguments
                if dict(states[0])[fd][0] != events:
                    states[1:1] = [tuple(item for item in states[0] if item[0] != fd)]
        return steps

    def state(self, values: dict[int, tuple[Any, ...]]) -> State:
        return tuple(sorted(values.items()))

    def registered(self) -> dict[int, tuple[Any, ...]]:
        keys = self.object.get_map().items()
        return {fd: (key.events, key.data) for fd, key in keys if fd not in self.flood}

    def polled(self) -> list[Any]:
        answer = self.object.select(0)
        for key, _ in answer:
            assert key is self.object.get_key(key.fd)
        assert settled(self.object)
        return self.shown(answer)

    def shown(self, answer: list[Any]) -> list[Any]:
        found = {key.fd: (key, events) for key, events in answer}
        assert len(found) == len(answer)
        assert [found.pop(fd)[1] for fd in self.flood] == [EVENT_WRITE] * len(self.flood)
        return sorted((fd, (key.events, key.data), events) for fd, (key, events) in found.items())

    def results(self, state: State) -> list[Any]:
        found = []
        for fd, (asked, data) in state:
            event = self.pipes.ready[fd]
            events = (event & pypoll.POLLIN and EVENT_READ) | (
                event & pypoll.POLLOUT and EVENT_WRITE
            )
            if events & asked:
                found.append((fd, (asked, data), events & asked))
        return found


@pytest.fixture(params=["few", "many ready", "selector", "selector, many ready"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    pipes = Pipes()
    flood = pipes.flood if "many ready" in request.param else []
    if "selector" in request.param:
        yield SelectorSubject(pipes, flood[:10])
    else:
        yield PollSubject(pipes, flood)
    pipes.close()


@pytest.fixture(params=["interpreted", "compiled"] if PYPY else ["interpreted"], autouse=True)
def execution(request: pytest.FixtureRequest) -> Iterator[None]:
    """In compiled code PyPy runs signal handlers only where a loop jumps back."""
    jit = importlib.import_module("pypyjit") if request.param == "interpreted" and PYPY else None
    if jit:
        jit.set_param("off")
    yield
    if jit:
        jit.set_param("default")


class Striker:
    """A signal handler that acts once for each program, and what it has struck."""

    def __init__(self, subject: Subject, action: Callable[[], None]) -> None:
        self.subject = subject
        self.check = subject.check
        self.action = action
        self.choice = random.Random(6)
        self.programs = [subject.program(self.choice) for _ in range(50)]
        self.steps: list[Step] = []
        self.at = 0
        self.armed = False
        self.hits = 0
        self.calls: set[str] = set()

    def handler(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            self.hits += 1
            self.calls.add(self.steps[self.at][0].__name__)
            self.action()

    def strike(self) -> None:
        """Run the program until it was struck."""
        steps, after = self.steps, self.choice.uniform(1e-6, 1e-4)
        self.at = 0
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, after)
        # Not for ever: compiled loops of PyPy may leave a signal waiting for minutes.
        for _ in range(1000):
            for self.at, (call, arguments, states) in enumerate(steps):
                armed = self.armed
                answer = call(*arguments)
                if armed and not self.armed and call.__name__ in ("poll", "ppoll", "select"):
                    self.subject.check_answer(answer, states[0])
            if not self.armed:
                break
        self.armed = False

    def run(
        self,
        hits: int,
        before_each: Callable[[], None] = lambda: None,
    ) -> None:
        # What a handler raises in a callback of the collector goes no further. Hypothesis leaves
        # one behind, which PyPy does not have, and imports leave weak references with others.
        gc.collect()
        callbacks = getattr(gc, "callbacks", [])
        of_others = callbacks[:]
        callbacks.clear()
        before = signal.signal(signal.SIGALRM, self.handler)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            while self.hits < hits:
                self.steps = self.choice.choice(self.programs)
                # The handler returns, or does not run.
                allowed = self.steps[-1][2][-1:]
                before_each()
                # A call alone: CPython 3.13 does not guard the jump at a loop's end.
                try:
                    self.strike()
                except HandlerError:
                    allowed = self.steps[self.at][2]
                self.check(allowed)
                assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
                self.subject.restore(self.subject.initial)
        finally:
            signal.signal(signal.SIGALRM, before)
            callbacks[:] = of_others


def raise_error() -> None:
    raise HandlerError


def at_each_instruction(
    before: Callable[[], None],
    call: Callable[[], Any],
    action: Callable[[], None],
    after: Callable[[bool, Any], None],
) -> None:
    """Act at the first instruction of pypoll's code in a call, then at the second, to the last.

    Each time anew after *before*. *after* gets whether the action came, and what the call returned.
    """
    package = os.path.dirname(pypoll.__file__)
    count = instruction = 0
    acted = False

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count, acted
        if os.path.dirname(frame.f_code.co_filename) != package:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == instruction:
                acted = True
                action()
        return trace

    # Coverage traces too; it goes on afterwards.
    tracing_before = sys.gettrace()
    # CPython 3.12 traces instructions only once somebody has asked for that.
    sys.settrace(trace)
    len(pypoll.Poll())
    sys.settrace(tracing_before)
    for instruction in itertools.count(1):
        before()
        count, acted, answer = 0, False, None
        sys.settrace(trace)
        try:
            answer = call()
        except HandlerError:
            pass
        finally:
            sys.settrace(tracing_before)
        after(acted, answer)
        if not acted:
            assert instruction > 5
            return


needs_tracing = pytest.mark.skipif(PYPY, reason="PyPy has no trace events for single instructions")


@needs_tracing
def test_an_exception_at_any_instruction_leaves_a_state_that_the_call_allows(
    subject: Subject,
) -> None:
    choice = random.Random(7)
    steps: dict[tuple[Any, ...], Step] = {}
    for _ in range(20):
        for step in subject.program(choice):
            call, arguments, states = step
            before = dict(states[0]).get(arguments[0]) if arguments else None
            steps.setdefault((call.__name__, before, *map(repr, arguments[1:])), step)
    assert {name for name, *_ in steps} == subject.names()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for call, arguments, allowed in steps.values():

        def restore(state: State = allowed[0]) -> None:
            subject.restore(dict(state))

        def check(acted: bool, _answer: object, allowed: list[State] = allowed) -> None:
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
            subject.check(allowed if acted else allowed[-1:])

        at_each_instruction(restore, functools.partial(call, *arguments), raise_error, check)


@needs_tracing
@pytest.mark.parametrize("counts", [(3, 5), (5, 3), (20, 40), (40, 20), (200, 300)])
def test_a_wait_interrupted_by_another_at_any_instruction_returns_a_whole_result(
    many: list[int], counts: tuple[int, int]
) -> None:
    """The result before, or that after, a change that the handler makes first."""
    p = pypoll.Poll()
    groups = [many[-count:] for count in counts]
    expected = [[(fd, pypoll.POLLOUT) for fd in group] for group in groups]

    def choose(number: int) -> None:
        for fd in many[-max(counts) :]:
            p.register(fd, pypoll.POLLOUT if fd in groups[number] else 0)

    def action() -> None:
        choose(1)
        assert p.poll(0) == expected[1]

    def check(_acted: bool, answer: object) -> None:
        assert answer in expected

    waits: list[Callable[[], object]] = [p.poll, lambda: p.poll(0), lambda: p.poll(1), p.ppoll]
    for wait in waits:
        at_each_instruction(lambda: choose(0), wait, action, check)


@needs_tracing
@pytest.mark.parametrize("raises", [False, True], ids=["changes and polls", "raises as well"])
def test_an_interruption_at_any_instruction_while_a_new_set_grows_loses_nothing(
    many: list[int], raises: bool
) -> None:
    """A small set has no memory of its own, so one of its first registrations does more."""
    fds, others = many[:12], many[12:24]
    p = pypoll.Poll()

    def begin() -> None:
        nonlocal p
        p = pypoll.Poll()

    def register_all() -> None:
        for fd in fds:
            p.register(fd, pypoll.POLLOUT)

    def ready_of(group: list[int]) -> list[int]:
        found = p.poll(0)
        assert found == [(fd, pypoll.POLLOUT) for fd in p]
        return [fd for fd, _ in found if fd in group]

    def action() -> None:
        for fd in others:
            p.register(fd, pypoll.POLLOUT)
        assert ready_of(others) == others
        for fd in others[1:]:
            p.unregister(fd)
        if raises:
            raise_error()

    def check(acted: bool, _answer: object) -> None:
        assert ready_of(others) == (others[:1] if acted else [])
        registered = ready_of(fds)
        assert registered == fds[: len(registered)]
        assert raises or registered == fds
        register_all()
        assert ready_of(fds) == fds

    at_each_instruction(begin, register_all, action, check)


@needs_tracing
@pytest.mark.parametrize("ready", [1, 10])
def test_a_change_by_another_thread_at_any_instruction_leaves_a_selector_exact(
    many: list[int], ready: int
) -> None:
    """In one thread: to the selector it is the same, and it comes at each instruction."""
    fd, others = many[0], many[1:ready]
    selector = pypoll.PollSelector()

    def unregister_and_register() -> None:
        selector.unregister(fd)
        selector.register(fd, EVENT_WRITE, "anew")

    calls: dict[str, tuple[int | None, Callable[[], object]]] = {
        "register": (None, lambda: selector.register(fd, EVENT_WRITE, "registered")),
        "register paused": (0, lambda: selector.register(fd, EVENT_WRITE, "registered")),
        "modify": (EVENT_READ, lambda: selector.modify(fd, EVENT_WRITE, "modified")),
        "modify data": (EVENT_WRITE, lambda: selector.modify(fd, EVENT_WRITE, "modified")),
        "pause": (EVENT_WRITE, lambda: selector.modify(fd, 0, "paused")),
        "resume": (0, lambda: selector.modify(fd, EVENT_WRITE, "resumed")),
        "unregister": (EVENT_WRITE, lambda: selector.unregister(fd)),
        "unregister paused": (0, lambda: selector.unregister(fd)),
        "register and unregister": (EVENT_WRITE, unregister_and_register),
        "select": (EVENT_WRITE, lambda: selector.select(0)),
        "select for a while": (EVENT_WRITE, lambda: selector.select(0.00001)),
    }

    def begin(events: int | None) -> None:
        nonlocal selector
        selector = pypoll.PollSelector()
        for other in others:
            selector.register(other, EVENT_WRITE)
        if events is not None:
            selector.register(fd, events or EVENT_READ, "before")
            selector.modify(fd, events, "before")
        for _ in range(3):
            selector.select(0)

    def tried(call: Callable[[], object]) -> None:
        with contextlib.suppress(KeyError):
            call()

    for name, (events, call) in calls.items():
        for other_name, (_, other_call) in calls.items():

            def check(_acted: bool, _answer: object, where: object = (name, other_name)) -> None:
                for _ in range(3):
                    keys = selector.get_map().values()
                    expected = [(key, EVENT_WRITE) for key in keys if key.events == EVENT_WRITE]
                    assert (where, sorted(selector.select(0))) == (where, sorted(expected))
                    assert settled(selector), where

            at_each_instruction(
                functools.partial(begin, events),
                functools.partial(tried, call),
                functools.partial(tried, other_call),
                check,
            )


@pytest.mark.asynchronous
def test_a_handler_that_raises_leaves_a_state_that_the_interrupted_call_allows(
    subject: Subject, long_profile: bool
) -> None:
    """Also to another thread: a wait that was cut off must not keep that one from waiting."""

    def check(allowed: list[State]) -> None:
        if striker.choice.random() < 0.5:
            subject.check(allowed)
        else:
            thread.submit(subject.check, allowed).result(PATIENCE)

    striker = Striker(subject, raise_error)
    striker.check = check
    with ThreadPoolExecutor(1) as thread:
        striker.run(100_000 if long_profile else 600)
    assert striker.calls == subject.names()


@pytest.mark.asynchronous
@pytest.mark.parametrize("polls", [False, True], ids=["changes it", "polls it and another"])
def test_a_handler_may_use_the_object_whose_call_it_interrupted(
    subject: Subject, polls: bool, long_profile: bool
) -> None:
    other = pypoll.Poll()
    other.register(subject.pipes.guest, pypoll.POLLOUT)

    def action() -> None:
        if polls:
            assert other.poll(0) == [(subject.pipes.guest, pypoll.POLLOUT)]
            allowed = striker.steps[striker.at][2]
            assert subject.polled() in [subject.results(state) for state in allowed]
        else:
            subject.toggle_guest()
        if striker.choice.random() < 0.5:
            raise_error()

    def before_each() -> None:
        if not polls and striker.choice.random() < 0.5:
            subject.toggle_guest()

    striker = Striker(subject, action)
    striker.run(10_000 if long_profile else 250, before_each)
