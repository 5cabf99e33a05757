"""PollSelector while other threads change its keys: select() is exact, and no change is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pypoll import EVENT_READ, EVENT_WRITE, PollSelector
from support import PATIENCE, FileLike, settled, switching_often


@pytest.mark.parametrize("selecting", [1, 2], ids=["one selects", "two select"])
def test_select_returns_what_is_registered_while_other_threads_change_it(
    selector: PollSelector, beside: int, selecting: int
) -> None:
    """Each key has a number. The current key must be found, and no earlier one."""
    names = "abc"
    done = threading.Event()
    # For each thread: the number of its key while that is ready, otherwise 0; and the highest
    # number whose key has been replaced.
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
        checks, deadline = 0, time.monotonic() + PATIENCE
        while checks < 1000 and time.monotonic() < deadline:
            gone_before, before = gone.copy(), now.copy()
            try:
                found = selector.select(0)
            except RuntimeError as error:
                assert selecting == 2
                assert "concurrent" in str(error)  # noqa: PT017
                continue
            after = now.copy()
            # A thread may have two: its descriptor may have been closed and opened again.
            data = [key.data for key, _ in found if key.data != "beside"]
            lost = [n for n in names if before[n] == after[n] != 0 and (n, after[n]) not in data]
            stale = [(name, number) for name, number in data if number <= gone_before[name]]
            assert (lost, stale, len(found)) == ([], [], len(data) + beside)
            checks += sum(map(bool, before.values())) > 0

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


def test_keys_are_listed_found_and_closed_while_another_thread_changes_them() -> None:
    done = threading.Event()
    selector = PollSelector()

    def change() -> None:
        while not done.is_set():
            for fd in range(200_000, 200_050):
                selector.register(fd, EVENT_READ)
            for fd in range(200_000, 200_050):
                with contextlib.suppress(KeyError):  # closed
                    selector.unregister(fd)

    with switching_often(), ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            for _ in range(10):
                registered = selector.get_map()
                file = FileLike(100_300)
                # None of these is open, so select() always reports them as invalid.
                for fileobj in [*range(100_000, 100_300), file]:
                    selector.register(fileobj, EVENT_READ)
                file.answer = OSError(errno.EBADF, "closed")
                for _ in range(150):
                    assert selector.get_key(file).fileobj is file
                    assert any(fd == 100_300 for fd in registered)
                    assert len(selector.select(0)) >= 301
                selector.close()
                assert not set(range(100_000, 100_301)) & {*registered}
                # The thread continues with a new one. It may still be changing this one.
                selector = PollSelector()
        finally:
            done.set()
        changing.result(PATIENCE)
    selector.close()
    assert settled(selector)
