"""CPython's allocator refuses one block, or twenty in a row, at each allocation of each call.

It does not refuse all further blocks, because CPython before 3.14 would retry forever in an except
block beyond the 256th instruction (CPython issue 132508).
"""

from __future__ import annotations

import _testcapi
import gc
import os
from typing import Any, Callable

from pypoll import POLLIN, POLLOUT, Poll, PollSelector, poll_fd
from pypoll.library import lib

reading, writing = os.pipe()
os.write(writing, b"x")
new, _ = os.pipe()
signals = [10] if lib.pypoll_has_ppoll() else None

# Calls, each with the number of closed descriptors, which are always ready, in the set.
CALLS: dict[Any, list[tuple[int, Callable[[Any], object]]]] = {
    Poll: [
        (1, lambda p: p.register(new, 1)),
        (6, lambda p: p.register(new, 1)),  # the ninth, for which the set is enlarged
        (1, lambda p: p.modify(reading, 0)),
        (1, lambda p: p.unregister(reading)),
        (0, lambda p: p.poll(0)),
        (300, lambda p: p.poll(0)),
        (20, lambda p: p.poll(0.5)),
        (20, lambda p: p.ppoll(0, signals)),
        (1, lambda p: (list(p), repr(p), len(p), reading in p, p[reading])),
        (1, lambda _: (Poll(), poll_fd(reading, 1, 0))),
    ],
    PollSelector: [
        (1, lambda s: s.register(new, 1)),
        (1, lambda s: s.modify(reading, 2)),
        (1, lambda s: s.modify(reading, 1, "data")),
        (1, lambda s: s.unregister(reading)),
        (1, lambda s: (PollSelector(), s.get_key(reading))),
        (0, lambda s: s.select(0)),
        (20, lambda s: s.select(0.5)),
    ],
}


def made(kind: Any, closed: int) -> Any:
    it = kind()
    it.register(reading, 1)
    it.register(writing, 0 if kind is Poll else 2)
    for fd in range(1_000_000, 1_000_000 + closed):
        it.register(fd, 1)
    return it


def state(it: Any) -> list[Any]:
    if isinstance(it, Poll):
        return [(fd, it[fd]) for fd in it]
    return [(key.fd, key.events, key.data) for key in it.get_map().values()]


def check_ready(it: Any) -> None:
    if isinstance(it, Poll):
        ready = [(fd, event) for fd in it if (event := poll_fd(fd, it[fd], 0))]
        assert it.poll(0) == ready
    else:
        masks = {1: POLLIN, 2: POLLOUT}
        keys = [key for key in it.get_map().values() if poll_fd(key.fd, masks[key.events], 0)]
        assert it.select(0) == [(key, key.events) for key in keys]


def is_refused(call: Callable[[Any], object], it: Any, first: int, several: int) -> bool:
    _testcapi.set_nomemory(first, first + several)
    try:
        call(it)
        return False
    except MemoryError:
        return True
    finally:
        _testcapi.remove_mem_hooks()


# CPython reports refusals to the collector's callbacks.
gc.disable()
refusals = 0
for kind, calls in CALLS.items():
    for number, (closed, call) in enumerate(calls):
        it = made(kind, closed)
        before = state(it)
        call(it)
        after = state(it)
        allowed = [before]
        if kind is PollSelector and len(after) <= len(before):
            # The key may be changed already, or be gone, as in the standard library.
            allowed += [after, before[1:]]
        for several in (1, 20):
            first = passed = 0
            # Some calls need no memory even if an allocation failed. After ten such places in a
            # row there are no more allocations.
            while passed < 10:
                it = made(kind, closed)
                refused = is_refused(call, it, first, several)
                seen = state(it)
                where = kind.__name__, number, first, several, seen[:3]
                assert seen in allowed if refused else seen == after, where
                refusals += refused
                passed = 0 if refused else passed + 1
                check_ready(it)
                it.register(2_000_000, 1)
                check_ready(it)
                first += 1
assert refusals > 200, refusals
