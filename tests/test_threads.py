"""One thread at a time can wait in a set, and all others can change it at any time.

`threading` does not know the threads here, because pypoll must not depend on it.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time

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


def test_a_second_wait_is_refused_and_does_not_disturb_the_first(
    p: pypoll.Poll, pipe: Pipe
) -> None:
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
    p.register(writing, pypoll.POLLOUT)  # it is ready, but the wait does not know it yet
    p.modify(pipe.reading, 0)
    assert contents(p) == {pipe.reading: 0, writing: pypoll.POLLOUT}
    p.unregister(pipe.reading)
    # Makes the set grow and shrink a hundredfold.
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


@pytest.mark.parametrize("interval", [0.005, 1e-6], ids=["usual switches", "frequent switches"])
@pytest.mark.parametrize("waiting", [1, 3])
def test_no_event_is_lost_while_threads_change_the_set_and_wait(
    descriptors: Descriptors, many: list[int], waiting: int, interval: float, long_profile: bool
) -> None:
    """Each thread changes its own descriptors; one of those that wait reads what is reported."""
    p = set_of(dict.fromkeys(many, 0))
    pipes = [[descriptors.pipe() for _ in range(6)] for _ in range(3)]
    written = {pipe.reading: 0 for pipe in itertools.chain(*pipes)}
    read = written.copy()
    for fd in written:
        os.set_blocking(fd, False)
    end = time.monotonic() + (30 if long_profile else 0.5)
    done = threading.Event()

    def change(own: list[Pipe]) -> None:
        choice = random.Random(own[0].reading)
        while time.monotonic() < end:
            fd, writing = choice.choice(own)
            step = choice.choice(["write", "register", "unregister"])
            if step == "register":
                mask = choice.choice([pypoll.POLLIN, 0])
                p.register(fd, mask)
                assert p[fd] == mask
            elif step == "unregister" and fd in p:
                p.unregister(fd)
            elif written[fd] - read[fd] < 50:
                os.write(writing, b"x")
                written[fd] += 1
        for fd, _ in own:
            p.register(fd, pypoll.POLLIN)
        deadline = time.monotonic() + PATIENCE
        while any(read[fd] != written[fd] for fd, _ in own):
            assert time.monotonic() < deadline, "an event was lost"
            time.sleep(0.001)

    def change_many() -> None:
        while not done.is_set():
            for mask in (pypoll.POLLOUT, 0):
                for fd in many:
                    p.modify(fd, mask)
                time.sleep(0.003)

    def wait(number: int) -> None:
        timeouts = itertools.cycle([0, 0.2, 1])
        while not done.is_set():
            try:
                found = p.poll(next(timeouts))
            except RuntimeError:
                assert waiting > 1
                continue
            assert len(dict(found)) == len(found)
            for fd, event in found:
                assert event == (pypoll.POLLIN if fd in read else pypoll.POLLOUT)
                if number == 0 and fd in read:
                    os.read(fd, 1)
                    read[fd] += 1

    with switching_often(interval):
        others = [Thread(wait, number) for number in range(waiting)] + [Thread(change_many)]
        changing = [Thread(change, own) for own in pipes]
        ended = [thread.ends(2 * PATIENCE) for thread in changing]
        done.set()
        for thread in others + changing:
            thread.join()
    assert all(ended)
    assert sum(read.values())


def test_threads_that_fill_a_new_set_at_the_same_time_lose_no_descriptor(many: list[int]) -> None:
    """A small set allocates no memory, so any of the threads may be the first that must."""
    shares = [many[:5], many[5:10], many[10:15]]
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


@pytest.mark.parametrize("count", [2, 8, 299])
def test_threads_that_poll_one_object_get_complete_results_or_are_refused(
    count: int, many: list[int]
) -> None:
    """One of them has slow signal handlers, during which another can begin to wait."""
    *ready, extra = [(fd, pypoll.POLLOUT) for fd in many[: count + 1]]
    results = [ready, ready[1:], [*ready, extra], [*ready[1:], extra]]
    p = set_of(dict(ready))
    done = threading.Event()
    complete = handled = 0

    def poll(timeout: float | None = None) -> None:
        nonlocal complete
        try:
            assert p.poll(timeout) in results
            complete += 1
        except RuntimeError as error:
            assert str(error) == "concurrent poll() invocation"  # noqa: PT017

    def poll_often() -> None:
        while not done.is_set():
            poll()

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        time.sleep(0.003)

    masks = itertools.cycle([0, pypoll.POLLOUT])
    with handling(handler, 0.001, 0.005):
        threads = [Thread(poll_often) for _ in range(2)]
        try:
            # The first descriptor comes and goes, so the places of all others in the result change.
            while handled < 20:
                p.modify(many[0], next(masks))
                for _ in range(10):
                    p.register(*extra)
                    p.unregister(extra[0])
                poll(0)
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert complete
