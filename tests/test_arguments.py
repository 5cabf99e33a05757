"""Which descriptors and event masks are accepted, with which exception others are refused.

A refused argument changes nothing. Timeouts are in test_timeouts.py.
"""

from __future__ import annotations

import array
import enum
import io
import os
import select
import socket
import sys
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any, Callable

import pytest

from pypoll import POLLIN, POLLOUT, Poll, PollEvent, poll_fd
from support import (
    C_INT_MAX,
    NEVER_OPENED,
    RAISED,
    UNPRINTED,
    EqualToAll,
    FakeArray,
    FileLike,
    Impostor,
    Index,
    Interruption,
    LyingInt,
    OnlyFloat,
    OnlyInt,
    Pipe,
    Refusal,
    ReprRaises,
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


class FilenoNoMethod:
    fileno = 0


class FilenoProperty:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    @property
    def fileno(self) -> Callable[[], int]:
        raise self.error


class FilenoByGetattr:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error


class LongRepr:
    def __repr__(self) -> str:
        return "x" * 10_000_000


class FileOfEqualClass(FileLike, metaclass=EqualToAll):
    pass


class IndexOfEqualClass(Index, metaclass=EqualToAll):
    pass


class Colour(enum.IntEnum):
    RED = 1


def closed(file: Any) -> Any:
    file.close()
    return file


NEGATIVE = ("-1", "negative")
MAX = str(C_INT_MAX)
FILENO = ("int", "fileno()")

REFUSED_DESCRIPTORS = {
    "-1": Refusal(-1, ValueError, NEGATIVE),
    "-2**31": Refusal(-(2**31), ValueError, (str(-(2**31)), "negative")),
    "an int subclass of -1": Refusal(LyingInt(-1), ValueError, NEGATIVE),
    "-2**31-1": Refusal(-(2**31) - 1, OverflowError, (str(-(2**31) - 1), MAX)),
    "2**31": Refusal(2**31, OverflowError, (str(2**31), MAX)),
    "2**32+1": Refusal(2**32 + 1, OverflowError, (str(2**32 + 1), MAX)),
    "2**63": Refusal(2**63, OverflowError, (str(2**63), MAX)),
    "2**64+1": Refusal(2**64 + 1, OverflowError, (str(2**64 + 1), MAX)),
    "2**128-1": Refusal(2**128 - 1, OverflowError, (str(2**128 - 1), MAX)),
    "2**128": Refusal(2**128, OverflowError, ("an int of 129 bits", MAX)),
    "10**5000": Refusal(10**5000, OverflowError, ("an int of 16610 bits", MAX)),
    "-10**5000": Refusal(-(10**5000), OverflowError, ("int", MAX)),
    "an int subclass of 2**31": Refusal(LyingInt(2**31), OverflowError, (str(2**31), MAX)),
    "a float": Refusal(1.0, TypeError, ("1.0", *FILENO)),
    "a NaN": Refusal(float("nan"), TypeError, ("nan", *FILENO)),
    "a str": Refusal("3", TypeError, ("'3'", *FILENO)),
    "bytes": Refusal(b"3", TypeError, ("b'3'", *FILENO)),
    "None": Refusal(None, TypeError, ("None", *FILENO)),
    "a complex": Refusal(3j, TypeError, ("3j", *FILENO)),
    "a Fraction": Refusal(Fraction(3), TypeError, ("Fraction(3, 1)", *FILENO)),
    "a Decimal": Refusal(Decimal(3), TypeError, ("Decimal('3')", *FILENO)),
    "a list": Refusal([3], TypeError, ("[3]", *FILENO)),
    "a tuple": Refusal((3, POLLIN), TypeError, ("(3, ", *FILENO)),
    "a list of an int without a repr": Refusal([10**5000], TypeError, (UNPRINTED, *FILENO)),
    "an array": Refusal(array.array("i", [3]), TypeError, ("array", *FILENO)),
    "an object whose class is named array": Refusal(FakeArray(), TypeError, ("array", *FILENO)),
    "an object": Refusal(object(), TypeError, ("an object", *FILENO)),
    "an object without a repr": Refusal(ReprRaises(), TypeError, ("ReprRaises", "fileno()")),
    "an object with a long repr": Refusal(LongRepr(), TypeError, ("xxx", "fileno()")),
    "an object with __index__": Refusal(Index(3), TypeError, ("Index", *FILENO)),
    "an object with __int__": Refusal(OnlyInt(), TypeError, ("OnlyInt", *FILENO)),
    "an object that claims to be an int": Refusal(Impostor(int), TypeError),
    "fileno is no method": Refusal(FilenoNoMethod(), TypeError),
    "fileno() returns a str": Refusal(FileLike("3"), TypeError, ("'3'", *FILENO)),
    "fileno() returns None": Refusal(FileLike(None), TypeError, ("None", *FILENO)),
    "fileno() returns a float": Refusal(FileLike(3.0), TypeError, ("3.0", *FILENO)),
    "fileno() returns an __index__": Refusal(FileLike(Index(3)), TypeError, ("Index", *FILENO)),
    "fileno() returns a file": Refusal(FileLike(FileLike(3)), TypeError, ("a FileLike", *FILENO)),
    "fileno() returns -1": Refusal(FileLike(-1), ValueError, NEGATIVE),
    "fileno() returns 2**31": Refusal(FileLike(2**31), OverflowError, (str(2**31), MAX)),
    "fileno() returns 10**5000": Refusal(FileLike(10**5000), OverflowError, ("int", MAX)),
    "fileno() returns an int subclass": Refusal(FileLike(LyingInt(-1)), ValueError, NEGATIVE),
    "fileno is a property without value": Refusal(
        FilenoProperty(AttributeError("gone")), TypeError, ("FilenoProperty", "fileno()")
    ),
    "a closed file": Refusal(closed(open(os.devnull)), ValueError, ("closed file",)),  # noqa: SIM115
    "a closed socket": Refusal(closed(socket.socket()), ValueError, NEGATIVE),
    "a file without descriptor": Refusal(io.StringIO(), io.UnsupportedOperation, ("fileno",)),
}

# Each stands for the descriptor that it is made of.
ACCEPTED_DESCRIPTORS: dict[str, Callable[[int], Any]] = {
    "an int": int,
    "an int subclass that lies": LyingInt,
    "an int subclass that has fileno": IntWithFileno,
    "an object with fileno()": FileLike,
    "an object of a class that is equal to int": FileOfEqualClass,
    "fileno() returns an int subclass": lambda fd: FileLike(LyingInt(fd)),
}

RANGE = ("0 to 65535",)

REFUSED_MASKS = {
    "-1": Refusal(-1, ValueError, ("-1", *RANGE)),
    "-32768": Refusal(-32768, ValueError, ("-32768", *RANGE)),
    "-2**64": Refusal(-(2**64), ValueError, (str(-(2**64)), *RANGE)),
    "-10**5000": Refusal(-(10**5000), ValueError, ("int", *RANGE)),
    "an int subclass of -1": Refusal(LyingInt(-1), ValueError, ("-1", *RANGE)),
    "__index__() returns -1": Refusal(Index(-1), ValueError, ("-1", *RANGE)),
    "65536": Refusal(65536, OverflowError, ("65536", *RANGE)),
    "2**31": Refusal(2**31, OverflowError, (str(2**31), *RANGE)),
    "2**64+1": Refusal(2**64 + 1, OverflowError, (str(2**64 + 1), *RANGE)),
    "10**5000": Refusal(10**5000, OverflowError, ("int", *RANGE)),
    "an int subclass of 65536": Refusal(LyingInt(65536), OverflowError, ("65536", *RANGE)),
    "__index__() returns 65536": Refusal(Index(65536), OverflowError, ("65536", *RANGE)),
    "__index__() returns 10**5000": Refusal(Index(10**5000), OverflowError, ("int", *RANGE)),
    "a float": Refusal(1.0, TypeError, ("1.0", "int")),
    "a NaN": Refusal(float("nan"), TypeError, ("nan", "int")),
    "None": Refusal(None, TypeError, ("None", "int")),
    "a str": Refusal("1", TypeError, ("'1'", "int")),
    "a complex": Refusal(1j, TypeError, ("1j", "int")),
    "a Decimal": Refusal(Decimal(1), TypeError, ("Decimal('1')", "int")),
    "a list of an int without a repr": Refusal([10**5000], TypeError, (UNPRINTED, "int")),
    "an object": Refusal(object(), TypeError, ("object", "int")),
    "an object without a repr": Refusal(ReprRaises(), TypeError, ("ReprRaises", "int")),
    "an object with a long repr": Refusal(LongRepr(), TypeError, ("xxx", "int")),
    "an object with __int__": Refusal(OnlyInt(), TypeError, ("OnlyInt", "int")),
    "an object with __float__": Refusal(OnlyFloat(), TypeError, ("OnlyFloat", "int")),
    "an object that claims to be an int": Refusal(Impostor(int), TypeError),
    "an object with fileno()": Refusal(FileLike(1), TypeError, ("FileLike", "int")),
    "__index__() returns a str": Refusal(Index("1"), TypeError, ("__index__", "int", "str")),
    "__index__() returns None": Refusal(Index(None), TypeError, ("__index__", "int", "None")),
}

ACCEPTED_MASKS: dict[str, tuple[Any, int]] = {
    "0": (0, 0),
    "1": (1, 1),
    "POLLIN | POLLOUT": (POLLIN | POLLOUT, POLLIN | POLLOUT),
    "the sign bit of a short": (0x8000, 0x8000),
    "32767": (32767, 32767),
    "65535": (65535, 65535),
    "False": (False, 0),
    "True": (True, 1),
    "an int subclass that lies": (LyingInt(POLLIN), POLLIN),
    "an int subclass that lies about 65535": (LyingInt(65535), 65535),
    "an IntEnum": (Colour.RED, 1),
    "a PollEvent": (PollEvent.POLLIN | PollEvent.POLLOUT, POLLIN | POLLOUT),
    "__index__()": (Index(POLLIN), POLLIN),
    "__index__() of a class that is equal to int": (IndexOfEqualClass(POLLIN), POLLIN),
    "__index__() of 0": (Index(0), 0),
    "__index__() of 65535": (Index(65535), 65535),
}

DESCRIPTOR_CALLS: dict[str, DescriptorCall] = {
    "register": lambda p, fd: p.register(fd),
    "register with a mask": lambda p, fd: p.register(fd, POLLOUT),
    "modify": lambda p, fd: p.modify(fd, POLLOUT),
    "unregister": lambda p, fd: p.unregister(fd),
    "in": lambda p, fd: fd in p,
    "[]": lambda p, fd: p[fd],
    "poll_fd": lambda _, fd: poll_fd(fd),
    "poll_fd with a mask and a timeout": lambda _, fd: poll_fd(fd, POLLIN, 0),
}

MASK_CALLS: dict[str, MaskCall] = {
    "register": lambda p, fd, mask: p.register(fd, mask),
    "modify": lambda p, fd, mask: p.modify(fd, mask),
    "poll_fd": lambda _, fd, mask: poll_fd(fd, mask),
    "poll_fd with a timeout": lambda _, fd, mask: poll_fd(fd, mask, 0),
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
@pytest.mark.parametrize("raised", rows(RAISED))
@pytest.mark.parametrize("where", [FileLike, FilenoProperty, FilenoByGetattr])
def test_exceptions_of_fileno_propagate_and_change_nothing(
    p: Poll, where: Callable[[BaseException], Any], raised: BaseException, call: DescriptorCall
) -> None:
    with nothing_changes(p):
        assert error_of(call, p, where(raised)) is raised


@needs_recent_select
@pytest.mark.parametrize("refusal", rows(REFUSED_DESCRIPTORS))
def test_select_poll_refuses_the_same_descriptors(refusal: Refusal) -> None:
    theirs = select.poll()
    calls: list[Callable[..., object]] = [theirs.register, theirs.unregister]
    for call in [*calls, lambda fd: theirs.modify(fd, POLLIN)]:
        assert type(error_of(call, refusal.value)) is refusal.error


@pytest.mark.parametrize("number", [None, 0, 1, 2**15, 65536, 2**30, NEVER_OPENED, C_INT_MAX])
@pytest.mark.parametrize("kind", rows(ACCEPTED_DESCRIPTORS))
def test_a_descriptor_is_an_int_or_an_object_with_fileno(
    ready: int, kind: Callable[[int], Any], number: int | None
) -> None:
    p = Poll()
    plain = ready if number is None else number
    fd = kind(plain)
    assert fd not in p
    p.register(fd, POLLOUT)
    p.register(plain + 1 if plain < C_INT_MAX else 0, 7)
    assert fd in p
    assert p[fd] == POLLOUT
    p.modify(fd, POLLIN)
    assert p[plain] == POLLIN
    p.register(fd, 0)
    assert fd in p
    assert next(iter(contents(p).items())) == (plain, 0)
    assert [type(each) for each in p] == [int, int]
    if number is None:
        p.modify(fd, POLLIN)
        assert p.poll()[0] == (ready, POLLIN)
        assert poll_fd(fd) == POLLIN
        assert poll_fd(fd, POLLOUT, 0) == 0
    elif number >= NEVER_OPENED:
        assert poll_fd(fd, 0, 0) == poll_fd(number, 0, 0) != 0
    p.unregister(fd)
    assert plain not in p


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
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert caught[0].filename == __file__
    # The lambda of the table, which is what called the library.
    assert caught[0].lineno == call.__code__.co_firstlineno


# ---- Event masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", rows(MASK_CALLS))
@pytest.mark.parametrize("refusal", rows(REFUSED_MASKS))
def test_a_bad_event_mask_is_refused_and_changes_nothing(
    p: Poll, pipe: Pipe, refusal: Refusal, call: MaskCall
) -> None:
    with nothing_changes(p):
        refusal.check(call, p, pipe.reading, refusal.value)
        # Before it matters whether the descriptor is registered.
        refusal.check(call, p, NEVER_OPENED - 2, refusal.value)
    assert NEVER_OPENED - 2 not in p


@needs_recent_select
@pytest.mark.parametrize("refusal", rows(REFUSED_MASKS))
def test_select_poll_refuses_the_same_masks(refusal: Refusal) -> None:
    if isinstance(refusal.value, Index) and sys.version_info < (3, 14):
        pytest.skip("select.poll looks at __index__ of a mask from CPython 3.14 on")
    theirs = select.poll()
    for call in theirs.register, theirs.modify:
        assert type(error_of(call, NEVER_OPENED, refusal.value)) is refusal.error


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

# One for each way in which a mask is refused, and likewise the timeouts.
BAD_MASKS = (-1, 65536, "x", Index(Interruption()))
BAD_TIMEOUTS: tuple[Any, ...] = (float("nan"), 1e300, "x", Index(Interruption()))


@pytest.mark.parametrize("call", rows(MASK_CALLS))
@pytest.mark.parametrize("fd", rows(REFUSED_DESCRIPTORS))
def test_the_descriptor_is_checked_before_the_mask(p: Poll, fd: Refusal, call: MaskCall) -> None:
    with nothing_changes(p):
        for mask in BAD_MASKS:
            fd.check(call, p, fd.value, mask)


@pytest.mark.parametrize("timeout", BAD_TIMEOUTS, ids=repr)
def test_descriptor_and_mask_are_checked_before_the_timeout(timeout: Any) -> None:
    for fd in REFUSED_DESCRIPTORS.values():
        fd.check(poll_fd, fd.value, POLLIN, timeout)
    for mask in REFUSED_MASKS.values():
        mask.check(poll_fd, NEVER_OPENED, mask.value, timeout)


class Witness:
    """A descriptor and a mask that notes when it is asked."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[str] = []

    def fileno(self) -> int:
        self.asked.append("fileno")
        return self.number

    def __index__(self) -> int:
        self.asked.append("__index__")
        return POLLIN


def test_descriptor_and_mask_are_asked_once_each_and_in_this_order(p: Poll, pipe: Pipe) -> None:
    for call in MASK_CALLS.values():
        witness = Witness(pipe.reading)
        call(p, witness, witness)
        assert witness.asked == ["fileno", "__index__"]
    for name, descriptor_call in DESCRIPTOR_CALLS.items():
        p.register(pipe.reading)
        witness = Witness(pipe.reading)
        descriptor_call(p, witness)
        assert (name, witness.asked) == (name, ["fileno"])


# ---- Membership, and how arguments are passed ------------------------------------------------


@pytest.mark.parametrize("kind", [int, LyingInt, IntWithFileno, FileLike])
@pytest.mark.parametrize("fd", [0, NEVER_OPENED - 2, C_INT_MAX])
def test_changing_an_unregistered_descriptor_raises_an_error_that_names_it(
    p: Poll, fd: int, kind: Callable[[int], Any]
) -> None:
    for registered_before in (False, True):
        if registered_before:
            p.register(fd)
            p.unregister(fd)
        with nothing_changes(p):
            modified = error_of(p.modify, kind(fd), POLLIN)
            assert type(modified) is FileNotFoundError
            assert modified.args == (2, "No such file or directory")
            for call in p.unregister, p.__getitem__:
                missing = error_of(call, kind(fd))
                assert type(missing) is KeyError
                assert missing.args == (fd,)
                assert type(missing.args[0]) is int
            assert kind(fd) not in p


BAD_CALLS: dict[str, Callable[[Any], object]] = {
    "register()": lambda p: p.register(),
    "register(fd=)": lambda p: p.register(fd=1),
    "register(, eventmask=)": lambda p: p.register(1, eventmask=1),
    "register(,,)": lambda p: p.register(1, 1, 1),
    "modify(fd)": lambda p: p.modify(1),
    "modify(fd=, eventmask=)": lambda p: p.modify(fd=1, eventmask=1),
    "modify(, eventmask=)": lambda p: p.modify(1, eventmask=1),
    "modify(,,)": lambda p: p.modify(1, 1, 1),
    "unregister()": lambda p: p.unregister(),
    "unregister(fd=)": lambda p: p.unregister(fd=1),
    "unregister(,)": lambda p: p.unregister(1, 1),
    "poll(timeout=)": lambda p: p.poll(timeout=0),
    "poll(,)": lambda p: p.poll(0, 0),
    "ppoll(timeout=)": lambda p: p.ppoll(timeout=0),
    "ppoll(, sigmask=)": lambda p: p.ppoll(0, sigmask=None),
    "ppoll(,,)": lambda p: p.ppoll(0, None, 0),
    "poll_fd()": lambda _: poll_fd(),  # type: ignore[call-arg]
    "poll_fd(fd=)": lambda _: poll_fd(fd=0),  # type: ignore[call-arg]
    "poll_fd(, eventmask=)": lambda _: poll_fd(0, eventmask=1),  # type: ignore[call-arg]
    "poll_fd(,, timeout=)": lambda _: poll_fd(0, 1, timeout=0),  # type: ignore[call-arg]
    "poll_fd(,,,)": lambda _: poll_fd(0, 1, 0, 0),  # type: ignore[call-arg]
    "Poll(1)": lambda p: type(p)(1),
    "Poll(None)": lambda p: type(p)(None),
}


@pytest.mark.parametrize("call", rows(BAD_CALLS))
def test_arguments_are_positional_only_and_counted(p: Poll, call: Callable[[Any], object]) -> None:
    with nothing_changes(p):
        assert type(error_of(call, p)) is TypeError
