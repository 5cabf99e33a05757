"""After a fork, parent and child each have a complete and usable set, whatever threads do."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

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
    # CPython 3.12 warns about forks of multi-threaded processes, which these tests need.
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def test_a_fork_during_another_threads_wait_leaves_both_usable(pipe: Pipe) -> None:
    """In the child, select.poll's object refuses every wait as concurrent."""
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


def test_a_fork_in_a_signal_handler_lets_both_waits_continue(pipe: Pipe) -> None:
    reading, writing = pipe
    p = set_of({reading: pypoll.POLLIN})
    ready = [(reading, pypoll.POLLIN)]
    child: int | None = None
    answer: list[tuple[int, int]] = []

    def handler(*_: object) -> None:
        nonlocal child
        if child is None:
            assert p.poll(0) == []
            child = os.fork()
            assert p.poll(0) in ([], ready)
            if child:
                os.write(writing, b"x")

    try:
        with handling(handler, 0.02, 0.05):
            answer = p.poll(1000 * PATIENCE)
    finally:
        if child == 0:
            os._exit(answer != ready or p.poll(0) != ready)
    assert answer == ready
    assert child
    assert succeeds(child)


@pytest.mark.asynchronous
def test_forks_while_threads_wait_and_change_sets_leave_complete_sets_in_each_child(
    pipe: Pipe, many: list[int], long_profile: bool
) -> None:
    """One thread sleeps in its set, another always has many results, and a third changes both."""
    reading, writing = pipe
    ready = [(fd, pypoll.POLLOUT) for fd in many[:200]]
    quiet, busy = set_of({reading: pypoll.POLLIN}), set_of(dict(ready))
    done = threading.Event()

    def wait() -> None:
        while not done.is_set():
            assert busy.poll() == ready

    def change() -> None:
        while not done.is_set():
            for p in (busy, quiet):
                for fd in many[200:]:
                    p.register(fd, 0)
                for fd in many[200:]:
                    p.unregister(fd)
            pypoll.Poll().register(0)
            time.sleep(0.0002)

    def child() -> None:
        for p, found in ((quiet, []), (busy, ready)):
            registered = list(p)
            assert len(registered) == len(set(registered)) == len(p)
            assert p.poll(0) == found
            p.register(writing, pypoll.POLLOUT)
            assert p.poll() == [*found, (writing, pypoll.POLLOUT)]
            for fd in list(p):
                p.unregister(fd)
            assert len(p) == 0
        assert pypoll.Poll().poll(0) == []

    threads = [Thread(quiet.poll), Thread(wait), Thread(change)]
    try:
        for _ in range(1000 if long_profile else 40 if PYPY else 100):
            assert succeeds(in_child(child))
            assert all(thread.is_alive() for thread in threads)
    finally:
        done.set()
        os.write(writing, b"x")
    assert [thread.join() for thread in threads] == [[(reading, pypoll.POLLIN)], None, None]
    assert [list(quiet), list(busy)] == [[reading], many[:200]]


def test_a_fork_after_a_second_import_works(tmp_path: Path) -> None:
    assert ran("reloaded", tmp_path) == (0, "", "")
