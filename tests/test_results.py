"""What poll() returns: the four points of the seed, the contract's results, what Linux reports.

Everything is polled on real descriptors. The sizes of the larger sets lie around 256, for the
library takes so many results at a time from its compiled part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable, NamedTuple

import pytest

import pypoll
from pypoll import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, Poll, poll_fd
from pypoll.library import lib

HAS_PPOLL = bool(lib.pypoll_has_ppoll())
C_INT_MAX = 2**31 - 1
NEVER_OPENED = C_INT_MAX - 5
DEFAULT_MASK = POLLIN | POLLPRI | POLLOUT

# Not every system has it; the rows that need it are Linux's.
POLLRDHUP: int = getattr(pypoll, "POLLRDHUP", 0)

SIZES = [0, 1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 768, 769, 1000]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="observed on Linux")
on_cpython = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="select.poll keeps the order on CPython alone"
)


def rows(table: dict[str, Any]) -> list[Any]:
    """Return a table as the parameters of a test."""
    return [pytest.param(row, id=name) for name, row in table.items()]


class Pipe(NamedTuple):
    reading: int
    writing: int


class Descriptors:
    """Opens descriptors, and closes at the end those that are still its own."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: set[int] = set()

    def own(self, fd: int) -> int:
        self._open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._open.remove(fd)
        os.close(fd)

    def close_all(self) -> None:
        self._stack.close()
        for fd in list(self._open):
            self.close(fd)

    def pipe(self, waiting: bytes = b"") -> Pipe:
        reading, writing = os.pipe()
        if waiting:
            os.write(writing, waiting)
        return Pipe(self.own(reading), self.own(writing))

    def ready(self, count: int) -> list[int]:
        """Return so many descriptors that are readable."""
        reading = self.pipe(b"x").reading
        return [self.own(os.dup(reading)) for _ in range(count)]

    def socket_pair(self) -> tuple[socket.socket, socket.socket]:
        one, other = socket.socketpair()
        return self._stack.enter_context(one), self._stack.enter_context(other)

    def tcp_socket(self) -> socket.socket:
        return self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))

    def tcp_pair(self) -> tuple[socket.socket, socket.socket]:
        listening, one = self.tcp_socket(), self.tcp_socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        one.connect(listening.getsockname())
        other, _ = listening.accept()
        return one, self._stack.enter_context(other)


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    descriptors = Descriptors()
    yield descriptors
    descriptors.close_all()


@pytest.fixture
def pipe(descriptors: Descriptors) -> Pipe:
    return descriptors.pipe()


@contextlib.contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """Set the limit of open descriptors, which is also that of poll(2), for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Room for some thousand open descriptors, where the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"no more than {hard} descriptors allowed")
        with descriptor_limit(wanted):
            yield
    else:
        yield


def high_number() -> int:
    """Return a number that nothing gets which is opened meanwhile."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 900 if soft == resource.RLIM_INFINITY else min(soft - 1, 900)


def through_poll(fd: int, mask: int) -> int:
    p = Poll()
    p.register(fd, mask)
    ready = p.poll(0)
    assert [number for number, _ in ready] == [fd] * len(ready)
    assert len(ready) <= 1
    return ready[0][1] if ready else 0


def through_ppoll(fd: int, mask: int) -> int:
    p = Poll()
    p.register(fd, mask)
    return dict(p.ppoll(0, ())).get(fd, 0)


def through_modify(fd: int, mask: int) -> int:
    p = Poll()
    p.register(fd, 0)
    p.modify(fd, mask)
    return dict(p.poll(0)).get(fd, 0)


# Each looks at once what one descriptor has ready.
LOOKS = [
    pytest.param(through_poll, id="poll"),
    pytest.param(through_modify, id="modify"),
    pytest.param(
        through_ppoll,
        id="ppoll",
        marks=pytest.mark.skipif(not HAS_PPOLL, reason="built without ppoll(2)"),
    ),
    pytest.param(lambda fd, mask: poll_fd(fd, mask, 0), id="poll_fd"),
]

Look = Callable[[int, int], int]


# ---- The seed, point by point --------------------------------------------------------------


def test_1_a_descriptor_is_registered_with_a_default_mask(pipe: Pipe) -> None:
    p = Poll()
    assert p.register(pipe.reading) is None  # type: ignore[func-returns-value]
    assert p[pipe.reading] == DEFAULT_MASK
    assert p.poll(0) == []
    p.register(pipe.writing)
    assert p.poll(0) == [(pipe.writing, POLLOUT)]


@pytest.mark.parametrize("kind", ["int", "file object", "socket"])
def test_1_a_descriptor_is_an_int_or_has_fileno(descriptors: Descriptors, kind: str) -> None:
    one, other = descriptors.socket_pair()
    other.send(b"x")
    with open(one.fileno(), "rb", closefd=False) as file:
        fd: Any = {"int": one.fileno(), "file object": file, "socket": one}[kind]
        p = Poll()
        p.register(fd, POLLIN)
        assert p.poll() == [(one.fileno(), POLLIN)]
        p.modify(fd, POLLOUT)
        assert p.poll() == [(one.fileno(), POLLOUT)]
        p.unregister(fd)
        assert p.poll(0) == []


def test_1_registering_again_replaces_the_mask_and_keeps_the_place(
    descriptors: Descriptors,
) -> None:
    first, second, third = descriptors.ready(3)
    p = Poll()
    for fd in first, second, third:
        p.register(fd, 0)
    p.register(first, POLLIN)
    p.register(third, POLLIN)
    p.register(second, POLLIN)
    p.register(first, POLLIN)
    assert p.poll() == [(first, POLLIN), (second, POLLIN), (third, POLLIN)]
    p.register(first, POLLOUT)
    assert p.poll() == [(second, POLLIN), (third, POLLIN)]
    assert len(p) == 3


def test_2_unregister_removes_and_raises_keyerror_for_the_unknown(pipe: Pipe) -> None:
    p = Poll()
    with pytest.raises(KeyError) as caught:
        p.unregister(pipe.writing)
    assert type(caught.value) is KeyError
    assert caught.value.args == (pipe.writing,)
    p.register(pipe.writing)
    assert p.unregister(pipe.writing) is None  # type: ignore[func-returns-value]
    assert p.poll(0) == []
    with pytest.raises(KeyError):
        p.unregister(pipe.writing)


def test_3_poll_returns_pairs_of_descriptor_and_event(pipe: Pipe) -> None:
    p = Poll()
    p.register(pipe.reading, POLLIN)
    p.register(pipe.writing, POLLOUT)
    assert p.poll() == [(pipe.writing, POLLOUT)]
    os.write(pipe.writing, b"x")
    assert p.poll() == [(pipe.reading, POLLIN), (pipe.writing, POLLOUT)]


def test_3_an_empty_list_says_that_time_ran_out(pipe: Pipe) -> None:
    p = Poll()
    p.register(pipe.reading, POLLIN)
    start = time.monotonic_ns()
    assert p.poll(30) == []
    assert time.monotonic_ns() - start >= 30_000_000


@pytest.mark.parametrize("args", [(), (None,), (-1,)])
def test_3_without_timeout_poll_blocks_until_there_is_an_event(
    pipe: Pipe, args: tuple[Any, ...]
) -> None:
    p = Poll()
    p.register(pipe.reading, POLLIN)
    timer = threading.Timer(0.05, os.write, (pipe.writing, b"x"))
    timer.start()
    try:
        assert p.poll(*args) == [(pipe.reading, POLLIN)]
    finally:
        timer.join()


def test_4_there_are_six_constants() -> None:
    names = ["POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL"]
    values = {getattr(pypoll, name) for name in names}
    assert len(values) == 6
    for value in values:
        assert type(value) is int
        assert 0 < value <= 0xFFFF


def test_modify_of_the_unregistered_is_enoent(pipe: Pipe) -> None:
    p = Poll()
    with pytest.raises(OSError, match="No such file or directory") as caught:
        p.modify(pipe.reading, POLLIN)
    assert type(caught.value) is FileNotFoundError
    assert caught.value.errno == errno.ENOENT
    assert caught.value.args == (2, "No such file or directory")


# ---- What Linux reports --------------------------------------------------------------------


def reader_without_writer(d: Descriptors) -> int:
    pipe = d.pipe()
    d.close(pipe.writing)
    return pipe.reading


def writer_without_reader(d: Descriptors) -> int:
    pipe = d.pipe()
    d.close(pipe.reading)
    return pipe.writing


def half_closed_socket(d: Descriptors) -> int:
    one, other = d.socket_pair()
    other.shutdown(socket.SHUT_WR)
    return one.fileno()


def half_closed_tcp(d: Descriptors) -> int:
    one, other = d.tcp_pair()
    other.shutdown(socket.SHUT_WR)
    # The segment that says so takes a moment, also on the loopback device.
    assert poll_fd(one, POLLIN, 5000) == POLLIN
    return one.fileno()


def out_of_band_byte(d: Descriptors) -> int:
    one, other = d.tcp_pair()
    other.send(b"!", socket.MSG_OOB)
    assert poll_fd(one, POLLPRI, 5000) == POLLPRI
    return one.fileno()


def unconnected_tcp(d: Descriptors) -> int:
    return d.tcp_socket().fileno()


def regular_file(d: Descriptors) -> int:
    return d.own(os.open(__file__, os.O_RDONLY))


def directory(d: Descriptors) -> int:
    return d.own(os.open(os.path.dirname(__file__), os.O_RDONLY))


def null_device(d: Descriptors) -> int:
    return d.own(os.open(os.devnull, os.O_RDWR))


def path_only(d: Descriptors) -> int:
    # PyPy's os lacks the name; the number is the same on all of Linux but alpha, parisc, sparc.
    flag = getattr(os, "O_PATH", 0o10000000)
    return d.own(os.open(__file__, flag))


def closed(d: Descriptors) -> int:
    number = os.dup2(d.pipe().reading, high_number())
    os.close(number)
    return number


def never_opened(_: Descriptors) -> int:
    return NEVER_OPENED


def largest_number(_: Descriptors) -> int:
    return C_INT_MAX


def eventfd(d: Descriptors, value: int) -> int:
    make = getattr(os, "eventfd", None)
    if make is None:
        pytest.skip("os.eventfd is of CPython 3.10")
    return d.own(make(value))


def eventfd_at_0(d: Descriptors) -> int:
    return eventfd(d, 0)


def eventfd_at_1(d: Descriptors) -> int:
    return eventfd(d, 1)


def master_without_slave(d: Descriptors) -> int:
    master, slave = os.openpty()
    os.close(slave)
    return d.own(master)


Opened = Callable[[Descriptors], int]

OBSERVED: dict[str, tuple[Opened, int, int]] = {
    "reader without writer, 0": (reader_without_writer, 0, POLLHUP),
    "reader without writer, IN": (reader_without_writer, POLLIN, POLLHUP),
    "writer without reader, 0": (writer_without_reader, 0, POLLERR),
    "writer without reader, OUT": (writer_without_reader, POLLOUT, POLLERR | POLLOUT),
    "half closed socket, IN": (half_closed_socket, POLLIN, POLLIN),
    "half closed socket, RDHUP": (half_closed_socket, POLLRDHUP, POLLRDHUP),
    "half closed socket, both": (
        half_closed_socket,
        POLLIN | POLLRDHUP,
        POLLIN | POLLRDHUP,
    ),
    "half closed TCP, IN": (half_closed_tcp, POLLIN, POLLIN),
    "half closed TCP, RDHUP": (half_closed_tcp, POLLRDHUP, POLLRDHUP),
    "half closed TCP, both": (half_closed_tcp, POLLIN | POLLRDHUP, POLLIN | POLLRDHUP),
    "TCP out-of-band byte, PRI": (out_of_band_byte, POLLPRI, POLLPRI),
    "TCP out-of-band byte, default": (out_of_band_byte, DEFAULT_MASK, POLLPRI | POLLOUT),
    "unconnected TCP, default": (unconnected_tcp, DEFAULT_MASK, POLLOUT | POLLHUP),
    "regular file, default": (regular_file, DEFAULT_MASK, POLLIN | POLLOUT),
    "directory, default": (directory, DEFAULT_MASK, POLLIN | POLLOUT),
    "/dev/null, default": (null_device, DEFAULT_MASK, POLLIN | POLLOUT),
    "O_PATH, default": (path_only, DEFAULT_MASK, POLLNVAL),
    "closed, default": (closed, DEFAULT_MASK, POLLNVAL),
    "closed, 0": (closed, 0, POLLNVAL),
    "never opened, default": (never_opened, DEFAULT_MASK, POLLNVAL),
    "never opened, 0": (never_opened, 0, POLLNVAL),
    "2**31-1, default": (largest_number, DEFAULT_MASK, POLLNVAL),
    "eventfd at 0": (eventfd_at_0, POLLIN | POLLOUT, POLLOUT),
    "eventfd at 1": (eventfd_at_1, POLLIN | POLLOUT, POLLIN | POLLOUT),
    "pty master without slave, default": (
        master_without_slave,
        DEFAULT_MASK,
        POLLOUT | POLLHUP,
    ),
    "pty master without slave, IN": (master_without_slave, POLLIN, POLLHUP),
}


@linux_only
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("row", rows(OBSERVED))
def test_linux_reports(descriptors: Descriptors, row: tuple[Opened, int, int], look: Look) -> None:
    opened, mask, event = row
    assert look(opened(descriptors), mask) == event


@linux_only
@pytest.mark.parametrize("row", rows(OBSERVED))
def test_select_poll_reports_the_same(
    descriptors: Descriptors, row: tuple[Opened, int, int]
) -> None:
    opened, _, _ = row
    fd = opened(descriptors)
    for mask in 0, POLLIN, POLLOUT, DEFAULT_MASK, POLLRDHUP, 0x7FFF, 0xFFFF:
        theirs, ours = select.poll(), Poll()
        theirs.register(fd, mask)
        ours.register(fd, mask)
        expected = theirs.poll(0)
        assert ours.poll(0) == expected
        assert poll_fd(fd, mask, 0) == dict(expected).get(fd, 0)


@linux_only
@pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "i686", "aarch64", "riscv64"),
    reason="other processors may have other numbers",
)
def test_the_events_are_the_numbers_that_were_observed(descriptors: Descriptors) -> None:
    numbers = {
        16: (reader_without_writer, 0),
        8: (writer_without_reader, 0),
        12: (writer_without_reader, POLLOUT),
        1: (half_closed_socket, POLLIN),
        8192: (half_closed_socket, POLLRDHUP),
        8193: (half_closed_socket, POLLIN | POLLRDHUP),
        2: (out_of_band_byte, POLLPRI),
        6: (out_of_band_byte, DEFAULT_MASK),
        20: (unconnected_tcp, DEFAULT_MASK),
        5: (regular_file, DEFAULT_MASK),
        32: (never_opened, DEFAULT_MASK),
    }
    for number, (opened, mask) in numbers.items():
        assert poll_fd(opened(descriptors), mask, 0) == number


# ---- The list ------------------------------------------------------------------------------


class Number(int):
    pass


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_each_result_is_a_fresh_list_of_plain_tuples_of_plain_ints(
    descriptors: Descriptors, count: int
) -> None:
    p = Poll()
    for fd in descriptors.ready(count):
        p.register(Number(fd), pypoll.PollEvent.POLLIN)
    lists = [p.poll(0), p.poll(0), p.ppoll(0), p.ppoll(0)]
    if HAS_PPOLL:
        lists.append(p.ppoll(0, ()))
    for result in lists:
        assert type(result) is list
        assert len(result) == count
        assert {type(pair) for pair in result} <= {tuple}
        assert {type(number) for pair in result for number in pair} <= {int}
    assert len({id(result) for result in lists}) == len(lists)
    for result in lists[1:]:
        assert result == lists[0]
    lists[0].clear()
    assert p.poll(0) == lists[1]


def test_the_least_event_of_the_least_descriptor_is_a_result(descriptors: Descriptors) -> None:
    ends = descriptors.pipe(b"x")
    before = os.dup(0)
    try:
        os.dup2(ends.reading, 0)
        p = Poll()
        p.register(0, POLLIN)
        mask: list[int] | None = [] if lib.pypoll_has_ppoll() else None
        assert p.poll() == p.poll(0) == p.poll(1) == p.ppoll(None, mask) == [(0, POLLIN)]
        assert poll_fd(0, POLLIN) == poll_fd(0, POLLIN, 0) == POLLIN
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_poll_fd_returns_a_plain_int(pipe: Pipe) -> None:
    assert type(poll_fd(Number(pipe.writing), pypoll.PollEvent.POLLOUT, 0)) is int
    assert type(poll_fd(Number(pipe.reading), POLLIN, 0)) is int


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("many_descriptors")
def test_results_are_in_the_order_of_registration(descriptors: Descriptors, size: int) -> None:
    fds = descriptors.ready(size)
    random.Random(size).shuffle(fds)
    p = Poll()
    for fd in fds:
        p.register(fd, POLLIN)
    for _ in range(2):
        assert p.poll(0) == [(fd, POLLIN) for fd in fds]
    assert list(p) == fds
    assert len(p) == size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("many_descriptors")
def test_what_is_not_ready_is_left_out(descriptors: Descriptors, size: int) -> None:
    ready = descriptors.ready(size)
    idle = descriptors.pipe().reading
    p = Poll()
    for fd in ready:
        p.register(fd, POLLIN)
        p.register(descriptors.own(os.dup(idle)), POLLIN)
    p.register(idle, POLLIN)
    assert p.poll(0) == [(fd, POLLIN) for fd in ready]


@pytest.mark.parametrize("size", [2, 256, 300, 1000])
@pytest.mark.usefixtures("many_descriptors")
def test_unregister_and_register_moves_to_the_end(descriptors: Descriptors, size: int) -> None:
    fds = descriptors.ready(size)
    chance = random.Random(size)
    p = Poll()
    for fd in fds:
        p.register(fd, POLLIN)
    for _ in range(3):
        moved = chance.sample(fds, size // 2)
        for fd in moved:
            p.unregister(fd)
        kept = [fd for fd in fds if fd not in moved]
        assert p.poll(0) == [(fd, POLLIN) for fd in kept]
        fds = kept + moved
        for fd in moved:
            p.register(fd, POLLIN)
        assert p.poll(0) == [(fd, POLLIN) for fd in fds]
        assert list(p) == fds


@pytest.mark.parametrize("size", [1, 256, 257, 300])
def test_unregistering_all_leaves_nothing(size: int) -> None:
    p = Poll()
    fds = list(range(NEVER_OPENED - size, NEVER_OPENED))
    for order in fds, fds[::-1], random.Random(size).sample(fds, size):
        for fd in fds:
            p.register(fd)
        for fd in order:
            p.unregister(fd)
        assert p.poll(0) == []
        assert list(p) == []
        assert len(p) == 0


STEPS = 4000


@pytest.mark.parametrize("seed", range(4))
def test_a_set_is_an_ordered_dict(descriptors: Descriptors, seed: int) -> None:
    chance = random.Random(seed)
    available: dict[int, int] = {}
    for fd in descriptors.ready(30):
        available[fd] = POLLIN
    for _ in range(15):
        reading, writing = descriptors.pipe()
        available[reading] = 0
        available[writing] = POLLOUT
    for number in chance.sample(range(100_000, C_INT_MAX + 1), 120):
        available[number] = POLLNVAL
    # Numbers whose low bits agree are the worst of a hash table.
    for high in range(1, 20):
        available[high << 20 | 1 << 30] = POLLNVAL
    masks = [0, POLLIN, POLLOUT, POLLIN | POLLOUT, POLLPRI]
    fds = list(available)

    p = Poll()
    theirs = select.poll() if sys.implementation.name == "cpython" else None
    model: dict[int, int] = {}
    for step in range(STEPS):
        # By turns it tends to grow, and to shrink.
        growing = step // 400 % 2 == 0
        action = chance.choices(
            ["register", "unregister", "modify"], [5, 2, 2] if growing else [2, 5, 2]
        )[0]
        fd, mask = chance.choice(fds), chance.choice(masks)
        if action == "register":
            p.register(fd, mask)
            model[fd] = mask
            if theirs:
                theirs.register(fd, mask)
        elif fd not in model:
            with pytest.raises(KeyError if action == "unregister" else FileNotFoundError):
                p.unregister(fd) if action == "unregister" else p.modify(fd, mask)
        elif action == "modify":
            p.modify(fd, mask)
            model[fd] = mask
            if theirs:
                theirs.modify(fd, mask)
        else:
            p.unregister(fd)
            del model[fd]
            if theirs:
                theirs.unregister(fd)
        assert len(p) == len(model)
        assert (fd in p) == (fd in model)
        if fd in model:
            assert p[fd] == model[fd]
        if step % 7 == 0:
            assert [(each, p[each]) for each in p] == list(model.items())
            always = {each for each in model if available[each] == POLLNVAL}
            expected = [
                (each, POLLNVAL if each in always else available[each] & mask)
                for each, mask in model.items()
                if each in always or available[each] & mask
            ]
            assert p.poll(0) == expected
            if theirs:
                assert theirs.poll(0) == expected


# ---- The events ----------------------------------------------------------------------------


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("mask", [0, POLLIN, POLLOUT, POLLERR | POLLHUP | POLLNVAL])
def test_error_hangup_and_invalid_are_reported_whatever_the_mask(
    descriptors: Descriptors, mask: int, look: Look
) -> None:
    assert look(writer_without_reader(descriptors), mask) & POLLERR
    assert look(reader_without_writer(descriptors), mask) & POLLHUP
    assert look(NEVER_OPENED, mask) == POLLNVAL


@pytest.mark.parametrize("look", LOOKS)
def test_mask_0_reports_nothing_else(descriptors: Descriptors, look: Look) -> None:
    ready = descriptors.pipe(b"x")
    assert look(ready.reading, 0) == 0
    assert look(ready.writing, 0) == 0


def test_mask_0_waits_for_a_hangup(descriptors: Descriptors) -> None:
    p = Poll()
    pipe = descriptors.pipe(b"x")
    p.register(pipe.reading, 0)
    timer = threading.Timer(0.05, descriptors.close, (pipe.writing,))
    timer.start()
    try:
        assert p.poll() == [(pipe.reading, POLLHUP)]
    finally:
        timer.join()


@pytest.mark.parametrize("look", LOOKS)
def test_events_have_every_bit_of_the_mask_that_is_ready(
    descriptors: Descriptors, look: Look
) -> None:
    pipe = descriptors.pipe(b"x")
    for fd in pipe:
        whole = look(fd, 0xFFFF)
        assert whole & 0xFFFF == whole
        for bit in (1 << shift for shift in range(16)):
            assert look(fd, bit) == whole & bit


def test_a_closed_descriptor_yields_pollnval_each_time(descriptors: Descriptors) -> None:
    p = Poll()
    other = descriptors.ready(1)[0]
    pipe = descriptors.pipe()
    number = descriptors.own(os.dup2(pipe.reading, high_number()))
    p.register(other, POLLIN)
    p.register(number, POLLIN)
    assert p.poll(0) == [(other, POLLIN)]
    descriptors.close(number)
    for _ in range(3):
        assert p.poll() == [(other, POLLIN), (number, POLLNVAL)]
        assert number in p
        assert len(p) == 2
        assert poll_fd(number) == POLLNVAL
    p.modify(number, 0)
    assert p.poll() == [(other, POLLIN), (number, POLLNVAL)]
    p.unregister(number)
    assert p.poll() == [(other, POLLIN)]


def test_a_number_that_is_opened_again_is_polled_as_what_it_is_then(
    descriptors: Descriptors,
) -> None:
    p = Poll()
    idle, waiting = descriptors.pipe(), descriptors.pipe(b"x")
    number = descriptors.own(os.dup2(idle.reading, high_number()))
    p.register(number, POLLIN)
    assert p.poll(0) == []
    descriptors.close(number)
    assert p.poll(0) == [(number, POLLNVAL)]
    descriptors.own(os.dup2(waiting.reading, number))
    assert p.poll(0) == [(number, POLLIN)]


def test_what_a_result_said_is_forgotten(descriptors: Descriptors) -> None:
    p = Poll()
    pipes = [descriptors.pipe(b"x") for _ in range(3)]
    for pipe in pipes:
        p.register(pipe.reading, POLLIN)
    assert len(p.poll(0)) == 3
    for left in (2, 1, 0):
        os.read(pipes[left].reading, 1)
        assert p.poll(0) == [(pipe.reading, POLLIN) for pipe in pipes[:left]]


# ---- Nothing registered --------------------------------------------------------------------


def test_an_empty_set_polls_to_an_empty_list() -> None:
    assert Poll().poll(0) == []
    assert Poll().ppoll(0) == []


@pytest.mark.parametrize("timeout", [1, 30, 2.5])
def test_an_empty_set_sleeps(timeout: float) -> None:
    start = time.monotonic_ns()
    assert Poll().poll(timeout) == []
    assert time.monotonic_ns() - start >= timeout * 1_000_000


# ---- More descriptors than the system allows -----------------------------------------------


def assert_einval(call: Callable[..., object], *args: object) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        call(*args)
    assert type(caught.value) is OSError
    assert caught.value.args == (errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.parametrize("timeout", [None, 0, 5, 2.5])
def test_more_descriptors_than_rlimit_nofile_are_einval_and_lose_nothing(
    timeout: Any,
) -> None:
    p = Poll()
    numbers = range(NEVER_OPENED - 200, NEVER_OPENED)
    masks = [(number, number & 7) for number in numbers]
    for number, mask in masks:
        p.register(number, mask)
    expected = [(number, POLLNVAL) for number in numbers]
    assert p.poll(0) == expected
    with descriptor_limit(199):
        for _ in range(2):
            assert_einval(p.poll, timeout)
            assert_einval(p.ppoll, timeout)
            if HAS_PPOLL:
                assert_einval(p.ppoll, timeout, ())
        assert [(fd, p[fd]) for fd in p] == masks
        p.unregister(numbers[100])
        assert p.poll(timeout) == expected[:100] + expected[101:]
        p.register(numbers[100])
        assert_einval(p.poll, timeout)
    assert p.poll(timeout) == expected[:100] + expected[101:] + [expected[100]]


def test_poll_fd_raises_einval_where_not_one_descriptor_is_allowed(pipe: Pipe) -> None:
    with descriptor_limit(0):
        assert_einval(poll_fd, pipe.writing, POLLOUT, 0)
        assert_einval(poll_fd, pipe.writing)
        assert Poll().poll(0) == []
    assert poll_fd(pipe.writing) == POLLOUT


@pytest.mark.parametrize("spread", ["first", "last", "every other", "at random"])
@pytest.mark.parametrize("removed", [1, 8, 17, 24, 100])
def test_what_was_unregistered_does_not_count_toward_rlimit_nofile(
    removed: int, spread: str
) -> None:
    p = Poll()
    numbers = list(range(NEVER_OPENED - 200, NEVER_OPENED))
    for number in numbers:
        p.register(number, POLLIN)
    gone = {
        "first": numbers[:removed],
        "last": numbers[-removed:],
        "every other": numbers[: 2 * removed : 2],
        "at random": random.Random(removed).sample(numbers, removed),
    }[spread]
    for number in gone:
        p.unregister(number)
    kept = [number for number in numbers if number not in gone]
    with descriptor_limit(len(kept)):
        assert p.poll(0) == [(number, POLLNVAL) for number in kept]
        assert p.poll() == [(number, POLLNVAL) for number in kept]
    with descriptor_limit(len(kept) - 1):
        assert_einval(p.poll)
    # The places of those that are left were kept in step.
    p.modify(kept[-1], POLLOUT)
    p.register(gone[0], POLLPRI)
    assert [(fd, p[fd]) for fd in p] == [
        *((number, POLLIN) for number in kept[:-1]),
        (kept[-1], POLLOUT),
        (gone[0], POLLPRI),
    ]


@on_cpython
def test_select_poll_raises_the_same_error_above_rlimit_nofile() -> None:
    theirs = select.poll()
    for number in range(NEVER_OPENED - 200, NEVER_OPENED):
        theirs.register(number)
    with descriptor_limit(100):
        assert_einval(theirs.poll, 0)
