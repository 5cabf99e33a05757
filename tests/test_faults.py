"""Faults from the kernel: injected by strace, and by a lowered limit of descriptors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux", reason="strace, and a limit that poll() looks at, are Linux's"
    ),
    pytest.mark.native,
]

WAITS = """
import errno, faulthandler, os, resource, signal, sys, time, traceback
import pypoll
from pypoll.library import lib

NAMES = "poll", "ppoll", "poll_fd", "select"
MASK = [] if lib.pypoll_has_ppoll() else None


class Wait:
    # A way to wait for five pipes. All but the second are readable.
    def __init__(self, name, readable=True):
        pipes = [os.pipe() for _ in range(5)]
        self.fds = [reading for reading, _ in pipes]
        self.first, self.other = [writing for _, writing in pipes[:2]]
        for _, writing in pipes[:1] + pipes[2:]:
            if readable:
                os.write(writing, b"x")
        self.ready = [(fd, pypoll.POLLIN) for fd in self.fds if readable and fd != self.fds[1]]
        selector = pypoll.PollSelector()
        self.p = selector._selector
        for fd in self.fds:
            selector.register(fd, pypoll.EVENT_READ)
            self.p.register(fd, pypoll.POLLIN)  # on PyPy the next select() would do that
        self.wait = {
            "poll": self.p.poll,
            "ppoll": lambda timeout: self.p.ppoll(timeout, MASK),
            "poll_fd": self.poll_fd,
            "select": lambda timeout: [
                (key.fd, pypoll.POLLIN)
                for key, _ in selector.select(timeout and timeout / 1000)
            ],
        }[name]
        if name == "poll_fd":
            self.ready = self.ready[:1]

    def poll_fd(self, timeout):
        event = pypoll.poll_fd(self.fds[0], pypoll.POLLIN, timeout)
        return [(self.fds[0], event)] if event else []

    def check_nothing_lost(self):
        assert list(self.p) == self.fds
        assert [self.p[fd] for fd in self.fds] == [pypoll.POLLIN] * len(self.fds)

    def check_refused(self, timeout, number):
        try:
            answer = self.wait(timeout)
        except OSError as error:
            assert error.args == (number, os.strerror(number)), error.args
        else:
            raise AssertionError(f"it was not refused but returned {answer}")
        self.check_nothing_lost()

    def check_works(self):
        self.check_nothing_lost()
        assert self.wait(0) == self.ready
        ready = self.p.poll(0)
        self.p.unregister(self.fds[0])
        self.p.modify(self.fds[-1], 0)
        self.p.register(self.other, pypoll.POLLOUT)
        assert list(self.p) == [*self.fds[1:], self.other]
        assert self.p.poll(0) == [*ready[1:-1], (self.other, pypoll.POLLOUT)]
"""

INJECTED = """
error = getattr(errno, sys.argv[1])
faults = {"1": 1, "1..3": 3, "1+": None}[sys.argv[2]]


class Stop(Exception):
    pass


def go_on(*_):
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.001)


def stop(*_):
    raise Stop


def check_handlers_run(wait):
    signal.signal(signal.SIGALRM, go_on)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        answer = wait.wait(None)
    except Stop:
        pass
    else:
        raise AssertionError(f"it returned {answer}")


def check_goes_on(wait, timeout):
    begun = time.monotonic_ns()
    answer = wait.wait(timeout)
    took = time.monotonic_ns() - begun
    # With no time left there is no other look, but after one EAGAIN there is.
    looked = timeout != 0 or error == errno.EAGAIN and faults == 1
    assert answer == (wait.ready if looked and faults else []), answer
    assert answer or took >= timeout * 1e6, took


def check(name, timeout, readable):
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
                try:
                    call(0)
                except OSError:
                    pass
        wait.check_works()
    elif transient:
        assert wait.wait(0) == []


transient = error in (errno.EINTR, errno.EAGAIN)
# Whole milliseconds are for poll(), others for ppoll().
cases = [(timeout, True) for timeout in (0, None, *((60_000, 60_000.5) if faults else (5, 5.5)))]
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
"""

LIMIT = """
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)


def allow(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
"""

TOO_MANY = """
for name in NAMES:
    wait = Wait(name)
    allow(0 if name == "poll_fd" else 4)
    for timeout in 0, None, 60_000:
        wait.check_refused(timeout, errno.EINVAL)
    allow(soft)
    assert wait.wait(None) == wait.ready
    wait.check_works()
"""

# There is no other thread, which could take the signal; and one that comes too early to interrupt
# the wait is followed by another.
DURING_A_WAIT = """
def handle(handler, interval=0.005):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)


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

        def add(*_):
            assert wait.p.poll(0) == []
            wait.p.register(wait.other, 0)
            allow(5)
            handle(signal.SIG_IGN, 0)

        handle(add)
        try:
            answer = wait.wait(timeout)
        except OSError as error:
            assert error.errno == errno.EINVAL
        else:
            raise AssertionError(f"it was not refused but returned {answer}")
        allow(soft)
        assert wait.p.poll(0) == []
        assert list(wait.p) == [*wait.fds, wait.other]

        def write(*_):
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
"""


def check(program: str, *arguments: str, directory: Path, under: Sequence[str] = ()) -> None:
    """Run a program, which ends with an error if what it looks at is not as it must be."""
    ran = subprocess.run(
        [*under, sys.executable, "-c", program, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("error", "when"),
    [
        *[
            (error, when)
            for error in ("EINTR", "EAGAIN", "ENOMEM", "EINVAL")
            for when in ("1", "1..3", "1+")
        ],
        ("EPERM", "1"),
    ],
)
def test_a_failed_system_call_is_tried_again_or_raised_and_loses_nothing(
    strace: list[str], system_calls: str, error: str, when: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    inject = f"inject={system_calls}:error={error}:when={when}"
    under = [*strace, "-e", inject, "-o", str(trace)]
    check(WAITS + INJECTED, error, when, under=under, directory=tmp_path)
    assert f"{error} " in trace.read_text()


@pytest.mark.parametrize("program", [TOO_MANY, DURING_A_WAIT], ids=["too many", "during a wait"])
def test_the_limit_of_descriptors_counts_those_of_the_set_and_refuses_without_loss(
    program: str, tmp_path: Path
) -> None:
    check(WAITS + LIMIT + program, directory=tmp_path)
