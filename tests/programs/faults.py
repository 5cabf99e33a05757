"""Waits whose system call fails with the error in argv.

argv[2] tells how often strace lets it fail, or is "limit" for a lowered limit of descriptors.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any, Callable

from pypoll import EVENT_READ, POLLIN, Poll, PollSelector, poll_fd
from pypoll.library import lib

NAMES = "poll", "ppoll", "poll_fd", "select"
MASK: list[int] | None = [] if lib.pypoll_has_ppoll() else None
ERROR = getattr(errno, sys.argv[1])
FAULTS = {"1": 1, "1..3": 3, "1+": None, "limit": 1}[sys.argv[2]]
TRANSIENT = ERROR in (errno.EINTR, errno.EAGAIN)


class StopWaitError(Exception):
    """Raised by a signal handler to end a wait."""


class Wait:
    """A way to wait for three pipes. All are readable, or none."""

    def __init__(self, name: str, readable: bool) -> None:
        pipes = [os.pipe() for _ in range(3)]
        self.fds = [reading for reading, _ in pipes]
        selector = PollSelector()
        # The selector's set must not lose a descriptor either. On PyPy the first wait fills it.
        self.p = selector._selector if name == "select" else Poll()
        for reading, writing in pipes:
            selector.register(reading, EVENT_READ)
            self.p.register(reading, POLLIN)
            if readable:
                os.write(writing, b"x")
        # EVENT_READ is the same number as POLLIN.
        self.ready = [(fd, POLLIN) for fd in self.fds if readable]
        if name == "poll_fd":
            del self.ready[1:]
        ways: dict[str, Callable[[Any], list[tuple[int, int]]]] = {
            "poll": self.p.poll,
            "ppoll": lambda timeout: self.p.ppoll(timeout, MASK),
            "poll_fd": self.poll_fd,
            "select": lambda timeout: [
                (key.fd, events) for key, events in selector.select(timeout and timeout / 1000)
            ],
        }
        self.wait = ways[name]

    def poll_fd(self, timeout: float | None) -> list[tuple[int, int]]:
        event = poll_fd(self.fds[0], POLLIN, timeout)
        return [(self.fds[0], event)] if event else []

    def check_refused(self, timeout: float | None) -> None:
        try:
            answer: object = self.wait(timeout)
        except OSError as error:
            answer = error.args
        assert answer == (ERROR, os.strerror(ERROR)), answer

    def check_transient(self, timeout: float | None) -> None:
        begun = time.monotonic_ns()
        answer = self.wait(timeout)
        took = time.monotonic_ns() - begun
        # With no time left there is no other system call, except after one EAGAIN.
        retried = timeout != 0 or (ERROR == errno.EAGAIN and FAULTS == 1)
        assert answer == (self.ready if retried and FAULTS else []), answer
        assert answer or took >= (timeout or 0) * 1e6, took

    def check_works(self) -> None:
        assert [(fd, self.p[fd]) for fd in self.p] == [(fd, POLLIN) for fd in self.fds]
        assert self.wait(0) == self.ready


def stop(*_: object) -> None:
    raise StopWaitError


def check(name: str, timeout: float | None, readable: bool) -> None:
    wait = Wait(name, readable)
    if not TRANSIENT:
        for _ in range(FAULTS or 1):
            wait.check_refused(timeout)
    elif FAULTS or timeout is not None:
        wait.check_transient(timeout)
    else:
        # It fails all the time and has no limit, so only a handler can end it.
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        with suppress(StopWaitError):
            raise AssertionError(f"the wait returned {wait.wait(timeout)}")
    if FAULTS:
        # strace counts poll() and ppoll() separately. The rest of the faults happens here.
        for _ in range(FAULTS):
            for call in Poll().poll, lambda timeout: Poll().ppoll(timeout, MASK):
                with suppress(OSError):
                    call(0)
        wait.check_works()


def injected() -> None:
    # Whole milliseconds use poll(), others ppoll().
    times = (60_000, 60_000.5) if FAULTS else (5, 5.5)
    cases = [(timeout, True) for timeout in (0, None, *times)]
    if TRANSIENT and FAULTS:
        cases.append((5.5, False))
    for name in NAMES:
        for timeout, readable in cases:
            # strace counts the calls of each process separately.
            child = os.fork()
            if child == 0:
                faulthandler.dump_traceback_later(60, exit=True)
                try:
                    check(name, timeout, readable)
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(1)
                os._exit(0)
            if os.waitpid(child, 0)[1] != 0:
                sys.exit(f"{name}({timeout}), {readable=}")


def limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def forbid(*_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))

    for name in NAMES:
        for timeout in None, 60_000:
            wait = Wait(name, readable=False)
            signal.signal(signal.SIGALRM, forbid)
            # If a signal comes before the wait begins, the next one interrupts it.
            signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
            wait.check_refused(timeout)
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            wait.check_works()


limit() if sys.argv[2] == "limit" else injected()
