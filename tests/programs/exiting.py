"""Daemon threads that wait, read results or change a set while the interpreter ends."""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Callable

import pypoll
from pypoll.library import lib

faulthandler.dump_traceback_later(30, exit=True)
idle, waker = os.pipe()
many = [os.dup(waker) for _ in range(300)]


def set_of(fds: list[int], mask: int) -> pypoll.Poll:
    p = pypoll.Poll()
    for fd in fds:
        p.register(fd, mask)
    return p


def selector_of(fds: list[int], events: int) -> pypoll.PollSelector:
    selector = pypoll.PollSelector()
    for fd in fds:
        selector.register(fd, events)
    return selector


changed = set_of([idle], pypoll.POLLIN)


def change() -> None:
    for fd in many:
        changed.register(fd, 0)
    for fd in many:
        changed.unregister(fd)


def in_thread(call: Callable[..., object], *arguments: Any) -> None:
    def call_for_ever() -> None:
        while True:
            with suppress(RuntimeError):  # the main thread looks whether this one waits
                call(*arguments)

    threading.Thread(target=call_for_ever, daemon=True).start()


waiting = [set_of([idle], pypoll.POLLIN) for _ in range(4)]
in_thread(waiting[0].poll)
in_thread(waiting[1].poll, 3_600_000)
in_thread(waiting[2].ppoll, 3_600_000.5)
in_thread(waiting[3].poll, 0.1)
in_thread(pypoll.poll_fd, idle, pypoll.POLLIN)
in_thread(pypoll.poll_fd, idle, pypoll.POLLIN, 0.1)
in_thread(selector_of([idle], pypoll.EVENT_READ).select)
in_thread(selector_of([idle], pypoll.EVENT_READ).select, 3600)
in_thread(set_of(many, pypoll.POLLOUT).poll, 0)
in_thread(selector_of(many, pypoll.EVENT_WRITE).select, 0)
in_thread(change)
in_thread(changed.poll, 0.1)
in_thread(set_of, many, pypoll.POLLOUT)
if lib.pypoll_has_ppoll():
    in_thread(set_of([idle], 1).ppoll, None, {signal.SIGUSR1})


def is_refused(wait: Callable[[int], object]) -> bool:
    try:
        wait(0)
    except RuntimeError:
        return True
    return False


while not all(is_refused(p.poll) for p in waiting[:3]):
    time.sleep(0.001)


class Last:
    """Wakes the threads in the middle of the end: none of them may go on.

    The names of sys alone are dropped by the interpreter itself: those of __main__ live on in the
    frames of the threads.
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
