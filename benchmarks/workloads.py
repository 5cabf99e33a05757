"""What is measured: the rows of the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

_STATES = ("idle", "one ready", "a tenth ready", "all ready")
_CHANGES = ("unregister and register", "modify")
_CALLS = ("register a known one", *_CHANGES)
_SELECTOR_CALLS = (
    "register and unregister",
    "modify to READ|WRITE and back",
    "get_map().get(absent)",
)
_TIMEOUTS = ("an int", "a float", "None")

# Of a set in which calls are measured without a poll.
_KNOWN = 100
# How many of them have clients at the same time.
_SELECTORS = 3
# For what the interpreter and the benchmark have open besides.
_SPARE_DESCRIPTORS = 64

# What PyPy needs to compile a workload, and the kernel and the caches to have seen it.
_WARM_UP_SECONDS = 0.1 if sys.implementation.name == "pypy" else 0.01


@dataclass(frozen=True)
class Effort:
    """How much is measured, and for how long."""

    processes: int
    seconds: float  # for each row in each process, after the warm-up
    warm_up: float = _WARM_UP_SECONDS  # for each subject of a row
    counts: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    clients: tuple[int, ...] = (10, 200, 1_000)
    objects: int = 1_000_000  # made one after the other


FULL = Effort(processes=3, seconds=0.5)
QUICK = Effort(processes=1, seconds=0.1)
SMOKE = Effort(processes=1, seconds=0, warm_up=0, counts=(1, 10), clients=(10,), objects=10_000)


@dataclass(frozen=True)
class Workload:
    """One row of the results."""

    section: str
    name: str
    kind: str  # of the descriptors; empty where they are not polled
    count: int  # of the descriptors, or of the clients

    @property
    def descriptors(self) -> int:
        """Return how many must be open at a time."""
        opened = self.count if self.kind else 0
        if self.section == "asyncio":
            opened *= 2 * _SELECTORS
        return opened + _SPARE_DESCRIPTORS

    @property
    def size(self) -> str:
        """Return the count in words."""
        return f"{self.count:,} {'clients' if self.section == 'asyncio' else 'descriptors'}"


def share(name: str, count: int) -> int:
    """Return how many of so many descriptors the first words of a name mean."""
    if name.startswith("one"):
        return 1
    if name.startswith("a tenth"):
        return count // 10
    return count if name.startswith("all") else 0


def _rows(section: str, names: Sequence[str], kind: str, counts: Sequence[int]) -> list[Workload]:
    """Return each name with each count, but where a tenth, or all, is one or none."""
    return [
        Workload(section, name, kind, count)
        for name in names
        for count in counts
        if share(name, count) > 1 or name.startswith(("idle", "one"))
    ]


def workloads(effort: Effort) -> list[Workload]:
    """Return all that is measured."""
    counts = effort.counts
    changes = [f"{part} by {change}" for change in _CHANGES for part in ("one", "a tenth", "all")]
    in_selectors = [*_STATES, *(f"one by {change}" for change in _CHANGES)]
    return [
        *_rows("poll", _STATES, "pipes", counts),
        *_rows("poll", _STATES, "sockets", counts),
        *_rows("change", changes, "pipes", counts),
        *(Workload("register", "from nothing", "", count) for count in counts),
        *(Workload("call", name, "", _KNOWN) for name in _CALLS),
        *(Workload("timeout", name, "pipes", 1) for name in _TIMEOUTS),
        Workload("object once", "idle", "pipes", 1),
        *_rows("one descriptor", _STATES[:2], "pipes", [1]),
        *_rows("selector", in_selectors, "pipes", counts),
        *(Workload("selector call", name, "pipes", _KNOWN) for name in _SELECTOR_CALLS),
        Workload("selector once", "idle", "pipes", 1),
        Workload("asyncio", "sock_sendall and sock_recv", "sockets", 1),
        Workload("asyncio", "new connection", "sockets", 1),
        *(Workload("asyncio", "echo", "sockets", count) for count in effort.clients),
    ]
