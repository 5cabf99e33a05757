"""What other threads may do while one waits, and what becomes of a wait that is cut off."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Callable

import pytest

import pypoll
from pypoll.library import lib

Pipe = tuple[int, int]
PATIENCE = 30.0
UntilWaiting = Callable[[pypoll.Poll], None]


@pytest.fixture
def other() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


class Waiter(threading.Thread):
    """Polls in a thread of its own, and keeps what came of it."""

    def __init__(self, wait: Callable[[], list[tuple[int, int]]]) -> None:
        super().__init__(daemon=True)
        self._wait = wait
        self.result: list[tuple[int, int]] | None = None
        self.start()

    def run(self) -> None:
        # until_waiting() polls too, and may be there first.
        while self.result is None:
            with contextlib.suppress(RuntimeError):
                self.result = self._wait()

    def join_result(self) -> list[tuple[int, int]] | None:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.result


def test_a_second_poll_from_a_thread_is_refused_and_the_first_undisturbed(
    pipe: Pipe, until_waiting: UntilWaiting
) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    first = Waiter(p.poll)
    until_waiting(p)
    for timeout in (None, 0, 1.5):
        for wait in (p.poll, p.ppoll):
            with pytest.raises(RuntimeError, match=r"^concurrent poll\(\) invocation$"):
                wait(timeout)
    if lib.pypoll_has_ppoll():
        with pytest.raises(RuntimeError, match=r"^concurrent poll\(\) invocation$"):
            p.ppoll(0, [])
    assert first.is_alive()
    os.write(writing, b"x")
    assert first.join_result() == [(reading, pypoll.POLLIN)]
    assert p.poll(0) == [(reading, pypoll.POLLIN)]


def test_the_timeout_is_checked_before_concurrency(pipe: Pipe, until_waiting: UntilWaiting) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    first = Waiter(p.poll)
    until_waiting(p)
    bad: Any = "x"
    with pytest.raises(TypeError):
        p.poll(bad)
    with pytest.raises(ValueError, match="nan"):
        p.poll(float("nan"))
    with pytest.raises(RuntimeError):
        p.poll(0)
    os.write(writing, b"x")
    assert first.join_result() == [(reading, pypoll.POLLIN)]


def test_changes_during_a_wait_never_block_and_count_from_the_next(
    pipe: Pipe, other: Pipe, until_waiting: UntilWaiting
) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    first = Waiter(p.poll)
    until_waiting(p)
    p.register(other[1], pypoll.POLLOUT)  # ready at once, but not for the wait that is on
    p.modify(reading, 0)
    assert list(p) == [reading, other[1]]
    assert (p[reading], p[other[1]]) == (0, pypoll.POLLOUT)
    p.unregister(reading)
    assert list(p) == [other[1]]
    time.sleep(0.05)
    assert first.is_alive()
    os.write(writing, b"x")
    assert first.join_result() == [(reading, pypoll.POLLIN)]
    assert p.poll(0) == [(other[1], pypoll.POLLOUT)]
    p.register(reading, pypoll.POLLIN)
    assert p.poll(0) == [(other[1], pypoll.POLLOUT), (reading, pypoll.POLLIN)]


def test_a_set_may_grow_and_shrink_a_hundredfold_during_a_wait(
    pipe: Pipe, until_waiting: UntilWaiting
) -> None:
    reading, writing = pipe
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    first = Waiter(p.poll)
    until_waiting(p)
    for fd in range(100_000, 101_000):
        p.register(fd, pypoll.POLLIN)
    for fd in range(100_000, 101_000, 2):
        p.unregister(fd)
    os.write(writing, b"x")
    assert first.join_result() == [(reading, pypoll.POLLIN)]
    odd = list(range(100_001, 101_000, 2))
    assert list(p) == [reading, *odd]
    for fd in odd:
        p.unregister(fd)
    assert p.poll(0) == [(reading, pypoll.POLLIN)]


def test_other_threads_run_while_one_waits(until_waiting: UntilWaiting) -> None:
    p = pypoll.Poll()
    first = Waiter(lambda: p.poll(200))
    until_waiting(p)
    assert first.is_alive()
    assert first.join_result() == []


def test_many_threads_change_while_one_polls_and_no_event_is_lost_or_wrong() -> None:
    """Each changer's socket is sent a byte; the poller must report that very socket."""
    p = pypoll.Poll()
    rounds, changers = 150, 4
    waiting: dict[int, threading.Event] = {}
    failures: list[str] = []
    done = threading.Event()

    def change() -> None:
        for number in range(rounds):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                seen = waiting[ours.fileno()] = threading.Event()
                p.register(ours, 0)
                p.modify(ours, pypoll.POLLIN)
                theirs.send(b"x")
                if not seen.wait(PATIENCE):
                    failures.append(f"round {number}: no event for {ours.fileno()}")
                    return
                p.unregister(ours)
                del waiting[ours.fileno()]

    def poll() -> None:
        while not done.is_set():
            for fd, event in p.poll(1):
                seen = waiting.get(fd)
                if event & pypoll.POLLIN and seen is not None:
                    seen.set()

    poller = threading.Thread(target=poll)
    threads = [threading.Thread(target=change) for _ in range(changers)]
    for thread in (poller, *threads):
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    done.set()
    poller.join(PATIENCE)
    assert failures == []
    assert len(p) == 0


def test_many_threads_on_one_descriptor_leave_one_of_their_masks(pipe: Pipe) -> None:
    p = pypoll.Poll()
    masks = (pypoll.POLLIN, pypoll.POLLOUT, 0)

    def change(mask: int) -> None:
        for _ in range(2000):
            p.register(pipe[0], mask)

    threads = [threading.Thread(target=change, args=(mask,)) for mask in masks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert list(p) == [pipe[0]]
    assert p[pipe[0]] in masks


class Interrupt(BaseException):
    """Raised by a trace function, as an asynchronous exception would be."""


def raising_at(instruction: int, method: str) -> Callable[..., Any]:
    """Return a trace function that raises at this instruction of pypoll's code."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != pypoll.Poll.poll.__code__.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == instruction:
                raise Interrupt(f"{method}, instruction {instruction}")
        return trace

    return trace


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy has no trace events for single instructions"
)
@pytest.mark.parametrize("method", ["register", "modify", "unregister", "poll", "ppoll"])
@pytest.mark.parametrize("ready", [0, 1, 200])
def test_an_exception_at_any_instruction_leaves_the_object_usable(method: str, ready: int) -> None:
    pipes = [os.pipe() for _ in range(max(1, ready))]
    calls: dict[str, Callable[[pypoll.Poll], object]] = {
        "register": lambda p: p.register(pipes[0][1], pypoll.POLLOUT),
        "modify": lambda p: p.modify(pipes[0][0], 0),
        "unregister": lambda p: p.unregister(pipes[0][0]),
        "poll": lambda p: p.poll(0.01),
        "ppoll": lambda p: p.ppoll(0, [] if lib.pypoll_has_ppoll() else None),
    }
    fds = [reading for reading, _ in pipes]
    allowed = {
        "register": [fds, [*fds, pipes[0][1]]],
        "unregister": [fds, fds[1:]],
    }.get(method, [fds])
    for _, writing in pipes[:ready]:
        os.write(writing, b"x")
    # Coverage traces too; it goes on afterwards.
    tracing_before = sys.gettrace()
    # CPython 3.12 traces instructions only once somebody has asked for that.
    sys.settrace(raising_at(0, method))
    len(pypoll.Poll())
    sys.settrace(tracing_before)
    instruction = 0
    try:
        while True:
            instruction += 1
            p = pypoll.Poll()
            for fd in fds:
                p.register(fd, pypoll.POLLIN)
            sys.settrace(raising_at(instruction, method))
            try:
                calls[method](p)
            except Interrupt:
                pass
            else:
                break
            finally:
                sys.settrace(tracing_before)
            assert list(p) in allowed
            expected = [(fd, pypoll.POLLIN) for fd in p if fd in fds[:ready] and p[fd]]
            assert [pair for pair in p.poll(0) if pair[0] != pipes[0][1]] == expected
    finally:
        for reading, writing in pipes:
            os.close(reading)
            os.close(writing)
    assert instruction > 5


def test_a_wait_that_died_with_its_thread_leaves_the_object_usable() -> None:
    """The results of 200 descriptors hold the set; the thread ends while they are read."""
    pipes = [os.pipe() for _ in range(200)]
    p = pypoll.Poll()
    for reading, writing in pipes:
        p.register(reading, pypoll.POLLIN)
        os.write(writing, b"x")

    thread = threading.Thread(target=lib.pypoll_check, args=(p._set,))
    thread.start()
    thread.join(PATIENCE)
    assert lib.pypoll_hold(p._set)
    assert p.poll(0) == [(reading, pypoll.POLLIN) for reading, _ in pipes]
    for reading, writing in pipes:
        os.close(reading)
        os.close(writing)


def test_what_the_shim_owes_one_thread_no_other_can_take() -> None:
    pipes = [os.pipe() for _ in range(2)]
    p = pypoll.Poll()
    for reading, writing in pipes:
        p.register(reading, pypoll.POLLIN)
        os.write(writing, b"x")
    thread = threading.Thread(target=lib.pypoll_check, args=(p._set,))
    thread.start()
    thread.join(PATIENCE)
    hold = lib.pypoll_hold(p._set)
    assert lib.pypoll_gather(p._set) == 0
    assert lib.pypoll_resume(p._set) < 0
    lib.pypoll_release(p._set, hold + 1)
    assert lib.pypoll_hold(p._set) == hold
    lib.pypoll_release(p._set, hold)
    assert lib.pypoll_hold(p._set) == 0
    for reading, writing in pipes:
        os.close(reading)
        os.close(writing)
