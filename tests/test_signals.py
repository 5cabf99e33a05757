"""Signal handlers run during a wait, which then continues (PEP 475); ppoll's mask is atomic.

A handler may raise, change the object whose wait it interrupted, or wait in that object.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from contextlib import suppress
from typing import Callable, Optional

import pytest

import pypoll
from pypoll.library import lib
from pypoll.poller import _refuse
from support import (
    HAS_PPOLL,
    MILLISECOND,
    PATIENCE,
    Interruption,
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
# Without a signal mask, a wait cannot notice a signal that arrives just before its system call.
# So timers send another one.
AGAIN = 0.05

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
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        if handled == 3:
            os.write(pipe.writing, b"x")

    p = set_of({pipe.reading: pypoll.POLLIN})
    with handling(handler, 0.02, 0.02):
        answer = wait(p, timeout)
    assert answer in ([(pipe.reading, pypoll.POLLIN)], pypoll.POLLIN)
    assert handled >= 3


@WAIT_CASES
def test_signals_neither_shorten_the_wait_nor_restart_it(wait: Wait, pipe: Pipe) -> None:
    p = set_of({pipe.reading: pypoll.POLLIN})
    begun = time.monotonic_ns()

    def handler(*_: object) -> None:
        assert time.monotonic_ns() - begun < PATIENCE * 1000 * MILLISECOND

    with handling(handler, 0.001, 0.003):
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
        raise Interruption

    def interrupted_wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.005, AGAIN)
        wait(p, None)

    p = set_of({reading: pypoll.POLLIN})
    with handling(handler):
        for _ in range(20):
            with pytest.raises(Interruption):
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
        # On a busy machine the handler may run before the wait begins.
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
    """In compiled code, PyPy runs handlers only at certain points; each wait must have one."""
    reading, writing = pipe
    rounds = 3000
    p = set_of({reading: pypoll.POLLIN})

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(writing, b"x")

    deadline = time.monotonic() + 3 * PATIENCE
    with handling(handler):
        for _ in range(rounds):
            assert time.monotonic() < deadline, "handlers run late"
            signal.setitimer(signal.ITIMER_REAL, 0.0002, AGAIN)
            assert wait(p, 1000 * PATIENCE) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
            os.read(reading, 100)


@WAIT_CASES
@pytest.mark.skipif(
    getattr(sys, "pypy_version_info", (0,)) >= (8,), reason="PyPy 8 runs one handler at a time"
)
def test_a_handler_may_wait_in_the_object_whose_wait_it_interrupted(wait: Wait, pipe: Pipe) -> None:
    """The handler's own wait is interrupted too. No wait is shortened."""
    p = set_of({pipe.reading: pypoll.POLLIN})
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
        for nested in WAITS.values():
            assert not nested(p, 0)
        timed_wait(5)
        depth -= 1

    deadline = time.monotonic() + PATIENCE
    with handling(handler, 0.002, 0.003):
        # On a busy machine the signals may arrive between the waits.
        while deepest < 2:
            assert time.monotonic() < deadline
            timed_wait(60)


@pytest.mark.parametrize("count", [0, 1, 9, 300])
@pytest.mark.parametrize("way", [way for way in WAITS if way != "poll_fd"])
def test_changes_made_by_a_handler_take_effect_in_the_wait_that_continues(
    way: str, count: int, pipe: Pipe, many: list[int]
) -> None:
    reading, writing = pipe
    p = set_of({reading: pypoll.POLLIN})
    added = many[:count]
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


def test_a_signal_for_another_thread_does_not_end_a_wait(pipe: Pipe) -> None:
    """The handler runs in the main thread, and the interrupted wait continues."""
    p = set_of({pipe.reading: pypoll.POLLIN})
    with handling(lambda *_: None, number=signal.SIGUSR1):
        thread = Thread(p.poll)
        for _ in range(50):
            signal.pthread_kill(thread.number, signal.SIGUSR1)
            time.sleep(0.001)
        assert thread.is_alive()
        os.write(pipe.writing, b"x")
        assert thread.join() == [(pipe.reading, pypoll.POLLIN)]


@needs_ppoll
def test_a_blocked_signal_is_handled_in_the_wait_and_nowhere_else(
    pipe: Pipe, long_profile: bool
) -> None:
    """It arrives before a wait, during it, about when it ends, or after it."""
    reading, writing = pipe
    p = set_of({reading: pypoll.POLLIN})
    choice = random.Random(4)
    waiting = False
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        assert waiting
        handled += 1
        os.write(writing, b"x")
        if handled % 2:
            raise Interruption

    def send(delay: float) -> None:
        time.sleep(delay)
        to_main_thread(signal.SIGUSR1)

    with handling(handler, number=signal.SIGUSR1), blocked(signal.SIGUSR1):
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        for number in range(1, 10_000 if long_profile else 1000):
            thread = Thread(send, choice.choice([0, 0.00005, 0.0002]))
            if choice.random() < 0.3:
                thread.join()
            for timeout in (choice.choice([0, 0.1, 0.3]), 1000 * PATIENCE):
                result = []
                waiting = True
                with suppress(Interruption):
                    result = p.ppoll(timeout, mask - {signal.SIGUSR1})
                waiting = False
                if handled == number:
                    break
                assert timeout < 1
                assert result == p.poll(0.01) == p.ppoll(0.01, mask) == []
            thread.join()
            assert result in ([], [(reading, pypoll.POLLIN)])
            assert os.read(reading, 10) == b"x"
            assert signal.SIGUSR1 not in signal.sigpending()
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


@pytest.mark.native  # qemu's user emulation 7.2 hangs
@needs_ppoll
@pytest.mark.parametrize("limit", [100, 250])
def test_a_signal_that_the_mask_blocks_is_handled_after_the_wait(limit: float) -> None:
    """A wait of more than 100 ms is several system calls."""
    handled: list[int] = []
    with handling(lambda *_: handled.append(time.monotonic_ns()), 0.01):
        begun = time.monotonic_ns()
        assert pypoll.Poll().ppoll(limit, {signal.SIGALRM}) == []
        assert time.monotonic_ns() - begun >= limit * MILLISECOND
        deadline = time.monotonic() + PATIENCE
        while not handled and time.monotonic() < deadline:
            time.sleep(0.001)
    assert len(handled) == 1
    assert handled[0] - begun >= limit * MILLISECOND


@needs_ppoll
def test_the_signal_mask_applies_again_when_an_interrupted_wait_continues(pipe: Pipe) -> None:
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


RANGE = f"is out of range: expected 1 to {signal.NSIG - 1}"
BAD_MASKS: dict[str, Callable[[], Refusal]] = {
    "15": lambda: Refusal(15, TypeError, ("must be an iterable of signal numbers, not 15",)),
    "a str": lambda: Refusal("\x01", TypeError, ("it holds '\\x01'",)),
    "a float in it": lambda: Refusal([10, 1.0], TypeError, ("it holds 1.0",)),
    "0": lambda: Refusal([0], ValueError, (f"number 0 {RANGE}",)),
    "NSIG": lambda: Refusal([signal.NSIG], ValueError, (RANGE,)),
    "10**5000": lambda: Refusal([10**5000], ValueError, ("16610 bits is out of range",)),
    "an iterator that raises": lambda: Refusal(map({10: 10}.__getitem__, [10, 5]), KeyError),
    "an infinite iterator": lambda: Refusal(itertools.count(signal.NSIG - 1), ValueError),
}


@needs_ppoll
@pytest.mark.parametrize("make", rows(BAD_MASKS))
def test_a_bad_signal_mask_is_refused_and_changes_nothing(
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
def test_an_int_subclass_counts_as_a_signal_number_by_its_real_value() -> None:
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
def test_a_signal_that_the_c_library_reserves_emits_a_warning() -> None:
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
    # The shim refuses it too, although ppoll() never calls it then.
    assert lib.pypoll_wait_masked(p._pypoll_set, 0, b"", 0) < 0


def test_an_overflow_error_that_a_handler_raises_in_register_propagates() -> None:
    """No signal can be timed to arrive inside cffi's call, so this calls a private function."""
    raised = OverflowError("the handler's")
    with pytest.raises(OverflowError) as caught:
        _refuse(5, pypoll.POLLIN, raised)
    assert caught.value is raised
