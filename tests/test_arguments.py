"""Which descriptors and event masks are accepted, and which exceptions the others raise.

A refused call changes nothing. Timeouts are in test_timeouts.py.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import sys
import warnings
from typing import Any, Callable
from unittest import mock

import pytest

from pypoll import POLLIN, POLLOUT, Poll, PollEvent, poll_fd
from support import (
    C_INT_MAX,
    NEVER_OPENED,
    RAISED,
    FileLike,
    Index,
    LyingInt,
    OnlyInt,
    Pipe,
    Refusal,
    contents,
    error_of,
    needs_recent_select,
    nothing_changes,
    rows,
    set_of,
)

DescriptorCall = Callable[[Poll, Any], object]
MaskCall = Callable[[Poll, Any, Any], object]


class IntWithFileno(int):
    def fileno(self) -> int:
        raise AssertionError("an int is its own descriptor")


class NotCallable:
    fileno = 0


class Property:
    """Has a fileno whose lookup raises *error*."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @property
    def fileno(self) -> Callable[[], int]:
        raise self.error


CLOSED_SOCKET = socket.socket()
CLOSED_SOCKET.close()

MAX = str(C_INT_MAX)
WANTED = ("int", "fileno()")
RANGE = ("0 to 65535",)

REFUSED_DESCRIPTORS = {
    "-1": Refusal(-1, ValueError, ("-1", "negative")),
    "-2**31": Refusal(-(2**31), ValueError, (str(-(2**31)), "negative")),
    "-2**31-1": Refusal(-(2**31) - 1, OverflowError, (str(-(2**31) - 1), MAX)),
    "2**31": Refusal(2**31, OverflowError, (str(2**31), MAX)),
    "2**64+1": Refusal(2**64 + 1, OverflowError, (str(2**64 + 1), MAX)),
    "2**128": Refusal(2**128, OverflowError, ("an int of 129 bits", MAX)),
    "an int subclass of -1": Refusal(LyingInt(-1), ValueError, ("-1", "negative")),
    "an int subclass of 2**31": Refusal(LyingInt(2**31), OverflowError, (str(2**31), MAX)),
    "a float": Refusal(1.0, TypeError, ("1.0", *WANTED)),
    "a str": Refusal("3", TypeError, ("'3'", *WANTED)),
    "None": Refusal(None, TypeError, ("None", *WANTED)),
    "an object": Refusal(object(), TypeError, ("an object", *WANTED)),
    "an object with __index__": Refusal(Index(3), TypeError, ("Index", *WANTED)),
    "an object with __int__": Refusal(OnlyInt(), TypeError, ("OnlyInt", *WANTED)),
    "fileno is not callable": Refusal(NotCallable(), TypeError),
    "fileno is a property without a value": Refusal(
        Property(AttributeError("gone")), TypeError, ("Property", *WANTED)
    ),
    "fileno() returns a str": Refusal(FileLike("3"), TypeError, ("'3'", *WANTED)),
    "fileno() returns an __index__": Refusal(FileLike(Index(3)), TypeError, ("Index", *WANTED)),
    "fileno() returns 2**31": Refusal(FileLike(2**31), OverflowError, (str(2**31), MAX)),
    "fileno() returns an int subclass": Refusal(FileLike(LyingInt(-1)), ValueError, ("negative",)),
    "a closed socket": Refusal(CLOSED_SOCKET, ValueError, ("negative", "(-1)", "is closed")),
}

# Each makes something that stands for the descriptor.
ACCEPTED_DESCRIPTORS: dict[str, Callable[[int], Any]] = {
    "an int": int,
    "an int subclass": LyingInt,
    "an int subclass that has fileno": IntWithFileno,
    "an object with fileno()": FileLike,
    "fileno() returns an int subclass": lambda fd: FileLike(LyingInt(fd)),
}

REFUSED_MASKS = {
    "-1": Refusal(-1, ValueError, ("-1", *RANGE)),
    "-2**64": Refusal(-(2**64), ValueError, (str(-(2**64)), *RANGE)),
    "65536": Refusal(65536, OverflowError, ("65536", *RANGE)),
    "2**64+1": Refusal(2**64 + 1, OverflowError, (str(2**64 + 1), *RANGE)),
    "an int subclass of -1": Refusal(LyingInt(-1), ValueError, ("-1", *RANGE)),
    "an int subclass of 65536": Refusal(LyingInt(65536), OverflowError, ("65536", *RANGE)),
    "__index__() returns -1": Refusal(Index(-1), ValueError, ("-1", *RANGE)),
    "__index__() returns 65536": Refusal(Index(65536), OverflowError, ("65536", *RANGE)),
    "__index__() returns a str": Refusal(Index("1"), TypeError, ("__index__", "int", "str")),
    "a float": Refusal(1.0, TypeError, ("1.0", "int")),
    "None": Refusal(None, TypeError, ("None", "int")),
    "a str": Refusal("1", TypeError, ("'1'", "int")),
    "an object with __int__": Refusal(OnlyInt(), TypeError, ("OnlyInt", "int")),
    "an object with fileno()": Refusal(FileLike(1), TypeError, ("FileLike", "int")),
}

# The mask that is passed, and the one that counts.
ACCEPTED_MASKS: dict[str, tuple[Any, int]] = {
    "0": (0, 0),
    "True": (True, 1),
    "POLLIN | POLLOUT": (POLLIN | POLLOUT, POLLIN | POLLOUT),
    "the sign bit of a short": (0x8000, 0x8000),
    "65535": (65535, 65535),
    "an int subclass": (LyingInt(POLLIN), POLLIN),
    "a PollEvent": (PollEvent.POLLIN | PollEvent.POLLOUT, POLLIN | POLLOUT),
    "__index__()": (Index(POLLIN), POLLIN),
    "__index__() returns an int subclass": (Index(LyingInt(POLLOUT)), POLLOUT),
}

DESCRIPTOR_CALLS: dict[str, DescriptorCall] = {
    "register": lambda p, fd: p.register(fd),
    "modify": lambda p, fd: p.modify(fd, POLLOUT),
    "unregister": lambda p, fd: p.unregister(fd),
    "in": lambda p, fd: fd in p,
    "[]": lambda p, fd: p[fd],
    "poll_fd": lambda _, fd: poll_fd(fd, POLLIN, 0),
}

MASK_CALLS: dict[str, MaskCall] = {
    "register": lambda p, fd, mask: p.register(fd, mask),
    "modify": lambda p, fd, mask: p.modify(fd, mask),
    "poll_fd": lambda _, fd, mask: poll_fd(fd, mask, 0),
}


@pytest.fixture
def p(pipe: Pipe) -> Poll:
    """A set of both ends of a pipe, the writing one first, and a number that is not open."""
    os.write(pipe.writing, b"x")
    return set_of({pipe.writing: POLLOUT, NEVER_OPENED: 0, pipe.reading: POLLIN})


# ---- Descriptors -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
@pytest.mark.parametrize("refusal", rows(REFUSED_DESCRIPTORS))
def test_a_bad_descriptor_is_refused_and_changes_nothing(
    p: Poll, refusal: Refusal, call: DescriptorCall
) -> None:
    with nothing_changes(p):
        refusal.check(call, p, refusal.value)


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
def test_exceptions_of_fileno_propagate_and_change_nothing(p: Poll, call: DescriptorCall) -> None:
    with nothing_changes(p):
        for raised in (*RAISED, AttributeError("no")):
            assert error_of(call, p, FileLike(raised)) is raised
        for raised in RAISED:
            assert error_of(call, p, Property(raised)) is raised


@pytest.mark.parametrize("number", [0, NEVER_OPENED, C_INT_MAX])
@pytest.mark.parametrize("kind", rows(ACCEPTED_DESCRIPTORS))
def test_a_descriptor_is_an_int_or_an_object_with_fileno(
    kind: Callable[[int], Any], number: int
) -> None:
    p, fd = Poll(), kind(number)
    assert fd not in p
    p.register(fd, 0)
    assert fd in p
    p.modify(fd, POLLIN)
    assert p[fd] == p[number] == POLLIN
    assert list(p) == [number]
    assert type(next(iter(p))) is int
    assert poll_fd(fd, 0, 0) == poll_fd(number, 0, 0)
    p.unregister(fd)
    assert list(p) == []


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
@pytest.mark.parametrize("fd", [False, True])
def test_a_bool_is_a_descriptor_with_a_warning_where_it_was_passed(
    p: Poll, fd: bool, call: DescriptorCall
) -> None:
    with nothing_changes(p), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert type(error_of(call, p, fd)) is RuntimeWarning
    p.register(int(fd), 0)
    with pytest.warns(RuntimeWarning, match=r"^bool is used as a file descriptor$") as caught:
        call(p, fd)
    (warning,) = caught
    # The warning names the lambda in the table, which called the library.
    assert (warning.filename, warning.lineno) == (__file__, call.__code__.co_firstlineno)


@pytest.mark.parametrize("kind", [int, LyingInt, FileLike])
@pytest.mark.parametrize("fd", [0, C_INT_MAX])
def test_changing_an_unregistered_descriptor_raises_an_error_that_names_it(
    p: Poll, fd: int, kind: Callable[[int], Any]
) -> None:
    with nothing_changes(p):
        modified = error_of(p.modify, kind(fd), POLLIN)
        assert type(modified) is FileNotFoundError
        assert modified.args == (2, "No such file or directory")
        for call in p.unregister, p.__getitem__:
            missing = error_of(call, kind(fd))
            assert type(missing) is KeyError
            assert missing.args == (fd,)
            assert type(missing.args[0]) is int


# ---- Event masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", rows(MASK_CALLS))
@pytest.mark.parametrize("refusal", rows(REFUSED_MASKS))
def test_a_bad_event_mask_is_refused_and_changes_nothing(
    p: Poll, pipe: Pipe, refusal: Refusal, call: MaskCall
) -> None:
    with nothing_changes(p):
        refusal.check(call, p, pipe.reading, refusal.value)
        # The mask is checked before membership.
        refusal.check(call, p, NEVER_OPENED - 2, refusal.value)


@pytest.mark.filterwarnings("ignore:.*__index__:DeprecationWarning")
@pytest.mark.parametrize("row", rows(ACCEPTED_MASKS))
def test_a_mask_is_an_int_of_16_bits(pipe: Pipe, ready: int, row: tuple[Any, int]) -> None:
    mask, plain = row
    p = set_of({ready: mask, pipe.writing: 0})
    p.modify(pipe.writing, mask)
    assert contents(p) == {ready: plain, pipe.writing: plain}
    assert [type(p[fd]) for fd in p] == [int, int]
    events = dict(p.poll(0))
    assert bool(events.get(ready, 0) & POLLIN) == bool(plain & POLLIN)
    assert bool(events.get(pipe.writing, 0) & POLLOUT) == bool(plain & POLLOUT)
    for fd in pipe:
        assert poll_fd(fd, mask, 0) == events.get(fd, 0)


# ---- The order of the checks -----------------------------------------------------------------


@pytest.mark.parametrize("call", rows(MASK_CALLS))
def test_the_descriptor_is_checked_before_the_mask(p: Poll, call: MaskCall) -> None:
    for fd, mask in itertools.product(("-1", "2**31", "a str"), ("-1", "2**64+1", "a str")):
        refusal = REFUSED_DESCRIPTORS[fd]
        refusal.check(call, p, refusal.value, REFUSED_MASKS[mask].value)


def test_poll_fd_checks_the_timeout_last() -> None:
    for fd in REFUSED_DESCRIPTORS.values():
        fd.check(poll_fd, fd.value, POLLIN, float("nan"))
    for mask in REFUSED_MASKS.values():
        mask.check(poll_fd, NEVER_OPENED, mask.value, float("nan"))


@pytest.mark.parametrize("call", rows(MASK_CALLS))
def test_fileno_and_index_are_called_once_each_and_in_this_order(
    p: Poll, pipe: Pipe, call: MaskCall
) -> None:
    witness = mock.MagicMock()
    witness.fileno.return_value = pipe.reading
    call(p, witness, witness)
    assert witness.mock_calls == [mock.call.fileno(), mock.call.__index__()]


# ---- As select.poll --------------------------------------------------------------------------


@needs_recent_select
def test_select_poll_refuses_the_same_arguments() -> None:
    theirs = select.poll()
    for fd in REFUSED_DESCRIPTORS.values():
        assert type(error_of(theirs.register, fd.value)) is fd.error
        assert type(error_of(theirs.modify, fd.value, POLLIN)) is fd.error
        assert type(error_of(theirs.unregister, fd.value)) is fd.error
    for mask in REFUSED_MASKS.values():
        # select.poll calls __index__() of a mask from CPython 3.14 on.
        if sys.version_info >= (3, 14) or not isinstance(mask.value, Index):
            assert type(error_of(theirs.register, NEVER_OPENED, mask.value)) is mask.error
            assert type(error_of(theirs.modify, NEVER_OPENED, mask.value)) is mask.error
