"""Signal handlers run during a wait, which then continues (PEP 475); ppoll's mask is atomic.

A handler may raise, change the object whose wait it interrupted, or wait in it.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Callable, Optional

import pytest

import pypoll
from pypoll.library import lib
from pypoll.poller import _refuse
from support import (
    HAS_PPOLL,
    MILLISECOND,
    PATIENCE,
    LyingInt,
    Pipe,
    Refusal,
    Thread,
    blocked,
    handling,
    needs_ppoll,
    nothing_changes,
    rows,
    set_of,
    to_main_thread,
)

Wait = Callable[[pypoll.Poll, Optional[float]], object]
# Without a signal mask, no wait can see a signal that comes between the last look for signals and
# the system call. So timers send another one.
AGAIN = 0.05

# There a handler that a signal interrupts ends before the handler of that signal begins.
needs_nested_handlers = pytest.mark.skipif(
    getattr(sys, "pypy_version_info", (0,)) >= (8,), reason="PyPy 8 runs one handler at a time"
)


class HandlerError(Exception):
    """Raised by a signal handler."""


WAITS: dict[str, Wait] = {
    "poll": lambda p, timeout: p.poll(timeout),
    "ppoll": lambda p, timeout: p.ppoll(timeout),
    "poll_fd": lambda p, timeout: pypoll.poll_fd(next(iter(p)), pypoll.POLLIN, timeout),
}
if HAS_PPOLL:
    WAITS["ppoll with a mask"] = lambda p, timeout: p.ppoll(timeout, [])
WAIT_CASES = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


@WAIT_CASES
@pytest.mark.parametrize("timeout", [None, -1, 60_000])
def test_a_handler_runs_during_the_wait_and_the_wait_continues(
    wait: Wait, timeout: float | None, pipe: Pipe
) -> None:
    """PyPy's own poll(None) returns [] here."""
    reading, writing = pipe
    ran = []

    def handler(*_: object) -> None:
        ran.append(time.monotonic())
        if len(ran) == 3:
            os.write(writing, b"x")

    p = set_of({reading: pypoll.POLLIN})
    with handling(handler, 0.02, 0.02):
        answer = wait(p, timeout)
    assert answer in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
    assert len(ran) >= 3


@WAIT_CASES
def test_interruptions_neither_shorten_the_wait_nor_restart_it(wait: Wait, pipe: Pipe) -> None:
    p = set_of({pipe.reading: pypoll.POLLIN})
    begun = time.monotonic_ns()

    def handler(*_: object) -> None:
        assert time.monotonic_ns() - begun < PATIENCE * 1000 * MILLISECOND

    with handling(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
        begun = time.monotonic_ns()
        answer = wait(p, 50)
        elapsed = time.monotonic_ns() - begun
    assert not answer
    assert elapsed >= 50 * MILLISECOND


@WAIT_CASES
def test_exceptions_of_a_handler_propagate_and_the_object_stays_usable(
    wait: Wait, pipe: Pipe
) -> None:
    reading, writing = pipe

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise HandlerError

    def interrupted_wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.005, AGAIN)
        wait(p, None)

    p = set_of({reading: pypoll.POLLIN})
    with handling(handler):
        for _ in range(20):
            with pytest.raises(HandlerError):
                interrupted_wait()
            assert p.poll(0) == []
    os.write(writing, b"x")
    assert wait(p, None) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)


@WAIT_CASES
def test_a_deadline_that_passes_in_the_handler_ends_the_wait_empty(wait: Wait, pipe: Pipe) -> None:
    reading, writing = pipe

    def handler(*_: object) -> None:
        os.write(writing, b"x")
        time.sleep(0.2)

    p = set_of({reading: pypoll.POLLIN})
    with handling(handler):
        # More than once, for on a busy machine the handler may have run before the wait began.
        for _ in range(10):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            answer = wait(p, 150)
            assert wait(p, 0) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
            if not answer:
                break
            os.read(reading, 10)
    assert not answer


@WAIT_CASES
def test_every_signal_runs_its_handler_when_the_wait_is_compiled(wait: Wait, pipe: Pipe) -> None:
    """PyPy runs handlers in compiled code only at some places; one must lie in each wait."""
    reading, writing = pipe
    rounds = 3000
    p = set_of({reading: pypoll.POLLIN})

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(writing, b"x")

    deadline = time.monotonic() + 3 * PATIENCE
    with handling(handler):
        for _ in range(rounds):
            assert time.monotonic() < deadline, "handlers run late, or at the deadline of the wait"
            signal.setitimer(signal.ITIMER_REAL, 0.0002, AGAIN)
            assert wait(p, 1000 * PATIENCE) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
            os.read(reading, 100)


@WAIT_CASES
@needs_nested_handlers
def test_a_handler_may_wait_in_the_object_whose_wait_it_interrupted(wait: Wait, pipe: Pipe) -> None:
    """The waits of the handler are interrupted in turn, twice."""
    reading, writing = pipe
    p = set_of({reading: pypoll.POLLIN})
    ready = ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
    armed = False
    depths: list[int] = []

    def wait_for_a_handler() -> None:
        nonlocal armed
        armed = True
        assert wait(p, 1000 * PATIENCE) in ready

    def handler(*_: object) -> None:
        nonlocal armed
        if not armed:
            return
        armed = False
        depths.append(len(depths))
        for nested in WAITS.values():
            assert not nested(p, 0)
            assert not nested(p, 0.3)
        with pytest.raises(TypeError):
            p.poll("x")  # type: ignore[arg-type]
        if len(depths) < 3:
            wait_for_a_handler()
        else:
            os.write(writing, b"x")
        for nested in WAITS.values():
            assert nested(p, 0) in ready
            assert nested(p, None) in ready

    with handling(handler, 0.02, AGAIN):
        wait_for_a_handler()
    assert depths == [0, 1, 2]


@WAIT_CASES
@needs_nested_handlers
@pytest.mark.parametrize("limit", [60, 150])
def test_polls_in_a_handler_do_not_shorten_the_interrupted_wait(
    wait: Wait, limit: float, pipe: Pipe
) -> None:
    p = set_of({pipe.reading: pypoll.POLLIN})
    choice = random.Random(8)
    depth = deepest = 0

    def timed_wait(limit: float) -> None:
        begun = time.monotonic_ns()
        assert not wait(p, limit)
        assert limit * MILLISECOND <= time.monotonic_ns() - begun < PATIENCE * 1000 * MILLISECOND

    def handler(*_: object) -> None:
        nonlocal depth, deepest
        if depth == 2:
            return
        depth += 1
        deepest = max(depth, deepest)
        timed_wait(choice.choice([0, 0.5, 5]))
        depth -= 1

    with handling(handler):
        # On a busy machine all of the handlers may run between the waits.
        for _ in range(10):
            signal.setitimer(signal.ITIMER_REAL, 0.002, 0.003)
            timed_wait(limit)
            if deepest == 2:
                break
    assert deepest == 2


@pytest.mark.parametrize("count", [0, 1, 8, 9, 300])
@pytest.mark.parametrize("way", [way for way in WAITS if way != "poll_fd"])
def test_changes_made_by_a_handler_take_effect_in_the_wait_that_continues(
    way: str, count: int, pipe: Pipe
) -> None:
    reading, writing = pipe
    p = set_of({reading: pypoll.POLLIN})
    added = [os.dup(writing) for _ in range(count)]
    ready = [(fd, pypoll.POLLOUT) for fd in added]

    def handler(*_: object) -> None:
        if reading in p:
            p.unregister(reading)
            os.write(writing, b"x")
            for fd in added:
                p.register(fd, 0)
                p.modify(fd, pypoll.POLLOUT)
            assert p.poll(0) == ready

    with handling(handler, 0.02, AGAIN):
        begun = time.monotonic_ns()
        answer = WAITS[way](p, 1000 * PATIENCE if count else 100)
        elapsed = time.monotonic_ns() - begun
    assert answer == ready
    assert ready or elapsed >= 100 * MILLISECOND
    assert list(p) == added
    for fd in added:
        os.close(fd)


def test_a_signal_for_another_thread_does_not_end_a_wait(pipe: Pipe) -> None:
    """The kernel may choose the waiting thread, whose wait then continues by itself."""
    p = set_of({pipe.reading: pypoll.POLLIN})
    with handling(lambda *_: None, number=signal.SIGUSR1):
        thread = Thread(p.poll)
        for _ in range(50):
            signal.pthread_kill(thread.number, signal.SIGUSR1)
            time.sleep(0.001)
        assert thread.is_alive()
        os.write(pipe.writing, b"x")
        assert thread.join() == [(pipe.reading, pypoll.POLLIN)]


class Sender(threading.Thread):
    """Sends the main thread a signal when it is asked to, a moment later."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._asked, self._sent = threading.Semaphore(0), threading.Semaphore(0)
        self._choice = random.Random(5)
        self._done = False
        self.start()

    def run(self) -> None:
        while self._asked.acquire() and not self._done:
            time.sleep(self._choice.choice([0, 0.00005, 0.0002]))
            to_main_thread(signal.SIGUSR1)
            self._sent.release()

    def ask(self) -> None:
        self._asked.release()

    def wait(self) -> None:
        assert self._sent.acquire(timeout=PATIENCE)

    def end(self) -> None:
        self._done = True
        self._asked.release()
        self.join(PATIENCE)


@needs_ppoll
def test_a_blocked_signal_is_taken_in_the_wait_and_nowhere_else(
    pipe: Pipe, long_profile: bool
) -> None:
    """Pending before the wait, sent in it, sent when it may be over, and sent after it."""
    reading, writing = pipe
    rounds = 10_000 if long_profile else 1000
    p = set_of({reading: pypoll.POLLIN})
    ready = [(reading, pypoll.POLLIN)]
    choice = random.Random(4)
    taken = sent = outside = 0
    raising = waiting = False

    def handler(_number: int, frame: FrameType | None) -> None:
        nonlocal taken, outside
        taken += 1
        outside += not waiting
        while frame is not None and frame.f_code is not pypoll.Poll.ppoll.__code__:
            frame = frame.f_back
        outside += frame is None
        if raising:
            raise HandlerError
        os.write(writing, b"x")

    def taken_in_wait(timeout: float) -> bool:
        nonlocal waiting
        taken_before = taken
        waiting = True
        try:
            result = p.ppoll(timeout, mask_outside - {signal.SIGUSR1})
        except HandlerError:
            return True
        finally:
            waiting = False
        if taken == taken_before:
            assert result == []
            return False
        # The handler may have returned when time was over.
        assert result == ready or (result == [] and timeout < 1)
        os.read(reading, 1)
        return True

    def pending() -> bool:
        return signal.SIGUSR1 in signal.sigpending()

    with handling(handler, number=signal.SIGUSR1), blocked(signal.SIGUSR1):
        sender = Sender()
        mask_outside = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        for _ in range(rounds):
            kind = choice.choice(["before", "during", "at the end of", "after"])
            raising = choice.random() < 0.5
            if kind == "before":
                to_main_thread(signal.SIGUSR1)
                assert pending()
                assert taken_in_wait(1000 * PATIENCE)
            elif kind == "during":
                sender.ask()
                assert taken_in_wait(1000 * PATIENCE)
                sender.wait()
            else:
                if kind == "at the end of":
                    sender.ask()
                ended = taken_in_wait(choice.choice([0.01, 0.1, 0.3]))
                if kind == "after":
                    sender.ask()
                sender.wait()
                assert pending() is not ended
                assert p.poll(0.01) == []
                assert p.ppoll(0.01, mask_outside) == []
                assert pending() is not ended
                assert taken_in_wait(0) is not ended
            sent += 1
            assert taken == sent
            assert not pending()
        assert outside == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask_outside
        sender.end()


@pytest.mark.native  # qemu's user emulation 7.2 hangs
@needs_ppoll
@pytest.mark.parametrize("limit", [100, 250])
def test_a_signal_that_the_mask_blocks_waits_until_after_the_wait(limit: float) -> None:
    taken: list[int] = []
    p = pypoll.Poll()
    with handling(lambda _number, _frame: taken.append(time.monotonic_ns())):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        begun = time.monotonic_ns()
        assert p.ppoll(limit, {signal.SIGALRM}) == []
        assert time.monotonic_ns() - begun >= limit * MILLISECOND
        deadline = time.monotonic() + PATIENCE
        while not taken and time.monotonic() < deadline:
            time.sleep(0.001)
    assert len(taken) == 1
    assert taken[0] - begun >= limit * MILLISECOND


@needs_ppoll
def test_the_signal_mask_is_in_force_again_when_an_interrupted_wait_continues(
    pipe: Pipe,
) -> None:
    reading, writing = pipe
    p = set_of({reading: pypoll.POLLIN})

    def first(*_: object) -> None:
        to_main_thread(signal.SIGUSR1)

    def second(*_: object) -> None:
        os.write(writing, b"x")

    alarm, other = signal.SIGALRM, signal.SIGUSR1
    with handling(first), handling(second, number=other), blocked(alarm, other):
        to_main_thread(alarm)
        assert p.ppoll(1000 * PATIENCE, []) == [(reading, pypoll.POLLIN)]


class Unending:
    def __iter__(self) -> Any:
        return 5


def growing(signals: set[int]) -> Iterator[int]:
    for number in signals:
        signals.add(number + 1)
        yield number


RANGE = f"is out of range: expected 1 to {signal.NSIG - 1}"
BAD_MASKS: dict[str, Callable[[], Refusal]] = {
    "15": lambda: Refusal(15, TypeError, ("must be an iterable of signal numbers, not 15",)),
    "a str": lambda: Refusal("\x01", TypeError, ("'\\x01'",)),
    "a float in it": lambda: Refusal([10, 1.0], TypeError, ("1.0",)),
    "None in it": lambda: Refusal([None], TypeError, ("None",)),
    "0": lambda: Refusal([0], ValueError, (f"number 0 {RANGE}",)),
    "-1": lambda: Refusal([-1], ValueError, (f"number -1 {RANGE}",)),
    "NSIG": lambda: Refusal([signal.NSIG], ValueError, (RANGE,)),
    "10**5000": lambda: Refusal([10**5000], ValueError, ("16610 bits is out of range",)),
    "an iterator that raises": lambda: Refusal(map({10: 10}.__getitem__, [10, 5]), KeyError),
    "__iter__() returns no iterator": lambda: Refusal(Unending(), TypeError),
    "numbers without end": lambda: Refusal(itertools.count(signal.NSIG - 1), ValueError),
    "a set that grows": lambda: Refusal(growing({1}), RuntimeError),
}


@needs_ppoll
@pytest.mark.parametrize("make", rows(BAD_MASKS))
def test_a_bad_signal_mask_is_refused_and_changes_no_mask(
    pipe: Pipe, make: Callable[[], Refusal]
) -> None:
    p = set_of({pipe.writing: pypoll.POLLOUT})
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with nothing_changes(p):
        refusal = make()
        refusal.check(p.ppoll, 0, refusal.value)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert pypoll.Poll().ppoll(0, [1, max(signal.valid_signals())]) == []


@needs_ppoll
def test_a_signal_number_that_lies_counts_as_what_it_is() -> None:
    taken = []
    with (
        handling(lambda number, _frame: taken.append(number), number=signal.SIGUSR1),
        blocked(signal.SIGUSR1),
    ):
        to_main_thread(signal.SIGUSR1)
        assert pypoll.Poll().ppoll(0, [LyingInt(signal.SIGUSR1)]) == []
        assert taken == []
        assert pypoll.Poll().ppoll(0, [LyingInt(signal.SIGUSR2)]) == []
        assert taken == [signal.SIGUSR1]


@needs_ppoll
def test_a_signal_that_the_c_library_keeps_for_itself_emits_a_warning() -> None:
    kept = set(range(1, signal.NSIG)) - set(signal.valid_signals())
    if not kept:
        pytest.skip("this system has no such signal")
    p = pypoll.Poll()
    with pytest.warns(RuntimeWarning, match="invalid signal number") as caught:
        assert p.ppoll(0, kept) == []
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.skipif(HAS_PPOLL, reason="this build has ppoll")
def test_without_ppoll_a_signal_mask_is_refused() -> None:
    p = pypoll.Poll()
    with pytest.raises(NotImplementedError, match="ppoll"):
        p.ppoll(0, [])
    assert p.ppoll(0) == []
    # The shim refuses it too; poll() never gets that far.
    assert lib.pypoll_wait_masked(p._pypoll_set, 0, b"", 0) < 0


def test_an_overflow_error_of_a_handler_in_a_change_is_not_taken_for_one_of_the_change() -> None:
    """No signal can be timed to arrive inside cffi's call, so this calls what register() calls."""
    raised = OverflowError("the handler's")
    with pytest.raises(OverflowError) as caught:
        _refuse(5, pypoll.POLLIN, raised)
    assert caught.value is raised
