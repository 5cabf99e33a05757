"""PollSelector while other threads change its keys: select() is exact, and no change is lost.

Some tests stand in for another thread at a place that no thread can be timed to reach.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import pypoll
from descriptors import SocketPair
from pypoll import EVENT_READ, EVENT_WRITE, PollSelector
from support import PATIENCE, FileLike, Pipe, settled, switching_often


@pytest.mark.parametrize("selecting", [1, 2], ids=["one selects", "two select"])
def test_select_returns_what_is_registered_while_other_threads_change_it(
    selector: PollSelector, beside: int, selecting: int
) -> None:
    """Every change has a number: what it is now must be found, what it was before must not."""
    names = "abc"
    done = threading.Event()
    # The number of each thread's key that was there all the time since, and that is ready; and
    # the highest of those whose key was gone by then.
    now, gone = dict.fromkeys(names, 0), dict.fromkeys(names, 0)

    def change(name: str) -> None:
        number = 0
        while not done.is_set():
            reading, writing = os.pipe()
            number += 4
            selector.register(writing, EVENT_READ, (name, number - 3))
            for ready in (number - 2, number - 1):
                selector.modify(writing, EVENT_WRITE, (name, ready))
                gone[name], now[name] = ready - 1, ready
                time.sleep(0)
                now[name] = 0
            selector.modify(writing, 0, (name, number))
            gone[name] = number - 1
            selector.unregister(writing)
            gone[name] = number
            os.close(reading)
            os.close(writing)

    def select() -> None:
        looks, deadline = 0, time.monotonic() + PATIENCE
        while looks < 1000 and time.monotonic() < deadline:
            gone_before, before = gone.copy(), now.copy()
            try:
                found = selector.select(0)
            except RuntimeError as error:
                assert selecting == 2
                assert "concurrent" in str(error)  # noqa: PT017
                continue
            after = now.copy()
            # Of one thread there may be two: a number closed and opened since is another's by now.
            data = [key.data for key, _ in found if key.data != "beside"]
            lost = [n for n in names if before[n] == after[n] != 0 and (n, after[n]) not in data]
            stale = [(name, number) for name, number in data if number <= gone_before[name]]
            assert (lost, stale, len(found)) == ([], [], len(data) + beside)
            looks += sum(map(bool, before.values())) > 0

    with switching_often(), ThreadPoolExecutor(len(names) + selecting) as pool:
        changing = [pool.submit(change, name) for name in names]
        try:
            for future in [pool.submit(select) for _ in range(selecting)]:
                future.result(4 * PATIENCE)
        finally:
            done.set()
        for future in changing:
            future.result(PATIENCE)
    assert len(selector.get_map()) == beside
    assert settled(selector)


def test_keys_are_listed_found_and_closed_while_other_threads_change_them() -> None:
    done = threading.Event()
    selector = PollSelector()
    # Never open: there is nothing to be ready.
    files = [FileLike(fd) for fd in range(100_000, 100_300)]

    def change(first: int) -> None:
        while not done.is_set():
            for fd in range(first, first + 50):
                selector.register(fd, EVENT_READ)
            for fd in range(first, first + 50):
                with contextlib.suppress(KeyError):  # closed
                    selector.unregister(fd)

    with switching_often():
        pool = ThreadPoolExecutor(2)
        changing = [pool.submit(change, first) for first in (200_000, 300_000)]
        try:
            for _ in range(10):
                registered = selector.get_map()
                for number, file in enumerate(files, 100_000):
                    file.answer = number
                    selector.register(file, EVENT_READ)
                for number, file in enumerate(files, 100_000):
                    file.answer = OSError(errno.EBADF, "closed")
                    assert selector.get_key(file).fileobj is file
                    assert number in list(registered)
                    assert len(selector.select(0)) >= len(files)
                selector.close()
                assert not set(range(100_000, 100_300)) & {*registered}
                # Another for the same threads, which may be in the middle of a change of this one.
                selector = PollSelector()
        finally:
            done.set()
            pool.shutdown()
    for future in changing:
        future.result()
    selector.close()
    assert settled(selector)


def test_a_descriptor_whose_key_is_gone_is_passed_over(selector: PollSelector, pipe: Pipe) -> None:
    """As when another thread unregisters it between the wait and its result."""
    selector.register(pipe.reading, EVENT_READ)
    key = selector.register(pipe.writing, EVENT_WRITE)
    os.write(pipe.writing, b"x")
    del selector._fd_to_key[pipe.reading]
    assert selector.select(0) == [(key, EVENT_WRITE)]


class OtherPoll(pypoll.Poll):
    """Called by its methods, where Poll itself is called past them."""


class OtherSelector(PollSelector):
    _selector_cls = OtherPoll


@pytest.mark.parametrize("kind", [PollSelector, OtherSelector])
def test_a_key_can_be_changed_after_another_thread_took_its_descriptor_out_of_the_set(
    kind: type[PollSelector], pair: SocketPair
) -> None:
    """As select() does when it has seen no key, and register() comes in between."""
    left, right = pair
    with kind() as selector:
        selector.register(left, EVENT_WRITE)
        selector.select(0)
        selector._selector.unregister(left)
        selector._unsettled.add(left.fileno())
        changed = selector.modify(left, EVENT_READ, "new")
        right.send(b"x")
        assert selector.select(0) == [(changed, EVENT_READ)]
        assert settled(selector)


class Incomparable:
    def __eq__(self, _other: object) -> bool:
        raise AssertionError("an array of numbers, say, has no truth value")

    __hash__ = object.__hash__


def test_a_key_that_another_thread_has_changed_meanwhile_stays(pipe: Pipe) -> None:
    """Keys are compared by identity: their data may have no truth value."""

    class Interrupted(pypoll.Poll):
        def register(self, *arguments: Any) -> None:
            super().register(*arguments)
            if not changed:
                changed.append(selector.modify(pipe.writing, EVENT_WRITE, Incomparable()))

    class Selector(PollSelector):
        _selector_cls = Interrupted

    changed: list[selectors.SelectorKey] = []
    with Selector() as selector:
        key = selector.register(pipe.writing, EVENT_WRITE, Incomparable())
        assert selector.get_key(pipe.writing) is changed[0] is not key
        [(ready, _)] = selector.select(0)
        assert ready is changed[0]
