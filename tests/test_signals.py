"""Interruption (PEP 475), handlers that raise, poll in a handler, and ppoll's signal mask."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Callable, Optional

import pytest

import pypoll
from pypoll.library import lib

Handler = Callable[[int, Optional[FrameType]], None]
Wait = Callable[[pypoll.Poll, Optional[float]], object]
PATIENCE = 30.0
MILLISECOND = 1_000_000

needs_ppoll = pytest.mark.skipif(
    not lib.pypoll_has_ppoll(), reason="this build has no ppoll, so sigmask is refused"
)


class HandlerError(Exception):
    """Raised by a signal handler."""


@contextlib.contextmanager
def handling(handler: Handler, number: int = signal.SIGALRM) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)


WAITS: dict[str, Wait] = {
    "poll": lambda p, timeout: p.poll(timeout),
    "ppoll": lambda p, timeout: p.ppoll(timeout),
    "poll_fd": lambda p, timeout: pypoll.poll_fd(next(iter(p)), pypoll.POLLIN, timeout),
}
if lib.pypoll_has_ppoll():
    WAITS["ppoll with a mask"] = lambda p, timeout: p.ppoll(timeout, [])
WAIT_CASES = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


@WAIT_CASES
@pytest.mark.parametrize("timeout", [None, -1, 60_000])
def test_a_handler_runs_during_the_wait_and_the_wait_goes_on(
    wait: Wait, timeout: float | None, pipe: tuple[int, int]
) -> None:
    """PyPy's own poll(None) returns [] here."""
    reading, writing = pipe
    ran = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        ran.append(time.monotonic())
        if len(ran) == 3:
            os.write(writing, b"x")

    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    with handling(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        answer = wait(p, timeout)
    assert answer in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
    assert len(ran) >= 3


@WAIT_CASES
def test_interruptions_do_not_shorten_the_wait(wait: Wait, pipe: tuple[int, int]) -> None:
    p = pypoll.Poll()
    p.register(pipe[0], pypoll.POLLIN)
    with handling(lambda _number, _frame: None):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
        begun = time.monotonic_ns()
        answer = wait(p, 50)
        elapsed = time.monotonic_ns() - begun
    assert not answer
    assert elapsed >= 50 * MILLISECOND


@WAIT_CASES
def test_what_the_handler_raises_leaves_the_wait_and_the_object_stays_usable(
    wait: Wait, pipe: tuple[int, int]
) -> None:
    reading, writing = pipe

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise HandlerError

    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    with handling(handler):
        for _ in range(20):
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            with pytest.raises(HandlerError):
                wait(p, None)
    assert p.poll(0) == []
    os.write(writing, b"x")
    assert wait(p, None) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)


@pytest.mark.asynchronous
def test_a_handler_that_raises_at_random_instructions_leaves_the_object_usable() -> None:
    """With 200 descriptors ready, so that results are handed over in parts."""
    pipes = [os.pipe() for _ in range(200)]
    ready = [(reading, pypoll.POLLIN) for reading, _ in pipes]
    p = pypoll.Poll()
    for reading, writing in pipes:
        p.register(reading, pypoll.POLLIN)
        os.write(writing, b"x")
    first, last = pipes[0][0], pipes[-1][0]
    choice = random.Random(2)

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise HandlerError

    with handling(handler):
        for _ in range(1500):
            try:
                signal.setitimer(signal.ITIMER_REAL, choice.uniform(1e-6, 1e-4))
                # Not for ever: where nobody can catch an exception, as in __del__, it is dropped.
                for _ in range(1000):
                    p.unregister(last)
                    p.register(last, pypoll.POLLIN)
                    p.modify(first, pypoll.POLLIN)
                    p.poll(0.001)
                    p.ppoll(0)
            except HandlerError:
                pass
            assert len(p) in (199, 200)
            p.register(last, pypoll.POLLIN)
            assert p.poll(0) == ready
    for pair in pipes:
        for fd in pair:
            os.close(fd)


@WAIT_CASES
def test_a_deadline_that_passes_in_the_handler_ends_the_wait_empty(
    wait: Wait, pipe: tuple[int, int]
) -> None:
    reading, writing = pipe

    def handler(_number: int, _frame: FrameType | None) -> None:
        os.write(writing, b"x")
        time.sleep(0.2)

    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    with handling(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        answer = wait(p, 150)
    assert not answer
    assert wait(p, 0) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)


@WAIT_CASES
def test_every_signal_runs_its_handler_when_the_wait_is_compiled(
    wait: Wait, pipe: tuple[int, int]
) -> None:
    """PyPy runs handlers in compiled code only at some places; one must lie in each wait."""
    reading, writing = pipe
    rounds = 3000
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)

    def handler(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(writing, b"x")

    with handling(handler):
        for _ in range(rounds):
            # Once more, should the first one come between the last look for signals and the
            # system call: no wait without a signal mask can see that one.
            signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.05)
            assert wait(p, 1000 * PATIENCE) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
            os.read(reading, 100)


def test_a_handler_that_polls_the_interrupted_object_is_refused(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    refused = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        for timeout in (None, 0, 0.5):
            for nested in (p.poll, p.ppoll):
                try:
                    nested(timeout)
                except RuntimeError as error:
                    refused.append(str(error))
        with contextlib.suppress(TypeError):
            p.poll("x")  # type: ignore[arg-type]
        other = pypoll.Poll()
        other.register(writing, pypoll.POLLOUT)
        assert other.poll(0) == [(writing, pypoll.POLLOUT)]
        os.write(writing, b"x")

    with handling(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert p.poll() == [(reading, pypoll.POLLIN)]
    assert refused == ["concurrent poll() invocation"] * 6
    assert p.poll(0) == [(reading, pypoll.POLLIN)]


def test_changes_made_by_a_handler_count_from_the_next_poll(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)

    def handler(_number: int, _frame: FrameType | None) -> None:
        p.register(writing, pypoll.POLLOUT)
        p.modify(reading, 0)

    with handling(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert p.poll(100) == []
    assert (list(p), p[reading]) == ([reading, writing], 0)
    assert p.poll(0) == [(writing, pypoll.POLLOUT)]


def test_a_signal_for_another_thread_does_not_end_a_wait(pipe: tuple[int, int]) -> None:
    """The kernel may choose the waiting thread, whose wait then goes on by itself."""
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(p.poll()))
    with handling(lambda _number, _frame: None, signal.SIGUSR1):
        thread.start()
        for _ in range(50):
            assert thread.ident is not None
            signal.pthread_kill(thread.ident, signal.SIGUSR1)
            time.sleep(0.001)
        assert thread.is_alive()
        os.write(writing, b"x")
        thread.join(PATIENCE)
    assert results == [[(reading, pypoll.POLLIN)]]


@contextlib.contextmanager
def blocked(number: int) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@needs_ppoll
@pytest.mark.parametrize("pending", ["before", "during"])
def test_a_blocked_signal_is_taken_in_the_wait_and_nowhere_else(pending: str) -> None:
    p = pypoll.Poll()
    taken = []

    def handler(number: int, _frame: FrameType | None) -> None:
        taken.append(number)
        raise HandlerError

    def send() -> None:
        # To this thread: another one, be it about to end, would take what is sent to the process.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    with handling(handler, signal.SIGUSR1), blocked(signal.SIGUSR1):
        mask_outside = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        for _ in range(100):
            sender = threading.Timer(0.0005, send)
            if pending == "before":
                send()
            else:
                sender.start()
            with pytest.raises(HandlerError):
                p.ppoll(1000 * PATIENCE, mask_outside - {signal.SIGUSR1})
            if pending == "during":
                sender.join()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask_outside
        assert len(taken) == 100
        send()
        assert p.ppoll(0, mask_outside) == []
        assert p.poll(1) == []
        assert len(taken) == 100
        with pytest.raises(HandlerError):
            p.ppoll(0, [])


@needs_ppoll
def test_a_signal_that_the_mask_blocks_waits_until_after_the_wait() -> None:
    taken = []
    p = pypoll.Poll()
    with handling(lambda number, _frame: taken.append(number)):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        begun = time.monotonic_ns()
        assert p.ppoll(100, {signal.SIGALRM}) == []
        assert time.monotonic_ns() - begun >= 100 * MILLISECOND
        deadline = time.monotonic() + PATIENCE
        while not taken and time.monotonic() < deadline:
            time.sleep(0.001)
    assert taken == [signal.SIGALRM]


@needs_ppoll
@pytest.mark.parametrize(
    ("sigmask", "exception", "words"),
    [
        (5, TypeError, "int"),
        (["x"], TypeError, "'x'"),
        ([1.0], TypeError, "1.0"),
        ([None], TypeError, "None"),
        ([0], ValueError, "number 0 is out of range: expected 1 to"),
        ([-1], ValueError, "number -1 is out of range: expected 1 to"),
        ([signal.NSIG], ValueError, f"number {signal.NSIG} is out of range"),
        ([10**5000], ValueError, "16610 bits is out of range"),
    ],
)
def test_a_bad_signal_mask_is_refused(
    sigmask: list[int], exception: type[Exception], words: str
) -> None:
    p = pypoll.Poll()
    with pytest.raises(exception, match=words) as caught:
        p.ppoll(0, sigmask)
    assert caught.type is exception
    assert p.ppoll(0, []) == []


@needs_ppoll
def test_a_signal_that_the_c_library_keeps_for_itself_is_warned_of() -> None:
    kept = set(range(1, signal.NSIG)) - set(signal.valid_signals())
    if not kept:
        pytest.skip("this system has no such signal")
    p = pypoll.Poll()
    with pytest.warns(RuntimeWarning, match="invalid signal number") as caught:
        assert p.ppoll(0, kept) == []
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.skipif(bool(lib.pypoll_has_ppoll()), reason="this build has ppoll")
def test_without_ppoll_a_signal_mask_is_refused() -> None:
    p = pypoll.Poll()
    with pytest.raises(NotImplementedError, match="ppoll"):
        p.ppoll(0, [])
    assert p.ppoll(0) == []
    assert lib.pypoll_wait_masked(p._set, 0, b"", 0) < 0
