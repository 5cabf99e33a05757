"""Sets whose construction failed, in finalizers, and while the interpreter ends."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import Any, Callable

import pytest

from pypoll import EVENT_READ, POLLIN, POLLOUT, Poll, PollSelector
from support import PYPY, Pipe, ran, set_of, waiting_thread

# Makes the C library overwrite memory that is freed.
OVERWRITING = {"MALLOC_PERTURB_": "165"}


def test_a_set_works_even_if_its_construction_failed(pipe: Pipe) -> None:
    class Failing(Poll):
        def __init__(self) -> None:
            made.append(self)
            raise LookupError

    made: list[Poll] = []
    with pytest.raises(LookupError):
        Failing()
    made[0].register(pipe.writing, POLLOUT)
    assert made[0].poll() == [(pipe.writing, POLLOUT)]


METHODS: list[Callable[[Any], object]] = [
    lambda p: p.register(0, EVENT_READ),
    lambda p: p.modify(0, EVENT_READ),
    lambda p: p.unregister(0),
    lambda p: p.poll(),
    lambda p: p.ppoll(0, ()),
    lambda p: p.select(0),
    lambda p: p.close(),
    lambda p: p.get_key(0),
    lambda p: (0 in p, p[0]),
    len,
    list,
]


@pytest.mark.parametrize("cls", [Poll, PollSelector])
def test_an_uninitialized_object_raises_and_does_not_crash(cls: type[Any]) -> None:
    for call in METHODS:
        with pytest.raises((AttributeError, TypeError, NotImplementedError)):
            call(object.__new__(cls))


def test_a_subclass_may_give_its_attributes_any_names(many: list[int]) -> None:
    class Server(Poll):
        def __init__(self) -> None:
            self._few = self._many = self._owner = self._set = "its own"

    server = Server()
    for fd in many:
        server.register(fd, POLLOUT)
    assert server.poll(0) == server.poll(1) == [(fd, POLLOUT) for fd in many]
    assert set(vars(server).values()) == {"its own"}


@pytest.mark.parametrize("job", ["tidy_up", "revive"])
def test_a_set_can_be_used_until_all_finalizers_have_run(job: str, tmp_path: Path) -> None:
    assert ran("cycles", tmp_path, job, env=OVERWRITING) == (0, "", "")


def test_a_set_lives_as_long_as_a_thread_waits_in_it(pipe: Pipe) -> None:
    p = set_of({pipe.reading: POLLIN})
    reference = weakref.ref(p)
    thread = waiting_thread(p)
    del p
    gc.collect()
    for _ in range(100):
        Poll().register(0, 0)
    os.write(pipe.writing, b"x")
    assert thread.join() == [(pipe.reading, POLLIN)]
    del thread
    while PYPY and reference() is not None:
        gc.collect()
    assert reference() is None


@pytest.mark.parametrize("end", ["asleep", "woken", "in atexit"])
def test_the_interpreter_can_end_while_threads_wait(end: str, tmp_path: Path) -> None:
    # PyPy calls no __del__ when it ends.
    output = "woken" if end == "woken" and not PYPY else ""
    for _ in range(2):
        assert ran("exiting", tmp_path, end, env=OVERWRITING) == (0, output, "")


def test_a_set_can_poll_while_the_interpreter_ends(tmp_path: Path) -> None:
    looks = 1 if PYPY else 3  # PyPy ends without finalizing
    assert ran("finalized", tmp_path, env=OVERWRITING) == (0, "finalized " * looks, "")
