"""One thread at a time waits in a set, and all others may change it at any time.

The threads are of `_thread`, and `threading` does not know them: nothing may need that.
"""

from __future__ import annotations

import _thread
import bisect
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from array import array
from collections.abc import Iterator
from typing import Any, Callable

import pytest

import pypoll
from descriptors import Descriptors
from support import (
    HAS_PPOLL,
    PATIENCE,
    Pipe,
    Thread,
    contents,
    handling,
    set_of,
    switching_often,
    waiting_thread,
)


@pytest.fixture
def p(pipe: Pipe) -> pypoll.Poll:
    return set_of({pipe.reading: pypoll.POLLIN})


def test_a_second_wait_is_refused_and_the_first_undisturbed(p: pypoll.Poll, pipe: Pipe) -> None:
    first = waiting_thread(p)
    for timeout in (None, 0, 1.5):
        for wait in (p.poll, p.ppoll):
            with pytest.raises(RuntimeError, match=r"^concurrent poll\(\) invocation$"):
                wait(timeout)
    if HAS_PPOLL:
        with pytest.raises(RuntimeError, match=r"^concurrent poll\(\) invocation$"):
            p.ppoll(0, [])
    assert first.is_alive()
    os.write(pipe.writing, b"x")
    assert first.join() == p.poll(0) == [(pipe.reading, pypoll.POLLIN)]


def test_changes_never_block_behind_a_wait_and_take_effect_at_the_next(
    p: pypoll.Poll, pipe: Pipe, descriptors: Descriptors
) -> None:
    writing = descriptors.pipe().writing
    first = waiting_thread(p)
    p.register(writing, pypoll.POLLOUT)  # ready at once, but not for the wait that is on
    p.modify(pipe.reading, 0)
    assert contents(p) == {pipe.reading: 0, writing: pypoll.POLLOUT}
    p.unregister(pipe.reading)
    # The set grows and shrinks a hundredfold.
    for fd in range(100_000, 101_000):
        p.register(fd, pypoll.POLLIN)
    for fd in range(100_000, 101_000):
        p.unregister(fd)
    assert list(p) == [writing]
    time.sleep(0.05)
    assert first.is_alive()
    os.write(pipe.writing, b"x")
    assert first.join() == [(pipe.reading, pypoll.POLLIN)]
    assert p.poll(0) == [(writing, pypoll.POLLOUT)]
    p.register(pipe.reading, pypoll.POLLIN)
    assert p.poll(0) == [(writing, pypoll.POLLOUT), (pipe.reading, pypoll.POLLIN)]


class Watched:
    """An end of a pipe: what is registered for it, and how many bytes went through.

    Each count is of one thread alone, and kept twice: of what began and of what ended. So others
    can tell what is certain of the time of their wait, and what is possible.
    """

    def __init__(self, fd: int, event: int, writing: int) -> None:
        self.fd = fd
        self.event = event
        self.writing = writing
        self.mask: int | None = None
        self.changes_begun = self.changes_ended = 0
        self.writes_begun = self.writes_ended = 0
        self.reads_begun = self.reads_ended = 0

    def change(self, method: Callable[..., None], mask: int | None) -> None:
        """Call register, modify or unregister, the mask being what it leads to."""
        self.changes_begun += 1
        method(self.fd) if mask is None else method(self.fd, mask)
        self.mask = mask
        self.changes_ended += 1

    def write(self) -> None:
        self.writes_begun += 1
        os.write(self.writing, bytes([self.writes_ended & 0xFF]))
        self.writes_ended += 1

    def read(self) -> None:
        """Take the byte that a wait has reported, which must be the next one."""
        self.reads_begun += 1
        assert os.read(self.fd, 1) == bytes([self.reads_ended & 0xFF])
        self.reads_ended += 1

    def close(self) -> None:
        self.changes_begun += 1
        os.close(self.fd)
        os.close(self.writing)


class Load:
    """Threads that change a set at once, and threads that wait in it at once, all of them checked.

    Each thread that changes has places of its own, and in them descriptors that it closes and
    opens anew: what one closes, another opens under the same number. One of those that wait takes
    a byte for each event it is given. A flood of results comes now and then.
    """

    CHANGING = 3
    PLACES = 6
    WAITING = 3
    FLOOD = 300

    def __init__(self, turn: contextlib.AbstractContextManager[Any]) -> None:
        self.p = pypoll.Poll()
        self.turn = turn
        self.stopping, self.done = threading.Event(), threading.Event()
        self.failures: list[BaseException] = []
        self.ended: list[object] = []
        self.places = [self.opened() for _ in range(self.CHANGING * self.PLACES)]
        self.flood = []
        for _ in range(self.FLOOD):
            reading, writing = os.pipe()
            self.flood.append(Watched(writing, pypoll.POLLOUT, reading))
            self.flood[-1].writes_begun = self.flood[-1].writes_ended = 1
            self.flood[-1].change(self.p.register, 0)
        # Rung often, so that whoever waits without limit sees what changed since.
        self.bell = self.opened()
        self.bell.change(self.p.register, pypoll.POLLIN)
        # Whatever is reported must be one of these: the numbers that were ever registered.
        self.by_number = {watched.fd: watched for watched in self.watched()}
        # When waits began and ended, by the ticks of one clock: of each thread those that
        # returned and those that were refused.
        self.ticks = itertools.count()
        self.waits = [(array("q"), array("q")) for _ in range(self.WAITING)]
        self.refusals = [(array("q"), array("q")) for _ in range(self.WAITING)]

    @staticmethod
    def opened() -> Watched:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        return Watched(reading, pypoll.POLLIN, writing)

    def watched(self) -> list[Watched]:
        return [*self.places, *self.flood, self.bell]

    def run(self, seconds: float, enough: Callable[[], bool]) -> None:
        jobs: list[tuple[Any, ...]] = [(self.change, number) for number in range(self.CHANGING)]
        jobs += [(self.wait, number) for number in range(self.WAITING)]
        jobs += [(self.change_flood,)]
        threads = [Thread(self.guard, *job) for job in jobs]
        self.stopping.wait(seconds)
        deadline = time.monotonic() + PATIENCE
        # A busy machine may take longer.
        while not enough() and time.monotonic() < deadline:
            self.stopping.wait(0.1)
        self.stopping.set()
        changed = [thread.ends(2 * PATIENCE) for thread in threads[: self.CHANGING]]
        self.done.set()
        ended = [thread.ends() for thread in threads[self.CHANGING :]]
        assert self.failures == []
        assert all(changed + ended)
        for watched in self.watched():
            watched.close()

    def guard(self, job: Callable[..., None], *arguments: int) -> None:
        try:
            job(*arguments)
        except BaseException as error:
            self.failures.append(error)
            self.stopping.set()
            self.done.set()
        self.ended.append(job)

    def change_flood(self) -> None:
        while len(self.ended) < self.CHANGING + self.WAITING:
            for mask in (pypoll.POLLOUT, 0):
                if self.bell.writes_ended - self.bell.reads_ended < 50:
                    self.bell.write()
                for watched in self.flood:
                    watched.change(self.p.modify, mask)
                time.sleep(0.003)

    def change(self, number: int) -> None:
        choice = random.Random(number)
        ours = range(number * self.PLACES, (number + 1) * self.PLACES)
        registered: list[int] = []
        while not self.stopping.is_set():
            for _ in range(choice.randint(1, 30)):
                self.change_one(choice.choice(ours), registered, choice)
            numbers = {self.places[place].fd for place in ours}
            assert [fd for fd in self.p if fd in numbers] == registered
            time.sleep(choice.choice([0, 0.0001, 0.001]))
        for place in ours:
            self.places[place].change(self.p.register, pypoll.POLLIN)
        deadline = time.monotonic() + PATIENCE
        for place in ours:
            watched = self.places[place]
            while watched.reads_ended < watched.writes_ended and not self.done.is_set():
                assert time.monotonic() < deadline, "an event did not arrive"
                time.sleep(0.001)

    def change_one(self, place: int, registered: list[int], choice: random.Random) -> None:
        watched, p = self.places[place], self.p
        mask = choice.choice([pypoll.POLLIN, pypoll.POLLIN, 0])
        step = choice.choice(["write", "write", "register", "modify", "unregister", "replace"])
        if step == "write":
            if watched.writes_ended - watched.reads_ended < 50:
                watched.write()
        elif step == "register":
            watched.change(p.register, mask)
            if watched.fd not in registered:
                registered.append(watched.fd)
        elif watched.mask is None:
            with pytest.raises(KeyError):
                p.unregister(watched.fd)
            with pytest.raises(FileNotFoundError):
                p.modify(watched.fd, mask)
        elif step == "modify":
            watched.change(p.modify, mask)
            assert p[watched.fd] == mask
        else:
            watched.change(p.unregister, None)
            registered.remove(watched.fd)
            # Not while the reader may still come for a byte that was reported.
            if step == "replace" and watched.reads_ended == watched.writes_ended:
                watched.close()
                self.places[place] = opened = self.opened()
                self.by_number[opened.fd] = opened

    def wait(self, number: int) -> None:
        choice = random.Random(number)
        p = self.p
        ways: list[Callable[[], list[tuple[int, int]]]] = [
            p.poll,
            lambda: p.poll(0),
            lambda: p.poll(0.2),
            lambda: p.ppoll(1),
        ]
        if HAS_PPOLL:
            ways.append(lambda: p.ppoll(0.5, []))
        while not self.done.is_set():
            with self.turn:
                before = [
                    (watched, watched.changes_ended, watched.writes_ended, watched.reads_ended)
                    for watched in self.watched()
                ]
                begun, (begins, ends) = next(self.ticks), self.waits[number]
                try:
                    found = choice.choice(ways)()
                except RuntimeError:
                    found, (begins, ends) = None, self.refusals[number]
                ends.append(next(self.ticks))
                begins.append(begun)
            if found is not None:
                self.check(before, found)
                if number == 0:
                    self.read(found)
            time.sleep(choice.choice([0, 0.0001, 0.001]))

    def check(
        self, before: list[tuple[Watched, int, int, int]], found: list[tuple[int, int]]
    ) -> None:
        events = dict(found)
        assert len(events) == len(found)
        for watched, changes, writes, reads in before:
            certain = writes > watched.reads_begun
            possible = watched.writes_begun > reads
            mask = watched.mask
            if watched.changes_begun == changes:
                event = watched.event & (mask or 0)
                assert events.get(watched.fd, 0) in (event * certain, event * possible)

    def read(self, found: list[tuple[int, int]]) -> None:
        for fd, event in found:
            if event == pypoll.POLLIN:
                self.by_number[fd].read()

    def overlapped(self, begin: int, end: int, of: int) -> bool:
        """Tell whether another thread than this one was in a wait that returned."""
        for number, (begins, ends) in enumerate(self.waits):
            first = bisect.bisect(ends, begin)
            if number != of and first < len(ends) and begins[first] < end:
                return True
        return False


@pytest.fixture(params=[0.005, 1e-6], ids=["usual switches", "switches at every turn"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    with switching_often(request.param):
        yield


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("apart", [False, True], ids=["waits at once", "waits one by one"])
def test_every_event_arrives_once_and_only_overlapping_waits_are_refused(
    apart: bool, long_profile: bool
) -> None:
    load = Load(threading.Lock() if apart else contextlib.nullcontext())

    def count(ticks: list[tuple[array[int], array[int]]]) -> int:
        return sum(len(ends) for _, ends in ticks)

    def reads() -> int:
        return sum(watched.reads_ended for watched in [*load.by_number.values()])

    def enough() -> bool:
        return reads() > 0 and (apart or count(load.refusals) > 0)

    load.run(60 if long_profile else 0.5, enough)
    for number, (begins, ends) in enumerate(load.refusals):
        for begin, end in zip(begins, ends):
            assert load.overlapped(begin, end, number)
    assert reads()
    assert bool(count(load.refusals)) is not apart


def test_threads_that_fill_a_new_set_at_once_lose_no_descriptor(pipe: Pipe) -> None:
    """A small set has no memory of its own: any of them may be the first that needs some."""
    shares = [[os.dup(pipe[1]) for _ in range(5)] for _ in range(3)]
    sets = [pypoll.Poll() for _ in range(500)]
    go = threading.Barrier(len(shares), timeout=PATIENCE)

    def fill(share: list[int]) -> None:
        go.wait()
        for p in sets:
            for fd in share:
                p.register(fd, pypoll.POLLOUT)

    for thread in [Thread(fill, share) for share in shares]:
        thread.join()
    for p in sets:
        registered = list(p)
        for share in shares:
            assert [fd for fd in registered if fd in share] == share
        assert p.poll(0) == [(fd, pypoll.POLLOUT) for fd in registered]
        assert len(registered) == 15
    for fd in itertools.chain(*shares):
        os.close(fd)


def poll_in_threads_under_signals(
    polls: list[Callable[[], None]], seconds: float
) -> tuple[int, int]:
    """Have each of these done again and again, the first in this thread, the rest in others.

    Meanwhile every thread is sent signals, and each signal is handled for so many seconds.
    Return how many came through, and how many were refused.
    """
    done = threading.Event()
    results = [0] * len(polls)
    refusals: list[str] = []
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        time.sleep(seconds)

    def poll(place: int) -> None:
        try:
            polls[place]()
            results[place] += 1
        except RuntimeError as error:
            refusals.append(str(error))

    def poll_often(place: int) -> None:
        try:
            while not done.is_set():
                poll(place)
        finally:
            done.wait(PATIENCE)  # no signal may be sent to a thread that has ended

    with handling(handler, number=signal.SIGUSR1):
        threads = [Thread(poll_often, place) for place in range(1, len(polls))]
        try:
            for _ in range(60):
                for number in (_thread.get_ident(), *(thread.number for thread in threads)):
                    signal.pthread_kill(number, signal.SIGUSR1)
                poll(0)
        finally:
            done.set()
            ended = [thread.ends() for thread in threads]
    assert all(ended)
    for thread in threads:
        thread.join()
    assert handled
    assert set(refusals) <= {"concurrent poll() invocation"}
    return sum(results), len(refusals)


HANDLING = pytest.mark.parametrize("seconds", [0, 0.003], ids=["short handler", "long handler"])


@HANDLING
@pytest.mark.parametrize("count", [2, 8, 100, 600])
def test_each_thread_that_polls_one_object_gets_a_whole_result_or_is_refused(
    count: int, seconds: float, pipe: Pipe
) -> None:
    """One thread has the first result come and go, and one more at the end, so all others move."""
    fds = [os.dup(pipe[1]) for _ in range(count + 1)]
    *ready, extra = [(fd, pypoll.POLLOUT) for fd in fds]
    results = [ready, ready[1:]]
    results += [[*result, extra] for result in results]
    first = itertools.cycle([False, True])
    p = pypoll.Poll()
    for event in ready:
        p.register(*event)

    def poll() -> None:
        assert p.poll() in results

    def change_and_poll() -> None:
        there = next(first)
        p.modify(fds[0], pypoll.POLLOUT * there)
        for _ in range(10):
            p.register(*extra)
            p.unregister(extra[0])
        assert p.ppoll(0) == results[0 if there else 1]

    counts = poll_in_threads_under_signals([poll, poll, change_and_poll], seconds)
    assert counts[0]
    for fd in fds:
        os.close(fd)


@HANDLING
def test_signals_never_shorten_the_waits_of_threads_in_one_object(
    seconds: float, pipe: Pipe
) -> None:
    """While the handlers run, another thread may begin to wait; the first is refused then."""
    p = set_of({pipe.reading: pypoll.POLLIN})

    def wait() -> None:
        begun = time.monotonic_ns()
        assert p.poll(2) == []
        assert time.monotonic_ns() - begun >= 2_000_000

    counts = poll_in_threads_under_signals([wait, wait, wait], seconds)
    assert counts[0]
