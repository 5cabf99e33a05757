"""After fork(), parent and child each have a set that works."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Callable

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
    """Both may poll the object in the handler, and both waits return what is written later."""
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    told, telling = os.pipe()
    children: list[int] = []
    ran = False

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal ran
        if ran:
            return
        ran = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert p.poll(0) == []
        children.append(os.fork())
        assert p.poll(0) == p.poll(1) == []
        if children[0]:
            # Not before the child has looked. If it failed, this is the end of the file.
            os.close(telling)
            assert os.read(told, 1) == b"x"
            os.write(writing, b"x")
        else:
            os.write(telling, b"x")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.05)
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
    os.close(told)


@pytest.mark.asynchronous
def test_forks_while_threads_wait_and_change_sets_leave_every_child_whole_sets(
    pipe: tuple[int, int], long_profile: bool
) -> None:
    """One thread sleeps in its set, another is given hundreds of results again and again."""
    reading, writing = pipe
    quick = 40 if sys.implementation.name == "pypy" else 100
    busy, quiet = pypoll.Poll(), pypoll.Poll()
    flood = [os.dup(writing) for _ in range(300)]
    ready = [(fd, pypoll.POLLOUT) for fd in flood]
    coming_and_going = [os.dup(writing) for _ in range(80)]
    for fd in flood:
        busy.register(fd, pypoll.POLLOUT)
    quiet.register(reading, pypoll.POLLIN)
    sets = [(busy, flood, ready), (quiet, [reading], [])]
    done = threading.Event()
    failures: list[BaseException] = []
    results: list[list[tuple[int, int]]] = []

    def guard(job: Callable[..., None], *arguments: list[int]) -> None:
        try:
            job(*arguments)
        except BaseException as error:
            failures.append(error)

    def wait() -> None:
        while not done.is_set():
            assert busy.poll() == ready

    def change(fds: list[int]) -> None:
        while not done.is_set():
            for p in (busy, quiet):
                for fd in fds:
                    p.register(fd, 0)
                for fd in fds:
                    p.unregister(fd)
            pypoll.Poll().register(0)
            time.sleep(0.0002)

    def child() -> None:
        for p, fds, found in sets:
            registered = list(p)
            assert len(registered) == len(set(registered)) == len(p)
            assert [fd for fd in registered if fd not in coming_and_going] == fds
            assert p.poll(0) == found
            p.register(writing, pypoll.POLLOUT)
            assert p.poll() == [*found, (writing, pypoll.POLLOUT)]
            for fd in list(p):
                p.unregister(fd)
            assert len(p) == 0
        pypoll.Poll().poll(0)

    jobs: list[tuple[Any, ...]] = [(wait,), (lambda: results.append(quiet.poll()),)]
    jobs += [(change, coming_and_going[:40]), (change, coming_and_going[40:])]
    threads = [threading.Thread(target=guard, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        for _ in range(1000 if long_profile else quick):
            assert succeeds(in_child(child))
            assert failures == []
            assert results == []
    finally:
        done.set()
        os.write(writing, b"x")
        for thread in threads:
            thread.join(PATIENCE)
    assert failures == []
    assert results == [[(reading, pypoll.POLLIN)]]
    assert [list(p) for p, _, _ in sets] == [fds for _, fds, _ in sets]
    for fd in (*flood, *coming_and_going):
        os.close(fd)


def test_a_fork_after_a_second_import_works(tmp_path: Path) -> None:
    """Handlers that are registered twice would take the same locks twice."""
    program = """
import importlib, os, signal
import pypoll.library
importlib.reload(pypoll.library)
signal.alarm(20)
child = os.fork()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0) == (child, 0)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
