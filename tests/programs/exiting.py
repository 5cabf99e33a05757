"""Daemon threads that wait, read results or change a set while the interpreter ends."""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Callable

import pypoll

faulthandler.dump_traceback_later(30, exit=True)
idle, waker = os.pipe()
many = [os.dup(waker) for _ in range(300)]


def set_of(fds: list[int], mask: int) -> pypoll.Poll:
    p = pypoll.Poll()
    for fd in fds:
        p.register(fd, mask)
    return p


changed = set_of([idle], pypoll.POLLIN)


def change() -> None:
    for fd in many:
        changed.register(fd, 0)
    for fd in many:
        changed.unregister(fd)


def in_thread(call: Callable[..., object], *arguments: Any) -> None:
    def repeat() -> None:
        while True:
            with suppress(RuntimeError):  # the main thread checks whether this one waits
                call(*arguments)

    threading.Thread(target=repeat, daemon=True).start()


waiting = [set_of([idle], pypoll.POLLIN) for _ in range(2)]
in_thread(waiting[0].poll)
in_thread(waiting[1].ppoll, 3_600_000.5)
in_thread(pypoll.poll_fd, idle, pypoll.POLLIN)
in_thread(set_of(many, pypoll.POLLOUT).poll, 0)
in_thread(change)
in_thread(changed.poll, 0.1)
in_thread(set_of, many, pypoll.POLLOUT)


def is_refused(wait: Callable[[int], object]) -> bool:
    try:
        wait(0)
    except RuntimeError:
        return True
    return False


while not all(is_refused(p.poll) for p in waiting):
    time.sleep(0.001)


class Last:
    """Wakes the threads while the interpreter ends: none of them may continue.

    Its finalizer runs when the interpreter clears the sys module, and so needs no global names.
    """

    def __del__(
        self,
        write: Callable[[int, bytes], int] = os.write,
        fd: int = waker,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        write(fd, b"x")
        sleep(0.05)
        write(1, b"woken")


def look() -> None:
    for p in waiting:
        p.register(waker, 0)
        p.unregister(waker)
    assert is_refused(waiting[0].poll)
    assert set_of([waker], pypoll.POLLOUT).poll(0) == [(waker, pypoll.POLLOUT)]


if sys.argv[1] == "woken":
    sys.last_of_all = Last()  # type: ignore[attr-defined]
elif sys.argv[1] == "in atexit":
    atexit.register(look)
