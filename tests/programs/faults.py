"""Waits whose system call fails, by strace or by a limit of descriptors: argv names the case."""

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

import pypoll
from pypoll.library import lib

Results = list[tuple[int, int]]

NAMES = "poll", "ppoll", "poll_fd", "select"
MASK: list[int] | None = [] if lib.pypoll_has_ppoll() else None


def refusal(wait: Callable[[Any], Results], timeout: float | None) -> tuple[Any, ...]:
    try:
        answer = wait(timeout)
    except OSError as error:
        return error.args
    raise AssertionError(f"it was not refused but returned {answer}")


class Wait:
    """A way to wait for five pipes. All but the second are readable."""

    def __init__(self, name: str, readable: bool = True) -> None:
        pipes = [os.pipe() for _ in range(5)]
        self.fds = [reading for reading, _ in pipes]
        self.first, self.other = [writing for _, writing in pipes[:2]]
        for _, writing in pipes[:1] + pipes[2:]:
            if readable:
                os.write(writing, b"x")
        self.ready = [(fd, pypoll.POLLIN) for fd in self.fds if readable and fd != self.fds[1]]
        selector = pypoll.PollSelector()
        # On PyPy a selector fills its set at the first wait.
        self.p = selector._selector if name == "select" else pypoll.Poll()
        for fd in self.fds:
            selector.register(fd, pypoll.EVENT_READ)
            self.p.register(fd, pypoll.POLLIN)
        waits: dict[str, Callable[[Any], Results]] = {
            "poll": self.p.poll,
            "ppoll": lambda timeout: self.p.ppoll(timeout, MASK),
            "poll_fd": self.poll_fd,
            "select": lambda timeout: [
                (key.fd, pypoll.POLLIN) for key, _ in selector.select(timeout and timeout / 1000)
            ],
        }
        self.wait = waits[name]
        if name == "poll_fd":
            self.ready = self.ready[:1]

    def poll_fd(self, timeout: float | None) -> Results:
        event = pypoll.poll_fd(self.fds[0], pypoll.POLLIN, timeout)
        return [(self.fds[0], event)] if event else []

    def check_nothing_lost(self) -> None:
        assert list(self.p) == self.fds
        assert [self.p[fd] for fd in self.fds] == [pypoll.POLLIN] * len(self.fds)

    def check_refused(self, timeout: float | None, number: int) -> None:
        assert refusal(self.wait, timeout) == (number, os.strerror(number))
        self.check_nothing_lost()

    def check_works(self) -> None:
        self.check_nothing_lost()
        assert self.wait(0) == self.ready
        ready = self.p.poll(0)
        self.p.unregister(self.fds[0])
        self.p.modify(self.fds[-1], 0)
        self.p.register(self.other, pypoll.POLLOUT)
        assert list(self.p) == [*self.fds[1:], self.other]
        assert self.p.poll(0) == [*ready[1:-1], (self.other, pypoll.POLLOUT)]


case, *rest = sys.argv[1:]
error, faults = 0, None
if case == "injected":
    error = getattr(errno, rest[0])
    faults = {"1": 1, "1..3": 3, "1+": None}[rest[1]]
transient = error in (errno.EINTR, errno.EAGAIN)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)


class StopWaitError(Exception):
    """Ends a wait that has continued."""


def go_on(*_: object) -> None:
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.001)


def stop(*_: object) -> None:
    raise StopWaitError


def check_handlers_run(wait: Wait) -> None:
    signal.signal(signal.SIGALRM, go_on)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        answer = wait.wait(None)
    except StopWaitError:
        pass
    else:
        raise AssertionError(f"it returned {answer}")


def check_goes_on(wait: Wait, timeout: float | None) -> None:
    begun = time.monotonic_ns()
    answer = wait.wait(timeout)
    took = time.monotonic_ns() - begun
    # With no time left there is no other look, but after one EAGAIN there is.
    looked = timeout != 0 or (error == errno.EAGAIN and faults == 1)
    assert answer == (wait.ready if looked and faults else []), answer
    assert answer or took >= (timeout or 0) * 1e6, took


def check(name: str, timeout: float | None, readable: bool) -> None:
    wait = Wait(name, readable)
    if not transient:
        for _ in range(faults or 4):
            wait.check_refused(timeout, error)
        if faults:
            assert wait.wait(timeout) == wait.ready
    elif faults or timeout is not None:
        check_goes_on(wait, timeout)
    else:
        check_handlers_run(wait)
    wait.check_nothing_lost()
    if faults:
        # The two system calls are counted each for itself.
        for _ in range(faults):
            for call in pypoll.Poll().poll, lambda timeout: pypoll.Poll().ppoll(timeout, MASK):
                with suppress(OSError):
                    call(0)
        wait.check_works()
    elif transient:
        assert wait.wait(0) == []


def injected() -> None:
    # Whole milliseconds are for poll(), others for ppoll().
    cases = [
        (timeout, True) for timeout in (0, None, *((60_000, 60_000.5) if faults else (5, 5.5)))
    ]
    if transient and faults:
        cases.append((5.5, False))
    for name in NAMES:
        for timeout, readable in cases:
            # strace counts the calls of each process for itself.
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


def allow(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def too_many() -> None:
    for name in NAMES:
        wait = Wait(name)
        allow(0 if name == "poll_fd" else 4)
        for timeout in 0, None, 60_000:
            wait.check_refused(timeout, errno.EINVAL)
        allow(soft)
        assert wait.wait(None) == wait.ready
        wait.check_works()


# There is no other thread, which could take the signal; and one that comes too early to interrupt
# the wait is followed by another.
def handle(handler: Any, interval: float = 0.005) -> None:
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)


def during_a_wait() -> None:
    for name in NAMES:
        for timeout in None, 60_000:
            wait = Wait(name, readable=False)
            handle(lambda *_: allow(0))
            wait.check_refused(timeout, errno.EINVAL)
            handle(signal.SIG_IGN, 0)
            allow(soft)
            wait.check_works()
            if name == "poll_fd":
                continue

            # What a handler changes, the wait that it interrupted sees when it goes on.
            wait = Wait(name, readable=False)

            def add(*_: object, wait: Wait = wait) -> None:
                assert wait.p.poll(0) == []
                wait.p.register(wait.other, 0)
                allow(5)
                handle(signal.SIG_IGN, 0)

            handle(add)
            assert refusal(wait.wait, timeout)[0] == errno.EINVAL
            allow(soft)
            assert wait.p.poll(0) == []
            assert list(wait.p) == [*wait.fds, wait.other]

            def write(*_: object, wait: Wait = wait) -> None:
                assert wait.p.poll(0) == []
                wait.p.unregister(wait.fds[1])
                wait.p.unregister(wait.other)
                allow(4)
                os.write(wait.first, b"x")
                handle(signal.SIG_IGN, 0)

            handle(write)
            assert wait.wait(timeout) == [(wait.fds[0], pypoll.POLLIN)]
            allow(soft)
            assert list(wait.p) == [wait.fds[0], *wait.fds[2:]]


globals()[case]()
