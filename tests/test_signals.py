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
from pypoll.poller import _refuse

Handler = Callable[[int, Optional[FrameType]], None]
Wait = Callable[[pypoll.Poll, Optional[float]], object]
PATIENCE = 30.0
MILLISECOND = 1_000_000
# Without a signal mask, no wait can see a signal that comes between the last look for signals and
# the system call. So timers send another one.
AGAIN = 0.05

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
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise HandlerError

    def interrupted_wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.005, AGAIN)
        wait(p, None)

    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    with handling(handler):
        for _ in range(20):
            with pytest.raises(HandlerError):
                interrupted_wait()
            assert lib.pypoll_hold(p._pypoll_set) == 0
    assert p.poll(0) == []
    os.write(writing, b"x")
    assert wait(p, None) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)


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

    deadline = time.monotonic() + 3 * PATIENCE
    with handling(handler):
        for _ in range(rounds):
            assert time.monotonic() < deadline, "handlers run late, or at the deadline of the wait"
            signal.setitimer(signal.ITIMER_REAL, 0.0002, AGAIN)
            assert wait(p, 1000 * PATIENCE) in ([(reading, pypoll.POLLIN)], pypoll.POLLIN)
            os.read(reading, 100)


def waiting(p: pypoll.Poll) -> bool:
    """Tell a handler whether it interrupted a wait, and not what came before."""
    try:
        p.poll(0)
    except RuntimeError:
        return True
    return False


def test_a_handler_that_polls_the_interrupted_object_is_refused(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    # Where the machine is busy, the timer strikes the handler too: each answer may come twice.
    answers = {}

    def handler(_number: int, _frame: FrameType | None) -> None:
        if not waiting(p):
            return
        for timeout in (None, 0, 0.5):
            for nested in (p.poll, p.ppoll):
                try:
                    answers[timeout, nested] = str(nested(timeout))
                except RuntimeError as error:
                    answers[timeout, nested] = str(error)
        with contextlib.suppress(TypeError):
            p.poll("x")  # type: ignore[arg-type]
        other = pypoll.Poll()
        other.register(writing, pypoll.POLLOUT)
        assert other.poll(0) == [(writing, pypoll.POLLOUT)]
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(writing, b"x")

    with handling(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.02, AGAIN)
        assert p.poll(1000 * PATIENCE) == [(reading, pypoll.POLLIN)]
    assert list(answers.values()) == ["concurrent poll() invocation"] * 6
    assert p.poll(0) == [(reading, pypoll.POLLIN)]


def test_changes_made_by_a_handler_count_from_the_next_poll(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)

    def handler(_number: int, _frame: FrameType | None) -> None:
        if not waiting(p):
            return
        if writing in p:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(writing, b"x")
        p.register(writing, pypoll.POLLOUT)
        p.modify(reading, 0)

    with handling(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.02, AGAIN)
        assert p.poll(1000 * PATIENCE) == [(reading, pypoll.POLLIN)]
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
            send()
            self._sent.release()

    def ask(self) -> None:
        self._asked.release()

    def wait(self) -> None:
        assert self._sent.acquire(timeout=PATIENCE)

    def end(self) -> None:
        self._done = True
        self._asked.release()
        self.join(PATIENCE)


def send() -> None:
    # To this thread: another one, be it about to end, would take what is sent to the process.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


@needs_ppoll
def test_a_blocked_signal_is_taken_in_the_wait_and_nowhere_else(
    pipe: tuple[int, int], long_profile: bool, record_property: Callable[[str, object], None]
) -> None:
    """Pending before the wait, sent in it, sent when it may be over, and sent after it."""
    reading, writing = pipe
    rounds = 10_000 if long_profile else 1000
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
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

    with handling(handler, signal.SIGUSR1), blocked(signal.SIGUSR1):
        sender = Sender()
        mask_outside = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        kinds = dict.fromkeys(("before", "during", "at the end of", "after"), 0)
        for _ in range(rounds):
            kind = choice.choice(list(kinds))
            kinds[kind] += 1
            raising = choice.random() < 0.5
            if kind == "before":
                send()
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
    for kind, count in kinds.items():
        record_property(f"{kind} the wait", count)


@pytest.mark.native  # qemu's user emulation 7.2 hangs
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
        ([signal.NSIG], ValueError, f"is out of range: expected 1 to {signal.NSIG - 1}$"),
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
    assert p.ppoll(0, [1, max(signal.valid_signals())]) == []


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
    assert lib.pypoll_wait_masked(p._pypoll_set, 0, b"", 0) < 0


def test_an_overflow_error_of_a_handler_in_a_change_is_not_taken_for_one_of_the_change() -> None:
    """The handler runs where register() looks for what the shim could not take."""
    raised = OverflowError("the handler's")
    with pytest.raises(OverflowError) as caught:
        _refuse(raised, "register", 5, pypoll.POLLIN)
    assert caught.value is raised
