"""Objects stay usable after a handler raised in a wait, under gevent's or eventlet's patches."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable

if sys.argv[1] == "gevent":
    importlib.import_module("gevent.monkey").patch_all()
else:
    importlib.import_module("eventlet").monkey_patch()

import os
import signal
import threading

import pypoll


class HandlerError(Exception):
    pass


def handler(*_: object) -> None:
    raise HandlerError


reading, writing = os.pipe()
wait: Callable[[float], Any]
ready: list[Any]
answers: list[Any] = []
if sys.argv[2] == "Poll":
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    wait, ready = p.poll, [(reading, pypoll.POLLIN)]
else:
    selector = pypoll.PollSelector()
    key = selector.register(reading, pypoll.EVENT_READ)
    wait, ready = selector.select, [(key, pypoll.EVENT_READ)]
signal.signal(signal.SIGALRM, handler)


def interrupted() -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        wait(1000)
    except HandlerError:
        return
    raise AssertionError("the wait was not interrupted")


for _ in range(3):
    interrupted()
    assert wait(0) == []
    # Under the patches, this is a greenlet of the same thread.
    answers.clear()
    other = threading.Thread(target=lambda: answers.append(wait(0)))
    other.start()
    other.join()
    assert answers == [[]]
os.write(writing, b"x")
assert wait(0) == ready
