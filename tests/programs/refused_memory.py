"""Memory is refused to calls of pypoll, which must change nothing then: argv names the case."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Callable

import cffi

import pypoll

MANY = 1_000_000
# A tuple made when memory is refused would be refused as well.
UNLIMITED = resource.RLIM_INFINITY, resource.RLIM_INFINITY

filling: list[bytes] = []
ffi = cffi.FFI()
ffi.cdef("void *malloc(size_t);")
library: Any = ffi.dlopen(None)
malloc = library.malloc


def refuse_memory(but: int) -> None:
    allow_memory()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    size = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + but, resource.RLIM_INFINITY))


def allow_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, UNLIMITED)


def room() -> list[object]:
    """Keep room for Python's small objects: counting, or making a message, is not refused."""
    small: list[object] = [object() for _ in range(2000)]
    small += range(1000, 3000)
    small += [bytes(size) for size in range(0, 450, 8) for _ in range(2000)]
    del small[::2]
    return small


def fill(least: int) -> None:
    """Take what the C heap still has in blocks of that size.

    And what the heap of a free-threaded interpreter has, which is another one.
    """
    while malloc(least):
        pass
    for size in (2**20, 2**16, 4096):
        if size < least:
            break
        try:
            while True:
                filling.append(bytes(size))
        except MemoryError:
            pass


def refused(call: Callable[..., object], *arguments: object) -> str:
    try:
        call(*arguments)
    except MemoryError as error:
        return str(error)
    return "it was not refused"


def many_descriptors() -> list[int]:
    """Return as many as may be polled. None of them is open, so each is ready."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return list(range(MANY, MANY + min(hard if hard > 0 else 60_000, 60_000)))


def growing() -> None:
    """Each growth is refused more than once, and then let."""
    p = pypoll.Poll()
    fd = refusals = 0
    but = 4096
    refuse_memory(but)
    while fd < MANY:
        try:
            p.register(fd, fd & 1)
        except MemoryError as error:
            allow_memory()
            seen = len(p), fd in p, p[fd - 1], str(error)
            words = f"no memory to register file descriptor {fd}"
            assert seen == (fd, False, fd - 1 & 1, words), seen
            refusals += 1
            but *= 2
            refuse_memory(but)
        else:
            fd += 1
            if but > 4096:
                but = 4096
                refuse_memory(but)
    allow_memory()
    assert refusals > 50, refusals
    assert list(p) == list(range(MANY))
    assert all(p[fd] == fd & 1 for fd in range(0, MANY, 101))


def ready() -> None:
    fds = many_descriptors()
    p = pypoll.Poll()
    selector = pypoll.PollSelector()
    for fd in fds:
        p.register(fd, 0)
        selector.register(fd, pypoll.EVENT_READ)
    calls: list[Callable[[], object]] = [p.poll, p.ppoll, selector.select, p.__iter__, p.__repr__]
    # CPython up to 3.10 allocates the frame of a function when it is called for the first time.
    # What is returned is kept: its memory would do for the next.
    kept = [call() for call in calls], room()
    refuse_memory(0)
    fill(4096)
    words = [refused(call) for _ in range(3) for call in calls]
    seen = len(p), MANY in p, p[MANY]
    allow_memory()
    assert words == [""] * 15, words
    assert seen == (len(fds), True, 0), seen
    assert list(p) == fds
    answer = [(fd, pypoll.POLLNVAL) for fd in fds]
    assert p.poll() == p.ppoll() == answer
    assert [key.fd for key, _ in selector.select()] == fds
    del kept


def during_a_wait() -> None:
    """Changes while another thread waits.

    A set of 900 has room for 1024, and as many as 256 would do with less.
    """
    reading, writing = os.pipe()
    fds = [os.dup(reading) for _ in range(900)]
    gone = fds[100:]
    new = os.dup(writing)
    p = pypoll.Poll()
    p.register(new, 0)
    p.unregister(new)
    selector = pypoll.PollSelector()
    for fd in fds:
        p.register(fd, 1)
        selector.register(fd, pypoll.EVENT_READ)
    # CPython up to 3.10 allocates the frame of a function when it is called for the first time.
    selector.register(new, pypoll.EVENT_READ)
    selector.modify(new, pypoll.EVENT_WRITE)
    selector.unregister(new)
    answers: dict[str, Any] = {}

    def wait(name: str, call: Callable[[], object]) -> None:
        while name not in answers:
            with suppress(RuntimeError):
                answers[name] = call()

    threads = [
        threading.Thread(target=wait, args=("poll", p.poll), daemon=True),
        threading.Thread(target=wait, args=("select", selector.select), daemon=True),
    ]
    for thread in threads:
        thread.start()
    while not all(is_waiting(each) for each in (p, selector._selector)):
        time.sleep(0.001)
    small = room()
    refuse_memory(0)
    fill(len(fds))
    for fd in gone:
        p.modify(fd, 0)
        p.unregister(fd)
        selector.unregister(fd)
    p.register(new, pypoll.POLLOUT)
    p.modify(fds[0], 0)
    selector.modify(fds[0], pypoll.EVENT_WRITE)
    allow_memory()
    os.write(writing, b"x")
    for thread in threads:
        thread.join()
    assert answers["poll"] == [(fd, 1) for fd in fds], answers
    # Those that have lost their keys meanwhile are passed over, and so is the modified one.
    assert [key.fd for key, _ in answers["select"]] == fds[1:100], answers
    assert p.poll() == [*((fd, 1) for fd in fds[1:100]), (new, pypoll.POLLOUT)]
    assert [key.fd for key, _ in selector.select()] == fds[1:100]
    del small


def is_waiting(p: pypoll.Poll) -> bool:
    """Tell whether another thread waits in it."""
    try:
        p.poll(0)
    except RuntimeError:
        return True
    return False


def first_wait() -> None:
    """The first wait copies the set."""
    fds = many_descriptors()
    p = pypoll.Poll()
    for fd in fds:
        p.register(fd, 0)

    def waits(p: pypoll.Poll) -> list[str]:
        return [refused(p.poll), refused(p.poll, 0), refused(p.poll, 1.5), refused(p.ppoll)]

    # A first call may take memory of the interpreter, or of what traces it: coverage crashes then.
    other = pypoll.Poll()
    other.register(fds[0], 0)
    waits(other)
    small = room()
    refuse_memory(0)
    fill(4096)
    words = waits(p)
    allow_memory()
    # The first may be refused memory of the interpreter's, which has no message.
    assert words[0] in ("", words[1]), words
    assert words[1:] == ["no memory for the results of poll()"] * 3, words
    assert list(p) == fds
    assert p.poll() == [(fd, pypoll.POLLNVAL) for fd in fds]
    del small


class Linked(pypoll.Poll):
    __slots__ = ("before",)
    before: Linked


def new() -> None:
    """Neither an object nor the owner of a ninth descriptor can be made."""
    first = last = Linked()
    for fd in range(MANY, MANY + 8):
        first.register(fd, 0)
    refuse_memory(0)
    try:
        while True:
            new = Linked()
            new.before = last
            last = new
    except MemoryError:
        pass
    fill(8)
    words = refused(Linked), refused(Linked), refused(first.register, MANY + 8)
    allow_memory()
    assert "it was not refused" not in words, words
    assert [(fd, first[fd]) for fd in first] == [(fd, 0) for fd in range(MANY, MANY + 8)]
    first.register(MANY + 8, 0)
    assert first.poll() == [(fd, pypoll.POLLNVAL) for fd in range(MANY, MANY + 9)]
    for p in last, Linked():
        p.register(MANY, 0)
        assert p.poll() == [(MANY, pypoll.POLLNVAL)]


globals()[sys.argv[1]]()
