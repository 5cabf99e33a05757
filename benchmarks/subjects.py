"""The workloads, and the subjects that are compared in each.

A subject is a function that does the work of a workload the given number of times, and returns the
seconds that this took. The names of workloads are keys in the results.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import select
import selectors
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from textwrap import indent
from time import thread_time
from typing import Any, Callable

from cffi import FFI
from echo import ROUND_TRIPS
from timing import Timed, loop

import pypoll
from pypoll import POLLIN, POLLOUT, POLLPRI

_STATES = ("idle", "one ready", "a tenth ready", "all ready")
_CHANGES = ("unregister and register", "modify")
_CALLS = ("register a known one", *_CHANGES)

# The number of descriptors in a set whose calls other than poll() are measured.
_KNOWN = 100
# The number of selectors that have clients at the same time.
_SELECTORS = 3
# For other files of the interpreter and the benchmark.
_SPARE_DESCRIPTORS = 64

# PyPy needs time to compile a workload. On CPython, this only fills caches.
_WARM_UP_SECONDS = 0.1 if sys.implementation.name == "pypy" else 0.01


@dataclass(frozen=True)
class Effort:
    """How much is measured, and for how long."""

    processes: int
    seconds: float  # for each row in each process, after the warm-up
    warm_up: float = _WARM_UP_SECONDS  # for each subject of a row
    counts: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    clients: tuple[int, ...] = (10, 200, 1_000)
    objects: int = 1_000_000  # created one after the other
    imports: int = 60


FULL = Effort(processes=3, seconds=0.5)
QUICK = Effort(processes=1, seconds=0.1, imports=20)
SMOKE = Effort(
    processes=1, seconds=0, warm_up=0, counts=(1, 10), clients=(10,), objects=10_000, imports=2
)


@dataclass(frozen=True)
class Workload:
    """One row of the results."""

    section: str
    name: str
    kind: str  # of the descriptors; empty if they are not polled
    count: int  # the number of descriptors or clients

    @property
    def descriptors(self) -> int:
        """Return how many descriptors are open at the same time."""
        opened = self.count if self.kind else 0
        if self.section == "asyncio":
            opened *= 2 * _SELECTORS
        return opened + _SPARE_DESCRIPTORS

    @property
    def size(self) -> str:
        """Return the count with its unit."""
        return f"{self.count:,} {'clients' if self.section == 'asyncio' else 'descriptors'}"


def share(name: str, count: int) -> int:
    """Return how many of *count* descriptors the first words of a workload's name mean."""
    if name.startswith("one"):
        return 1
    if name.startswith("a tenth"):
        return count // 10
    return count if name.startswith("all") else 0


def _rows(section: str, names: Sequence[str], kind: str, counts: Sequence[int]) -> list[Workload]:
    """Return a workload for each name and count, unless "a tenth" or "all" is less than two."""
    return [
        Workload(section, name, kind, count)
        for name in names
        for count in counts
        if share(name, count) > 1 or name.startswith(("idle", "one"))
    ]


def workloads_of(effort: Effort) -> list[Workload]:
    """Return all workloads."""
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


_C_DECLARATIONS = """
typedef struct { ...; } c_loop;
c_loop *c_loop_new(const int *fds, const short *masks, int count);
void c_loop_free(c_loop *loop);
int c_loop_run(c_loop *loop, int changed, int timeout, long times);
"""

_c_module: Any = None


def compile_c_loop(directory: str) -> str:
    """Compile c_loop.c, and return the path of the module."""
    builder = FFI()
    builder.cdef(_C_DECLARATIONS)
    source = Path(__file__).with_name("c_loop.c").read_text("utf-8")
    builder.set_source("_c_loop", source, extra_compile_args=["-O2"])
    return str(builder.compile(tmpdir=directory))


def load_c_loop(path: str) -> None:
    """Load the module that compile_c_loop() has created."""
    global _c_module
    spec = importlib.util.spec_from_file_location("_c_loop", path)
    assert spec is not None
    assert spec.loader is not None
    _c_module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_c_module)


def _c_loop(masks: dict[int, int], ready: int, changed: int = 0, timeout: int = 0) -> Timed:
    """Return the C loop over these descriptors, which checks the number of ready ones."""
    ffi, lib = _c_module.ffi, _c_module.lib
    loop = ffi.gc(lib.c_loop_new(list(masks), list(masks.values()), len(masks)), lib.c_loop_free)
    run = lib.c_loop_run

    def timed(number: int) -> float:
        start = thread_time()
        found = run(loop, changed, timeout, number)
        seconds = thread_time() - start
        _check("the C loop", found, ready)
        return seconds

    return timed


C_LOOP = "C loop"
POLLERS: dict[str, Callable[[], Any]] = {
    "pypoll.Poll": pypoll.Poll,
    "select.poll": select.poll,
}
SELECTORS: dict[str, Callable[[], selectors.BaseSelector]] = {
    "pypoll.PollSelector": pypoll.PollSelector,
    "selectors.PollSelector": selectors.PollSelector,
}
if hasattr(selectors, "EpollSelector"):
    SELECTORS["selectors.EpollSelector"] = selectors.EpollSelector

# Compared if they are installed, with at most as many descriptors as they poll within milliseconds.
# gevent reports at most 64 at a time.
OTHERS: dict[str, Callable[[], Any]] = {}
MISSING = []
for _module, _class in ("gevent.select", "poll"), ("zmq", "Poller"):
    try:
        OTHERS[f"{_module}.{_class}"] = getattr(importlib.import_module(_module), _class)
    except ImportError:
        MISSING.append(f"{_module}.{_class}")
_MOST_FOR_OTHERS = 1_000

# Descriptors that are not polled need not be open. Above the ints that CPython caches.
_FIRST = 257

_STATEMENTS = {
    "register a known one": "register(fd, mask)",
    "unregister and register": "unregister(fd)\nregister(fd, mask)",
    "modify": "modify(fd, mask)",
}
_ONCE = "p = new()\np.register(fd, mask)\np.poll(0)"
_SELECTOR_CALLS = {
    "register and unregister": "register(fd, READ)\nunregister(fd)",
    "modify to READ and WRITE, and back": "modify(known, BOTH)\nmodify(known, READ)",
    "get_map().get(absent)": "get_map().get(fd)",
}
_SELECTOR_ONCE = "with new() as selector:\n    selector.register(fd, READ)\n    selector.select(0)"
_TIMEOUTS = {"an int": ("1000", 1000), "a float": ("1000.5", 1001), "None": ("None", -1)}

Subjects = dict[str, Timed]


@contextmanager
def _opened(kind: str, count: int, ready: int = 0) -> Iterator[dict[int, int]]:
    """Open *count* descriptors, make *ready* of them ready, and yield their masks in order.

    They include both ends of each pipe and socket pair. Otherwise, 10,000 would not fit into a
    limit of 20,000. The kernel checks each end separately. Writing ends of pipes are polled for
    output if they are to be ready, and otherwise for input, which they never have.
    """
    ends: list[int] = []
    try:
        while len(ends) < count:
            if kind == "pipes":
                ends += os.pipe()
            else:
                ends += (end.detach() for end in socket.socketpair())
        masks = dict.fromkeys(ends[:count], POLLIN)
        for number in range(ready):
            # All ends, or reading ends that are spread evenly over the set.
            place = number if ready == count else (2 * number + 1) * count // (2 * ready) & ~1
            if kind == "pipes" and place % 2:
                masks[ends[place]] = POLLOUT
            else:
                os.write(ends[place ^ 1], b"x")
        yield masks
    finally:
        for fd in ends:
            os.close(fd)


def _check(subject: object, found: int, ready: int) -> None:
    """Raise RuntimeError if the subject has not found the ready descriptors."""
    if found != ready:
        raise RuntimeError(f"{subject} found {found} descriptors ready, expected {ready}")


def _registered(new: Callable[[], Any], masks: dict[int, int], ready: int | None = None) -> Any:
    """Return a new poller with these descriptors, after checking how many it finds ready."""
    poller = new()
    for fd, mask in masks.items():
        poller.register(fd, mask)
    if ready is not None:
        _check(poller, len(poller.poll(0)), ready)
    return poller


def _methods(poller: Any, *names: str) -> dict[str, object]:
    """Return the bound methods with these names."""
    return {name: getattr(poller, name) for name in names}


def _changing(
    poller: Any, change: str, fds: list[int], masks: tuple[int, int], changed: int, then: str
) -> Timed:
    """Return a loop that changes *changed* descriptors, and then calls method *then* with 0.

    It cycles through the descriptors in random order, and alternates between the two masks, so that
    each modify() changes the mask.
    """
    statement = _STATEMENTS[change]
    order = random.Random(0).sample(fds, len(fds))
    items = [(fd, mask) for mask in masks for fd in order]
    methods = _methods(poller, "register", "modify", "unregister", then)
    if changed == 1:
        return loop(f"{statement}\n{then}(0)", methods, "fd, mask", cycle(items))
    parts = [items[begin : begin + changed] for begin in range(0, len(items), changed)]
    statement = "for fd, mask in part:\n" + indent(statement, "    ")
    return loop(f"{statement}\n{then}(0)", methods, "part", cycle(parts))


@contextmanager
def _poll(workload: Workload) -> Iterator[Subjects]:
    ready = share(workload.name, workload.count)
    with _opened(workload.kind, workload.count, ready) as masks:
        pollers = {name: _registered(new, masks, ready) for name, new in POLLERS.items()}
        if workload.kind == "sockets" and workload.count <= _MOST_FOR_OTHERS:
            pollers.update((name, _registered(new, masks)) for name, new in OTHERS.items())
        subjects = {
            name: loop("poll(0)", {"poll": poller.poll}) for name, poller in pollers.items()
        }
        yield {**subjects, C_LOOP: _c_loop(masks, ready)}


@contextmanager
def _change(workload: Workload) -> Iterator[Subjects]:
    changed = share(workload.name, workload.count)
    change = workload.name.partition(" by ")[2]
    with _opened(workload.kind, workload.count) as masks:
        subjects = {
            name: _changing(
                _registered(new, masks, 0),
                change,
                list(masks),
                (POLLIN | POLLPRI, POLLIN),
                changed,
                "poll",
            )
            for name, new in POLLERS.items()
        }
        yield {**subjects, C_LOOP: _c_loop(masks, 0, changed)}


@contextmanager
def _register(workload: Workload) -> Iterator[Subjects]:
    statement = "register = new().register\nfor fd in fds:\n    register(fd, mask)"
    fds = list(range(_FIRST, _FIRST + workload.count))
    yield {
        name: loop(statement, {"new": new, "fds": fds, "mask": POLLIN})
        for name, new in POLLERS.items()
    }


def _halved(twice: Timed) -> Timed:
    """Return a subject that does one piece of work, from one that does two."""
    return lambda number: twice(number) / 2


@contextmanager
def _call(workload: Workload) -> Iterator[Subjects]:
    fds = range(_FIRST, _FIRST + workload.count)
    constants = {"fd": fds[workload.count // 2], "mask": POLLIN | POLLPRI, "next_mask": POLLIN}
    statement = _STATEMENTS[workload.name]
    # Alternate between two masks, so that each modify() changes the mask. An iterator over them
    # would take PyPy as long as the call.
    statement = f"{statement}\n{statement.replace('mask', 'next_mask')}"
    subjects = {}
    for name, new in POLLERS.items():
        poller = _registered(new, dict.fromkeys(fds, POLLIN))
        methods = _methods(poller, "register", "modify", "unregister")
        subjects[name] = _halved(loop(statement, {**methods, **constants}))
    yield subjects


@contextmanager
def _timeout(workload: Workload) -> Iterator[Subjects]:
    timeout, milliseconds = _TIMEOUTS[workload.name]
    with _opened(workload.kind, workload.count, ready=1) as masks:
        subjects = {
            name: loop(f"poll({timeout})", {"poll": _registered(new, masks, 1).poll})
            for name, new in POLLERS.items()
        }
        yield {**subjects, C_LOOP: _c_loop(masks, 1, timeout=milliseconds)}


@contextmanager
def _object_once(workload: Workload) -> Iterator[Subjects]:
    with _opened(workload.kind, workload.count) as masks:
        ((fd, mask),) = masks.items()
        yield {
            name: loop(_ONCE, {"fd": fd, "mask": mask, "new": new}) for name, new in POLLERS.items()
        }


@contextmanager
def _one_descriptor(workload: Workload) -> Iterator[Subjects]:
    ready = share(workload.name, workload.count)
    with _opened(workload.kind, workload.count, ready) as masks:
        ((fd, mask),) = masks.items()
        names = {"fd": fd, "mask": mask}
        yield {
            "pypoll.poll_fd": loop("poll_fd(fd, mask, 0)", {**names, "poll_fd": pypoll.poll_fd}),
            "select.poll": loop(_ONCE, {**names, "new": select.poll}),
            "select.select": loop("select([fd], [], [], 0)", {**names, "select": select.select}),
            C_LOOP: _c_loop(masks, ready),
        }


@contextmanager
def _selector(workload: Workload) -> Iterator[Subjects]:
    number = share(workload.name, workload.count)
    change = workload.name.partition(" by ")[2]
    ready = 0 if change else number
    with _opened(workload.kind, workload.count, ready) as masks, ExitStack() as stack:
        subjects = {}
        for name, new in SELECTORS.items():
            selector = stack.enter_context(new())
            for fd, mask in masks.items():
                selector.register(fd, EVENT_WRITE if mask == POLLOUT else EVENT_READ)
            _check(selector, len(selector.select(0)), ready)
            if change:
                # Only reading ends, because the others are ready for writing.
                events = EVENT_READ | EVENT_WRITE, EVENT_READ
                subjects[name] = _changing(
                    selector, change, list(masks)[::2], events, number, "select"
                )
            else:
                subjects[name] = loop("select(0)", {"select": selector.select})
        yield subjects


@contextmanager
def _selector_call(workload: Workload) -> Iterator[Subjects]:
    events = {"READ": EVENT_READ, "BOTH": EVENT_READ | EVENT_WRITE}
    with _opened(workload.kind, workload.count + 1) as masks, ExitStack() as stack:
        known, *_, fd = masks
        subjects = {}
        for name, new in SELECTORS.items():
            selector = stack.enter_context(new())
            for each in list(masks)[:-1]:
                selector.register(each, EVENT_READ)
            methods = _methods(selector, "register", "unregister", "modify", "get_map")
            names: dict[str, object] = {**methods, **events, "known": known, "fd": fd}
            subjects[name] = loop(_SELECTOR_CALLS[workload.name], names)
        yield subjects


@contextmanager
def _selector_once(workload: Workload) -> Iterator[Subjects]:
    with _opened(workload.kind, workload.count) as masks:
        names = {"fd": next(iter(masks)), "READ": EVENT_READ}
        yield {name: loop(_SELECTOR_ONCE, {**names, "new": new}) for name, new in SELECTORS.items()}


@contextmanager
def _asyncio(workload: Workload) -> Iterator[Subjects]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(ROUND_TRIPS[workload.name](new(), workload.count))
            for name, new in SELECTORS.items()
        }


_SECTIONS: dict[str, Callable[[Workload], AbstractContextManager[Subjects]]] = {
    "poll": _poll,
    "change": _change,
    "register": _register,
    "call": _call,
    "timeout": _timeout,
    "object once": _object_once,
    "one descriptor": _one_descriptor,
    "selector": _selector,
    "selector call": _selector_call,
    "selector once": _selector_once,
    "asyncio": _asyncio,
}


def subjects_of(workload: Workload) -> AbstractContextManager[Subjects]:
    """Return a context manager that yields the subjects of a workload, pypoll first."""
    return _SECTIONS[workload.section](workload)
