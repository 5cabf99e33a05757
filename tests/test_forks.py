"""After fork(), parent and child each have a set that works."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Callable

import pytest

import pypoll

PATIENCE = 30.0
UntilWaiting = Callable[[pypoll.Poll], None]

pytestmark = pytest.mark.filterwarnings(
    # CPython 3.12 warns of what is tested here.
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def in_child(test: Callable[[], None]) -> int:
    """Run *test* in a forked child; return the child's process number."""
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
    """Wait for the child with a limit: one that hangs is a failure too."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return status == 0
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_the_child_has_a_copy_of_the_set(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)

    def child() -> None:
        p.register(writing, pypoll.POLLOUT)
        assert p.poll(0) == [(writing, pypoll.POLLOUT)]

    assert succeeds(in_child(child))
    assert list(p) == [reading]


def test_a_fork_during_another_threads_wait_leaves_both_usable(
    pipe: tuple[int, int], until_waiting: UntilWaiting
) -> None:
    """CPython's own object raises "concurrent poll() invocation" in the child for ever."""
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    results: list[object] = []

    def wait() -> None:
        # until_waiting() polls too, and may be there first.
        while not results:
            with contextlib.suppress(RuntimeError):
                results.append(p.poll())

    thread = threading.Thread(target=wait)
    thread.start()
    until_waiting(p)
    p.register(writing, pypoll.POLLOUT)

    def child() -> None:
        assert list(p) == [reading, writing]
        assert p.poll(0) == [(writing, pypoll.POLLOUT)]
        p.unregister(writing)
        assert p.poll(1) == []

    assert succeeds(in_child(child))
    assert thread.is_alive()
    os.write(writing, b"x")
    thread.join(PATIENCE)
    assert results == [[(reading, pypoll.POLLIN)]]
    assert p.poll(0) == [(reading, pypoll.POLLIN), (writing, pypoll.POLLOUT)]


def test_a_fork_in_a_signal_handler_lets_both_waits_go_on(pipe: tuple[int, int]) -> None:
    """Both return what the parent writes later; in both the nested poll is refused."""
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    children: list[int] = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        children.append(os.fork())
        with pytest.raises(RuntimeError):
            p.poll(0)
        if children[0]:
            os.write(writing, b"x")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        answer = p.poll(1000 * PATIENCE)
    except BaseException:
        if children and children[0] == 0:
            os._exit(1)
        raise
    finally:
        signal.signal(signal.SIGALRM, before)
    if children[0] == 0:
        os._exit(answer != [(reading, pypoll.POLLIN)] or p.poll(0) != answer)
    assert answer == [(reading, pypoll.POLLIN)]
    assert succeeds(children[0])


@pytest.mark.asynchronous
def test_forks_while_threads_change_sets_leave_every_child_a_whole_set(
    pipe: tuple[int, int],
) -> None:
    p = pypoll.Poll()
    p.register(pipe[1], pypoll.POLLOUT)
    done = threading.Event()

    def change(first: int) -> None:
        while not done.is_set():
            for fd in range(first, first + 40):
                p.register(fd, 0)
            for fd in range(first, first + 40):
                p.unregister(fd)
            pypoll.Poll().register(0)

    threads = [threading.Thread(target=change, args=(first,)) for first in (100_000, 200_000)]
    for thread in threads:
        thread.start()

    def child() -> None:
        fds = list(p)
        assert len(fds) == len(set(fds)) == len(p)
        assert p.poll(0)[0] == (pipe[1], pypoll.POLLOUT)
        for fd in fds:
            p.unregister(fd)
        pypoll.Poll().poll(0)
        assert len(p) == 0

    try:
        assert all(succeeds(in_child(child)) for _ in range(40))
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
