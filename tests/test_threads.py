"""What other threads may do while one waits, and what becomes of a wait that is cut off."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import random
import sys
import threading
import time
from array import array
from collections.abc import Iterator
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


class Storm:
    """Threads that change a set at once, and threads that wait in it at once, all of them checked.

    Each thread that changes has places of its own, and in them descriptors that it closes and
    opens anew: what one closes, another opens under the same number. One of those that wait takes
    a byte for each event it is given. A flood is ready now and then: more than the shim hands over
    at once, so that waits hold the set after the system call too.
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

    def run(self, seconds: float) -> None:
        jobs: list[tuple[Any, ...]] = [(self.change, number) for number in range(self.CHANGING)]
        jobs += [(self.wait, number) for number in range(self.WAITING)]
        jobs += [(self.change_flood,)]
        threads = [threading.Thread(target=self.guard, args=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        self.stopping.wait(seconds)
        self.stopping.set()
        for thread in threads[: self.CHANGING]:
            thread.join(2 * PATIENCE)
        self.done.set()
        for thread in threads[self.CHANGING :]:
            thread.join(PATIENCE)
        assert self.failures == []
        assert not any(thread.is_alive() for thread in threads)
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
        if lib.pypoll_has_ppoll():
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


@pytest.fixture(params=[None, 1e-6], ids=["usual switches", "switches at every turn"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads of Python take turns as usual, and as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(request.param or before)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("apart", [False, True], ids=["waits at once", "waits one by one"])
def test_in_a_storm_of_threads_every_event_arrives_once_and_only_overlapping_waits_are_refused(
    apart: bool, long_profile: bool, record_property: Callable[[str, object], None]
) -> None:
    storm = Storm(threading.Lock() if apart else contextlib.nullcontext())
    storm.run(60 if long_profile else 0.5)
    for number, (begins, ends) in enumerate(storm.refusals):
        for begin, end in zip(begins, ends):
            assert storm.overlapped(begin, end, number)
    waits, refusals = (sum(len(ends) for _, ends in each) for each in (storm.waits, storm.refusals))
    reads = sum(watched.reads_ended for watched in storm.by_number.values())
    for name, count in (("waits", waits), ("refusals", refusals), ("reads", reads)):
        record_property(name, count)
    assert waits
    assert reads
    assert bool(refusals) is not apart


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


def test_a_wait_that_died_with_its_thread_leaves_the_object_usable() -> None:
    """The results of 300 descriptors hold the set; the thread ends while they are read."""
    pipes = [os.pipe() for _ in range(300)]
    p = pypoll.Poll()
    for reading, writing in pipes:
        p.register(reading, pypoll.POLLIN)
        os.write(writing, b"x")

    thread = threading.Thread(target=lib.pypoll_check, args=(p._pypoll_address,))
    thread.start()
    thread.join(PATIENCE)
    assert lib.pypoll_hold(p._pypoll_set)
    assert p.poll(0) == [(reading, pypoll.POLLIN) for reading, _ in pipes]
    for reading, writing in pipes:
        os.close(reading)
        os.close(writing)


class EqualToAll(pypoll.Poll):
    """Equal to every other object."""

    def __eq__(self, _other: object) -> bool:
        return True

    __hash__ = pypoll.Poll.__hash__


@pytest.mark.skipif(
    sys.implementation.name == "pypy",
    reason="the stack of another thread is not to be seen there, so its hold lasts as it does",
)
def test_a_wait_that_its_thread_has_left_leaves_the_object_usable(
    pipe: Pipe, other: Pipe, until_waiting: UntilWaiting
) -> None:
    """Also if that thread waits in another object meanwhile, which claims to be this one."""
    p, another = EqualToAll(), EqualToAll()
    ready = [(fd, pypoll.POLLOUT) for fd in (pipe[1], other[1])]
    for fd, event in ready:
        p.register(fd, event)
    another.register(pipe[0], pypoll.POLLIN)

    def wait() -> list[tuple[int, int]]:
        lib.pypoll_check(p._pypoll_address)
        return another.poll()

    thread = Waiter(wait)
    until_waiting(another)
    assert lib.pypoll_holder(p._pypoll_set) == thread.ident
    assert lib.pypoll_hold(p._pypoll_set)
    assert p.poll(0) == ready
    os.write(pipe[1], b"x")
    assert thread.join_result() == [(pipe[0], pypoll.POLLIN)]


def test_what_the_shim_owes_one_thread_no_other_can_take() -> None:
    pipes = [os.pipe() for _ in range(2)]
    p = pypoll.Poll()
    for reading, writing in pipes:
        p.register(reading, pypoll.POLLIN)
        os.write(writing, b"x")
    thread = threading.Thread(target=lib.pypoll_check, args=(p._pypoll_address,))
    thread.start()
    thread.join(PATIENCE)
    hold = lib.pypoll_hold(p._pypoll_set)
    assert lib.pypoll_gather(p._pypoll_address) == 0
    assert lib.pypoll_resume(p._pypoll_set) < 0
    lib.pypoll_release(p._pypoll_set, hold + 1)
    assert lib.pypoll_hold(p._pypoll_set) == hold
    lib.pypoll_release(p._pypoll_set, hold)
    assert lib.pypoll_hold(p._pypoll_set) == 0
    # Who comes late, to end the hold that it saw, finds that of another wait.
    lib.pypoll_check(p._pypoll_address)
    newer = lib.pypoll_hold(p._pypoll_set)
    lib.pypoll_release(p._pypoll_set, hold)
    assert lib.pypoll_hold(p._pypoll_set) == newer != 0
    for reading, writing in pipes:
        os.close(reading)
        os.close(writing)
