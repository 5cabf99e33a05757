"""Runs the wait that argv names, and prints how long it took and what it returned."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable

import pypoll

reading, writing = os.pipe()
p = pypoll.Poll()
p.register(reading, pypoll.POLLIN)
selector = pypoll.PollSelector()
selector.register(reading, pypoll.EVENT_READ)
waits: dict[str, Callable[[], Any]] = {
    "poll(800)": lambda: p.poll(800),
    "poll(800.5)": lambda: p.poll(800.5),
    "ppoll(800.5, [])": lambda: p.ppoll(800.5, []),
    "poll_fd(..., 800.5)": lambda: pypoll.poll_fd(reading, 1, 800.5),
    "select(0.8005)": lambda: selector.select(0.8005),
}
wait = waits[sys.argv[1]]
print("ready", flush=True)
begun = time.monotonic()
answer = wait()
print(time.monotonic() - begun, answer)
