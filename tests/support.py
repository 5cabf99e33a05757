"""Code that several test files share: sets, refusals, odd objects, threads, processes, signals."""

from __future__ import annotations

import _thread
import contextlib
import importlib.util
import numbers
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Callable, NamedTuple, Optional

import pytest

from pypoll import Poll, PollSelector
from pypoll.library import lib
from pypoll.selector import _MASKS

PYPY = sys.implementation.name == "pypy"
HAS_PPOLL = bool(lib.pypoll_has_ppoll())

# Seconds after which a test gives up. No guarantee depends on it.
PATIENCE = 30.0
MILLISECOND = 1_000_000
C_INT_MAX = 2**31 - 1
# Above every limit that the tests set, so this number is never open, nor are those near it.
NEVER_OPENED = C_INT_MAX - 1000

PROGRAMS = Path(__file__).with_name("programs")
# With this, a program in another directory imports the same pypoll as the tests.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

needs_ppoll = pytest.mark.skipif(not HAS_PPOLL, reason="built without ppoll(2)")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
needs_recent_select = pytest.mark.skipif(
    PYPY or sys.version_info < (3, 13), reason="select.poll differs before CPython 3.13"
)


def needs_package(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
    )


def rows(table: dict[str, Any]) -> list[Any]:
    """Return a table as the parameters of a test."""
    return [pytest.param(row, id=name) for name, row in table.items()]


class Pipe(NamedTuple):
    reading: int
    writing: int


def ran(
    name: str,
    directory: Path,
    *arguments: object,
    under: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    timeout: float = 4 * PATIENCE,
) -> tuple[int, str, str]:
    """Run a program of tests/programs; return its exit status, output and errors."""
    done = subprocess.run(
        [*under, sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)],
        cwd=directory,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    return done.returncode, done.stdout, done.stderr


# ---- Sets and their contents -----------------------------------------------------------------


def set_of(masks: dict[int, int]) -> Poll:
    p = Poll()
    for fd, mask in masks.items():
        p.register(fd, mask)
    return p


def contents(p: Poll) -> dict[int, int]:
    """Return the descriptors and their masks."""
    assert len(p) == len(list(p))
    return {fd: p[fd] for fd in p}


@contextlib.contextmanager
def nothing_changes(p: Poll) -> Iterator[None]:
    """Check that the set is the same afterwards, that it polls, and that it can be changed."""
    before, ready = list(contents(p).items()), p.poll(0)
    yield
    assert list(contents(p).items()) == before
    assert p.poll(0) == ready
    p.register(NEVER_OPENED - 1, 1)
    assert list(contents(p).items()) == [*before, (NEVER_OPENED - 1, 1)]
    p.unregister(NEVER_OPENED - 1)


def settled(selector: PollSelector) -> bool:
    """Return whether set and keys agree after a select(), as they must if nothing else is running.

    This reads private names, because a set with more descriptors than keys makes select() spin,
    which no public call shows.
    """
    selector.select(0)
    expected = {fd: key.events for fd, key in selector._fd_to_key.items() if key.events}
    masks = {fd: _MASKS[events] for fd, events in expected.items()}
    return contents(selector._selector) == masks and not selector._unsettled


# ---- Refused arguments -----------------------------------------------------------------------


class Refusal(NamedTuple):
    """A bad argument, the exact type of the exception, and text that its message contains."""

    value: Any
    error: type[BaseException]
    words: tuple[str, ...] = ()

    def check(self, call: Callable[..., object], *args: object) -> None:
        """Check that the call raises this exception, with a message of bounded length."""
        error = error_of(call, *args)
        assert type(error) is self.error
        assert [word for word in self.words if word not in str(error)] == []
        assert len(str(error)) < 300


def error_of(call: Callable[..., object], *args: object) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the caller checks it
        call(*args)
    return caught.value


def outcome(call: Callable[..., object], *args: object) -> object:
    """Return what the call returns, or the type of the exception that it raises."""
    try:
        return call(*args)
    except Exception as error:
        return type(error)


class Interruption(BaseException):
    """Like KeyboardInterrupt, but only tests raise it."""


# Each of these must propagate if a method of an argument raises it.
RAISED = ValueError("no"), TypeError("no"), Interruption("no")


# ---- Odd objects -----------------------------------------------------------------------------


class _Lies:
    """Claims to be 7, and says yes to every comparison."""

    def _lie(self, *_arguments: object) -> Any:
        return 7

    __index__ = __int__ = __float__ = __neg__ = __add__ = __radd__ = __mul__ = __rmul__ = _lie
    __and__ = __rand__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _lie
    as_integer_ratio = _lie


class LyingInt(_Lies, int):
    """Counts as the number that it was made of, not as the one that its methods return."""

    __hash__ = int.__hash__


class LyingFloat(_Lies, float):
    __hash__ = float.__hash__


class Index:
    """Has only `__index__()`, which returns or raises *answer*."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __index__(self) -> int:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


class FileLike:
    """Has only `fileno()`, which returns or raises *answer*."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def fileno(self) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class OnlyInt:
    def __init__(self, number: int = 1) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


@numbers.Real.register
class Measured:
    """A real number that has only `__float__()`."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


# ---- Threads ---------------------------------------------------------------------------------


class Thread:
    """Runs a job in a thread that the threading module does not know, and keeps its result."""

    def __init__(self, job: Callable[..., Any], *arguments: object) -> None:
        self.error: BaseException | None = None
        self.result: Any = None
        self._running = _thread.allocate_lock()
        self._running.acquire()
        self.number = _thread.start_new_thread(self._run, (job, arguments))

    def _run(self, job: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        try:
            self.result = job(*arguments)
        except BaseException as error:
            self.error = error
        self._running.release()

    def is_alive(self) -> bool:
        return self._running.locked()

    def ends(self, patience: float = PATIENCE) -> bool:
        """Return whether it ends within *patience* seconds."""
        ended = self._running.acquire(timeout=patience)
        if ended:
            self._running.release()
        return ended

    def join(self) -> Any:
        """Return the job's result, or raise its exception."""
        assert self.ends()
        if self.error:
            raise self.error
        return self.result


def waiting_thread(p: Poll, wait: Callable[[], object] | None = None) -> Thread:
    """Return a thread that is already waiting in *p*, by p.poll() or by *wait*."""
    call = wait or p.poll

    def job() -> object:
        while True:
            # The poll(0) below may be in the set at this moment.
            with contextlib.suppress(RuntimeError):
                return call()

    thread = Thread(job)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            p.poll(0)
        except RuntimeError:
            return thread
        time.sleep(0.001)
    raise AssertionError("the thread does not wait")


@contextlib.contextmanager
def written_after(pipe: Pipe, seconds: float = 0.05) -> Iterator[None]:
    """Write a byte into the pipe after some time, from another thread."""
    timer = threading.Timer(seconds, os.write, (pipe.writing, b"x"))
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextlib.contextmanager
def switching_often(interval: float = 1e-6) -> Iterator[None]:
    """Let threads take turns at nearly every instruction."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# ---- Processes -------------------------------------------------------------------------------


def in_child(test: Callable[[], None]) -> int:
    """Run *test* in a forked child, and return its process ID."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            test()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return child


def succeeds(child: int) -> bool:
    """Wait for the child, and return whether it succeeded. A child that hangs has failed."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return status == 0
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


# ---- Signals ---------------------------------------------------------------------------------

Handler = Callable[[int, Optional[FrameType]], object]


@contextlib.contextmanager
def handling(
    handler: Handler, after: float = 0, interval: float = 0, number: int = signal.SIGALRM
) -> Iterator[None]:
    """Install a handler, and send SIGALRM to the process *after* some seconds unless it is 0."""
    before = signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, after, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # The kernel may have chosen another thread, which has not handled the signal yet. It would
        # end the process once the default action is restored. SIG_IGN discards it.
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, before)


@contextlib.contextmanager
def blocked(*numbers: int) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def to_main_thread(number: int) -> None:
    """Send a signal to the main thread. Any thread may get one that is sent to the process."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)
