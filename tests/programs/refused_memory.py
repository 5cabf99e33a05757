"""The C library has no memory for a set that grows and for its first wait."""

from __future__ import annotations

import resource
from typing import Callable

from pypoll import POLLNVAL, Poll

# The size of the set's array. To grow, it needs 1 MB; the copy that a wait makes takes 256 kB.
FDS = range(1_000_000, 1_000_000 + 2**15)


def limit_memory(more: int) -> None:
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))


def refusals(p: Poll) -> list[str]:
    calls: list[Callable[[], object]] = [
        lambda: p.register(FDS.stop, 1),
        p.poll,
        lambda: p.poll(0),
        lambda: p.poll(1.5),
        p.ppoll,
    ]
    messages = []
    for call in calls:
        try:
            messages.append(repr(call()))
        except MemoryError as error:
            messages.append(str(error))
    return messages


p = Poll()
for fd in FDS:
    p.register(fd, 0)
# The first calls may need memory for the interpreter, and so may their exceptions and messages.
refusals(Poll())
spare: list[bytes] = [bytes(size) for size in range(0, 450, 8) for _ in range(200)]
del spare[::2]
limit_memory(0)
messages = refusals(p)
seen = len(p), FDS.stop in p
limit_memory(100_000_000)
assert messages == [
    f"no memory to register file descriptor {FDS.stop}",
    *["no memory for the results of poll()"] * 4,
], messages
assert seen == (len(FDS), False)
assert [(fd, p[fd]) for fd in p] == [(fd, 0) for fd in FDS]
p.register(FDS.stop, 1)
# No more than any limit of descriptors allows.
for fd in FDS[10:]:
    p.unregister(fd)
assert p.poll() == [(fd, POLLNVAL) for fd in [*FDS[:10], FDS.stop]]
