"""What an object costs, in a loop so long that the collector has its share of the work."""

from __future__ import annotations

import os
import resource

from subjects import POLLERS

from pypoll import POLLIN


def costs_of_an_object(poller: str, objects: int) -> tuple[float, float]:
    """Return the microseconds and the page faults of each object: once in a process.

    The time is that of the process, its system calls and page faults included.
    """
    new = POLLERS[poller]
    fd, _ = os.pipe()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(objects):
        p = new()
        p.register(fd, POLLIN)
        p.poll(0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds * 1e6 / objects, (after.ru_minflt - before.ru_minflt) / objects
