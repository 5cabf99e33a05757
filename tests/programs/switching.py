"""Switches between greenlets of one thread during a wait; argv names the case."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Callable

from greenlet import greenlet

import pypoll

Handler = Callable[[int, Any], object]

reading, writing = os.pipe()
p = pypoll.Poll()
p.register(reading, pypoll.POLLIN)
ready = [(reading, pypoll.POLLIN)]
waiter: Any = None

many = pypoll.Poll()
ends = [os.pipe() for _ in range(20)]
for end, other_end in ends:
    many.register(end, pypoll.POLLIN)
    os.write(other_end, b"x")
every = [(end, pypoll.POLLIN) for end, _ in ends]
half = every[1::2]


def milliseconds_of_a_wait(handler: Handler) -> float:
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    begun = time.monotonic_ns()
    assert p.poll(100) == []
    return (time.monotonic_ns() - begun) / 1e6


def to_parent(*_: object) -> None:
    waiter.parent.switch()


def a_greenlet_waits_in_the_same_set() -> None:
    global waiter
    timeout = int(sys.argv[2])
    answers: list[Any] = []

    def handler(*_: object) -> None:
        greenlet(lambda: answers.append(p.poll(timeout))).switch()

    assert milliseconds_of_a_wait(handler) >= max(100, timeout)
    assert answers == [[]]
    # The other way round: the greenlet waits, and the handler switches to its parent and back.
    waiter = greenlet(milliseconds_of_a_wait)
    waiter.switch(to_parent)
    assert p.poll(timeout) == []
    assert waiter.switch() >= max(100, timeout)


def check_usable() -> None:
    assert p.poll(0) == p.poll(1) == []
    os.write(writing, b"x")
    answers = [p.poll()]
    other = threading.Thread(target=lambda: answers.append(p.poll()))
    other.start()
    other.join()
    assert answers == [ready] * 2
    os.read(reading, 1)


def nobody_returns_to_an_interrupted_wait() -> None:
    global waiter
    waiter = greenlet(milliseconds_of_a_wait)
    waiter.switch(to_parent)
    assert not waiter.dead
    check_usable()
    # Its end raises GreenletExit in the interrupted wait.
    waiter = None
    gc.collect()
    check_usable()


def half_ready() -> None:
    for end, _ in ends[::2]:
        os.read(end, 1)
    try:
        assert many.poll(0) == half
    finally:
        for _, end in ends[::2]:
            os.write(end, b"x")


def a_greenlet_polls_between_two_lines_of_a_wait() -> None:
    line = stop_at = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal line
        if not frame.f_globals["__name__"].startswith("pypoll."):
            return None
        if event == "line":
            line += 1
            if line == stop_at:
                greenlet(half_ready).switch()
        return trace

    before = sys.gettrace()
    for timeout in 0, 1, None:
        line = stop_at = 0
        while line >= stop_at:
            line, stop_at = 0, stop_at + 1
            sys.settrace(trace)
            try:
                found = many.poll(timeout)
            finally:
                sys.settrace(before)
            assert found in (every, half), found
        assert stop_at > 3


globals()[sys.argv[1]]()
