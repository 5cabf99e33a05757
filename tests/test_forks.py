"""After fork(), parent and child each have a whole set that works, whatever other threads do."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import pypoll
from support import (
    PATIENCE,
    PYPY,
    Pipe,
    Thread,
    handling,
    in_child,
    ran,
    set_of,
    succeeds,
    waiting_thread,
)

pytestmark = pytest.mark.filterwarnings(
    # CPython 3.12 warns of what is tested here.
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def test_a_fork_during_another_threads_wait_leaves_both_usable(pipe: Pipe) -> None:
    """CPython's own object raises "concurrent poll() invocation" in the child for ever."""
    p = set_of({pipe.reading: pypoll.POLLIN})
    thread = waiting_thread(p)
    p.register(pipe.writing, pypoll.POLLOUT)

    def child() -> None:
        assert list(p) == list(pipe)
        assert p.poll(0) == [(pipe.writing, pypoll.POLLOUT)]
        p.unregister(pipe.writing)
        assert p.poll(1) == []

    assert succeeds(in_child(child))
    assert thread.is_alive()
    os.write(pipe.writing, b"x")
    assert thread.join() == [(pipe.reading, pypoll.POLLIN)]
    assert p.poll(0) == [(pipe.reading, pypoll.POLLIN), (pipe.writing, pypoll.POLLOUT)]


def test_a_fork_in_a_signal_handler_lets_both_waits_go_on(pipe: Pipe) -> None:
    """Both may poll the object in the handler, and both waits return what is written later."""
    reading, writing = pipe
    p = set_of({reading: pypoll.POLLIN})
    told, telling = os.pipe()
    children: list[int] = []
    ran = False

    def handler(*_: object) -> None:
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

    try:
        with handling(handler, 0.02, 0.05):
            answer = p.poll(1000 * PATIENCE)
    except BaseException:
        if children and children[0] == 0:
            os._exit(1)
        raise
    if children[0] == 0:
        os._exit(answer != [(reading, pypoll.POLLIN)] or p.poll(0) != answer)
    assert answer == [(reading, pypoll.POLLIN)]
    assert succeeds(children[0])
    os.close(told)


@pytest.mark.asynchronous
def test_forks_while_threads_wait_and_change_sets_leave_every_child_whole_sets(
    pipe: Pipe, many: list[int], long_profile: bool
) -> None:
    """One thread sleeps in its set, another is given hundreds of results again and again."""
    reading, writing = pipe
    quick = 40 if PYPY else 100
    ready = [(fd, pypoll.POLLOUT) for fd in many]
    coming_and_going = [os.dup(writing) for _ in range(80)]
    busy, quiet = set_of(dict(ready)), set_of({reading: pypoll.POLLIN})
    sets: list[Any] = [(busy, many, ready), (quiet, [reading], [])]
    done = threading.Event()

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

    jobs: list[tuple[Any, ...]] = [(quiet.poll,), (wait,)]
    jobs += [(change, coming_and_going[:40]), (change, coming_and_going[40:])]
    threads = [Thread(*job) for job in jobs]
    try:
        for _ in range(1000 if long_profile else quick):
            assert succeeds(in_child(child))
            assert all(thread.is_alive() for thread in threads)
    finally:
        done.set()
        os.write(writing, b"x")
    assert [thread.join() for thread in threads] == [[(reading, pypoll.POLLIN)], None, None, None]
    assert [list(p) for p, _, _ in sets] == [fds for _, fds, _ in sets]
    for fd in coming_and_going:
        os.close(fd)


def test_a_fork_after_a_second_import_works(tmp_path: Path) -> None:
    assert ran("reloaded", tmp_path) == (0, "", "")
