"""What is a descriptor and what an event mask: the contract's tables, at every call.

Each table below is one of the contract's, with rows for numbers and objects that try to
deceive. Timeouts are in test_timeouts.py.
"""

from __future__ import annotations

import array
import enum
import io
import os
import reprlib
import select
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any, Callable, NamedTuple

import pytest

from pypoll import POLLIN, POLLOUT, Poll, PollEvent, poll_fd

C_INT_MAX = 2**31 - 1

# Nothing is open there: above every limit that tests are run with.
NEVER_OPENED = C_INT_MAX - 5

agrees_with_select = pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info < (3, 13),
    reason="select.poll follows the contract's exceptions on CPython from 3.13 on",
)


class LyingInt(int):
    """An int whose methods all tell of another number than the one C sees."""

    def __index__(self) -> int:
        return 7

    def __int__(self) -> int:
        return 7

    def __float__(self) -> float:
        return 7.0

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return False

    def __le__(self, other: object) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return False

    def __ge__(self, other: object) -> bool:
        return True

    def __and__(self, other: object) -> int:
        return 7

    def __add__(self, other: object) -> int:
        return 7

    def __mul__(self, other: object) -> int:
        return 7

    def __bool__(self) -> bool:
        return False

    __hash__ = int.__hash__


class IntWithFileno(int):
    def fileno(self) -> int:
        raise AssertionError("an int is its own descriptor")


class Colour(enum.IntEnum):
    RED = 1


class Index:
    """Has `__index__()` and nothing else."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __index__(self) -> int:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


class OnlyInt:
    def __int__(self) -> int:
        return 1


class OnlyFloat:
    def __float__(self) -> float:
        return 1.0


class FileLike:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def fileno(self) -> int:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


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


class ReprRaises:
    def __repr__(self) -> str:
        raise LookupError("no repr")


class LongRepr:
    def __repr__(self) -> str:
        return "x" * 10_000_000


class EqualToAll(type):
    """Makes classes that are equal to every other, int among them."""

    def __eq__(cls, other: object) -> bool:
        return True

    def __ne__(cls, other: object) -> bool:
        return False

    __hash__ = type.__hash__


class FileOfEqualClass(FileLike, metaclass=EqualToAll):
    pass


class IndexOfEqualClass(Index, metaclass=EqualToAll):
    pass


class Interruption(BaseException):
    """As KeyboardInterrupt, but nobody else raises it."""


class Impostor:
    """Claims to be an int."""

    @property  # type: ignore[misc] # an object's own can be assigned to
    def __class__(self) -> Any:
        return int


# reprlib chooses what to do by the name of a class alone.
FakeArray = type("array", (), {})


def closed_file() -> Any:
    file = open(os.devnull)  # noqa: SIM115 - closed is how it is wanted
    file.close()
    return file


def closed_socket() -> Any:
    sock = socket.socket()
    sock.close()
    return sock


# Where int refuses to print very many digits, a list of them is shown by its type, unless reprlib
# has an answer of its own, as in newer ones.
try:
    reprlib.repr([10**5000])
    UNPRINTED = "["
except ValueError:
    UNPRINTED = "list"


class Refusal(NamedTuple):
    """A bad argument, the exact type of the exception, and words of its message."""

    value: Any
    error: type[BaseException]
    words: tuple[str, ...] = ()


def rows(table: dict[str, Any]) -> list[Any]:
    """Return a table as the parameters of a test."""
    return [pytest.param(row, id=name) for name, row in table.items()]


REFUSED_DESCRIPTORS = {
    "-1": Refusal(-1, ValueError, ("-1", "negative")),
    "-2**31": Refusal(-(2**31), ValueError, (str(-(2**31)), "negative")),
    "an int subclass of -1": Refusal(LyingInt(-1), ValueError, ("-1", "negative")),
    "-2**31-1": Refusal(-(2**31) - 1, OverflowError, (str(-(2**31) - 1), str(C_INT_MAX))),
    "2**31": Refusal(2**31, OverflowError, (str(2**31), str(C_INT_MAX))),
    "2**32+1": Refusal(2**32 + 1, OverflowError, (str(2**32 + 1), str(C_INT_MAX))),
    "2**63": Refusal(2**63, OverflowError, (str(2**63), str(C_INT_MAX))),
    "2**64+1": Refusal(2**64 + 1, OverflowError, (str(2**64 + 1), str(C_INT_MAX))),
    "2**128-1": Refusal(2**128 - 1, OverflowError, (str(2**128 - 1), str(C_INT_MAX))),
    "2**128": Refusal(2**128, OverflowError, ("an int of 129 bits", str(C_INT_MAX))),
    "10**5000": Refusal(10**5000, OverflowError, ("an int of 16610 bits", str(C_INT_MAX))),
    "-10**5000": Refusal(-(10**5000), OverflowError, ("int", str(C_INT_MAX))),
    "an int subclass of 2**31": Refusal(
        LyingInt(2**31), OverflowError, (str(2**31), str(C_INT_MAX))
    ),
    "a float": Refusal(1.0, TypeError, ("1.0", "int", "fileno()")),
    "a NaN": Refusal(float("nan"), TypeError, ("nan", "int", "fileno()")),
    "a str": Refusal("3", TypeError, ("'3'", "int", "fileno()")),
    "bytes": Refusal(b"3", TypeError, ("b'3'", "int", "fileno()")),
    "None": Refusal(None, TypeError, ("None", "int", "fileno()")),
    "a complex": Refusal(3j, TypeError, ("3j", "int", "fileno()")),
    "a Fraction": Refusal(Fraction(3), TypeError, ("Fraction(3, 1)", "int", "fileno()")),
    "a Decimal": Refusal(Decimal(3), TypeError, ("Decimal('3')", "int", "fileno()")),
    "a list": Refusal([3], TypeError, ("[3]", "int", "fileno()")),
    "a tuple": Refusal((3, POLLIN), TypeError, ("(3, ", "int", "fileno()")),
    "a list of an int that has no repr": Refusal(
        [10**5000], TypeError, (UNPRINTED, "int", "fileno()")
    ),
    "an array": Refusal(array.array("i", [3]), TypeError, ("array", "int", "fileno()")),
    "an object whose class is named array": Refusal(
        FakeArray(), TypeError, ("array", "int", "fileno()")
    ),
    "an object": Refusal(object(), TypeError, ("an object", "int", "fileno()")),
    "an object without a repr": Refusal(ReprRaises(), TypeError, ("ReprRaises", "fileno()")),
    "an object with a long repr": Refusal(LongRepr(), TypeError, ("xxx", "fileno()")),
    "an object with __index__": Refusal(Index(3), TypeError, ("Index", "int", "fileno()")),
    "an object with __int__": Refusal(OnlyInt(), TypeError, ("OnlyInt", "int", "fileno()")),
    "an object that claims to be an int": Refusal(Impostor(), TypeError),
    "fileno is no method": Refusal(FilenoNoMethod(), TypeError),
    "fileno() returns a str": Refusal(FileLike("3"), TypeError, ("'3'", "fileno()", "int")),
    "fileno() returns None": Refusal(FileLike(None), TypeError, ("None", "fileno()", "int")),
    "fileno() returns a float": Refusal(FileLike(3.0), TypeError, ("3.0", "fileno()", "int")),
    "fileno() returns an __index__": Refusal(
        FileLike(Index(3)), TypeError, ("Index", "fileno()", "int")
    ),
    "fileno() returns another file": Refusal(
        FileLike(FileLike(3)), TypeError, ("a FileLike", "fileno()", "int")
    ),
    "fileno() returns -1": Refusal(FileLike(-1), ValueError, ("-1", "negative")),
    "fileno() returns 2**31": Refusal(FileLike(2**31), OverflowError, (str(2**31), str(C_INT_MAX))),
    "fileno() returns 10**5000": Refusal(
        FileLike(10**5000), OverflowError, ("int", str(C_INT_MAX))
    ),
    "fileno() returns -10**5000": Refusal(
        FileLike(-(10**5000)), OverflowError, ("int", str(C_INT_MAX))
    ),
    "fileno() returns an int subclass of -1": Refusal(
        FileLike(LyingInt(-1)), ValueError, ("-1", "negative")
    ),
    "fileno is a property without value": Refusal(
        FilenoProperty(AttributeError("gone")), TypeError, ("FilenoProperty", "fileno()")
    ),
    "a closed file": Refusal(closed_file(), ValueError, ("closed file",)),
    "a closed socket": Refusal(closed_socket(), ValueError, ("-1", "negative")),
    "a file without descriptor": Refusal(io.StringIO(), io.UnsupportedOperation, ("fileno",)),
}

RAISING_DESCRIPTORS: dict[str, Callable[[BaseException], Any]] = {
    "fileno()": FileLike,
    "a property": FilenoProperty,
    "__getattr__": FilenoByGetattr,
}

RAISED: dict[str, BaseException] = {
    "OSError": OSError(5, "no"),
    "ValueError": ValueError("no"),
    "TypeError": TypeError("no"),
    "OverflowError": OverflowError("no"),
    "KeyError": KeyError("no"),
    "a BaseException": Interruption(),
}

# All of them stand for the descriptor they are made of.
ACCEPTED_DESCRIPTORS: dict[str, Callable[[int], Any]] = {
    "an int": int,
    "an int subclass that lies": LyingInt,
    "an int subclass that has fileno": IntWithFileno,
    "an object with fileno()": FileLike,
    "an object of a class that is equal to int": FileOfEqualClass,
    "fileno() returns an int subclass": lambda fd: FileLike(LyingInt(fd)),
    "a file object": lambda fd: os.fdopen(fd, "rb", closefd=False),
}

NUMBERS = {
    "0": 0,
    "1": 1,
    "65536": 65536,
    "never opened": NEVER_OPENED,
    "2**31-1": C_INT_MAX,
}

REFUSED_MASKS = {
    "-1": Refusal(-1, ValueError, ("-1", "0 to 65535")),
    "-32768": Refusal(-32768, ValueError, ("-32768", "0 to 65535")),
    "-2**31": Refusal(-(2**31), ValueError, (str(-(2**31)), "0 to 65535")),
    "-2**64": Refusal(-(2**64), ValueError, (str(-(2**64)), "0 to 65535")),
    "-10**5000": Refusal(-(10**5000), ValueError, ("int", "0 to 65535")),
    "an int subclass of -1": Refusal(LyingInt(-1), ValueError, ("-1", "0 to 65535")),
    "__index__() returns -1": Refusal(Index(-1), ValueError, ("-1", "0 to 65535")),
    "65536": Refusal(65536, OverflowError, ("65536", "0 to 65535")),
    "2**31": Refusal(2**31, OverflowError, (str(2**31), "0 to 65535")),
    "2**64": Refusal(2**64, OverflowError, (str(2**64), "0 to 65535")),
    "2**64+1": Refusal(2**64 + 1, OverflowError, (str(2**64 + 1), "0 to 65535")),
    "10**5000": Refusal(10**5000, OverflowError, ("int", "0 to 65535")),
    "an int subclass of 65536": Refusal(LyingInt(65536), OverflowError, ("65536", "0 to 65535")),
    "__index__() returns 65536": Refusal(Index(65536), OverflowError, ("65536", "0 to 65535")),
    "__index__() returns 10**5000": Refusal(Index(10**5000), OverflowError, ("int", "0 to 65535")),
    "a float": Refusal(1.0, TypeError, ("1.0", "int")),
    "a NaN": Refusal(float("nan"), TypeError, ("nan", "int")),
    "None": Refusal(None, TypeError, ("None", "int")),
    "a str": Refusal("1", TypeError, ("'1'", "int")),
    "bytes": Refusal(b"1", TypeError, ("b'1'", "int")),
    "a complex": Refusal(1j, TypeError, ("1j", "int")),
    "a Fraction": Refusal(Fraction(1), TypeError, ("Fraction(1, 1)", "int")),
    "a Decimal": Refusal(Decimal(1), TypeError, ("Decimal('1')", "int")),
    "a list": Refusal([1], TypeError, ("[1]", "int")),
    "a list of an int that has no repr": Refusal([10**5000], TypeError, (UNPRINTED, "int")),
    "an object whose class is named array": Refusal(FakeArray(), TypeError, ("array", "int")),
    "an object": Refusal(object(), TypeError, ("object", "int")),
    "an object without a repr": Refusal(ReprRaises(), TypeError, ("ReprRaises", "int")),
    "an object with a long repr": Refusal(LongRepr(), TypeError, ("xxx", "int")),
    "an object with __int__": Refusal(OnlyInt(), TypeError, ("OnlyInt", "int")),
    "an object with __float__": Refusal(OnlyFloat(), TypeError, ("OnlyFloat", "int")),
    "an object that claims to be an int": Refusal(Impostor(), TypeError),
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

# What to call with a descriptor, and what with a descriptor and a mask.
DESCRIPTOR_CALLS: dict[str, Callable[[Poll, Any], object]] = {
    "register": lambda p, fd: p.register(fd),
    "register with a mask": lambda p, fd: p.register(fd, POLLOUT),
    "modify": lambda p, fd: p.modify(fd, POLLOUT),
    "unregister": lambda p, fd: p.unregister(fd),
    "in": lambda p, fd: fd in p,
    "[]": lambda p, fd: p[fd],
    "poll_fd": lambda _, fd: poll_fd(fd),
    "poll_fd with a mask and a timeout": lambda _, fd: poll_fd(fd, POLLIN, 0),
}

MASK_CALLS: dict[str, Callable[[Poll, Any, Any], object]] = {
    "register": lambda p, fd, mask: p.register(fd, mask),
    "modify": lambda p, fd, mask: p.modify(fd, mask),
    "poll_fd": lambda _, fd, mask: poll_fd(fd, mask),
    "poll_fd with a timeout": lambda _, fd, mask: poll_fd(fd, mask, 0),
}


class Pipe(NamedTuple):
    """Both ends of a pipe in which one byte waits."""

    reading: int
    writing: int


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = Pipe(*os.pipe())
    os.write(ends.writing, b"x")
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def p(pipe: Pipe) -> Poll:
    """Both ends of the pipe, the writing one first, and a number that is not open."""
    p = Poll()
    p.register(pipe.writing, POLLOUT)
    p.register(NEVER_OPENED, 0)
    p.register(pipe.reading, POLLIN)
    return p


def contents(p: Poll) -> list[tuple[int, int]]:
    """Return the descriptors and their masks, in order."""
    assert len(p) == len(list(p))
    return [(fd, p[fd]) for fd in p]


@contextmanager
def nothing_changes(p: Poll) -> Iterator[None]:
    """Check that the set is afterwards what it was, that it polls, and that it can change."""
    before, ready = contents(p), p.poll(0)
    yield
    assert contents(p) == before
    assert p.poll(0) == ready
    p.register(NEVER_OPENED - 1, POLLIN)
    assert contents(p) == [*before, (NEVER_OPENED - 1, POLLIN)]
    p.unregister(NEVER_OPENED - 1)


def assert_refused(refusal: Refusal, error: BaseException) -> None:
    assert type(error) is refusal.error
    message = str(error)
    for words in refusal.words:
        assert words in message
    # A message must not drown what it says, whatever the value.
    assert len(message) < 300


def error_of(call: Callable[..., object], *args: object) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the caller looks at it
        call(*args)
    return caught.value


# ---- Descriptors ---------------------------------------------------------------------------


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
@pytest.mark.parametrize("refusal", rows(REFUSED_DESCRIPTORS))
def test_what_is_no_descriptor_is_refused_and_changes_nothing(
    p: Poll, refusal: Refusal, call: Callable[[Poll, Any], object]
) -> None:
    with nothing_changes(p):
        assert_refused(refusal, error_of(call, p, refusal.value))


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
@pytest.mark.parametrize("raised", rows(RAISED))
@pytest.mark.parametrize("where", rows(RAISING_DESCRIPTORS))
def test_what_fileno_raises_propagates_and_changes_nothing(
    p: Poll,
    where: Callable[[BaseException], Any],
    raised: BaseException,
    call: Callable[[Poll, Any], object],
) -> None:
    with nothing_changes(p):
        assert error_of(call, p, where(raised)) is raised


@agrees_with_select
@pytest.mark.parametrize("refusal", rows(REFUSED_DESCRIPTORS))
def test_select_poll_refuses_the_same_descriptors_alike(refusal: Refusal) -> None:
    theirs = select.poll()
    calls: list[Callable[[Any], object]] = [
        theirs.register,
        lambda fd: theirs.register(fd, POLLIN),
        lambda fd: theirs.modify(fd, POLLIN),
        theirs.unregister,
    ]
    for call in calls:
        assert type(error_of(call, refusal.value)) is refusal.error


@pytest.mark.parametrize("kind", rows(ACCEPTED_DESCRIPTORS))
def test_a_descriptor_may_be_given_in_several_ways(pipe: Pipe, kind: Callable[[int], Any]) -> None:
    p = Poll()
    fd = kind(pipe.reading)
    assert fd not in p
    p.register(fd, POLLOUT)
    assert fd in p
    assert p[fd] == POLLOUT
    assert p.poll(0) == []
    p.modify(fd, POLLIN)
    assert contents(p) == [(pipe.reading, POLLIN)]
    assert p.poll() == [(pipe.reading, POLLIN)]
    p.register(pipe.reading)
    assert len(p) == 1
    assert [type(number) for number in p] == [int]
    p.unregister(fd)
    assert contents(p) == []
    assert poll_fd(fd) == POLLIN
    assert poll_fd(fd, POLLOUT, 0) == 0


@pytest.mark.parametrize("number", rows(NUMBERS))
@pytest.mark.parametrize("kind", [int, LyingInt, IntWithFileno, FileLike])
def test_every_number_of_a_c_int_is_a_descriptor(kind: Callable[[int], Any], number: int) -> None:
    p = Poll()
    fd = kind(number)
    p.register(fd)
    p.modify(fd, 0)
    assert contents(p) == [(number, 0)]
    assert fd in p
    assert p[fd] == 0
    assert all(ready == number for ready, _ in p.poll(0))
    poll_fd(fd, 0, 0)
    p.unregister(fd)
    assert contents(p) == []


def test_the_ends_of_a_c_int_are_told_apart() -> None:
    p = Poll()
    numbers = [0, 1, 2**15, 2**16, 2**30, C_INT_MAX - 1, C_INT_MAX]
    for mask, number in enumerate(numbers):
        p.register(number, mask)
    assert contents(p) == [(number, mask) for mask, number in enumerate(numbers)]


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
@pytest.mark.parametrize("fd", [False, True])
def test_a_bool_is_a_descriptor_with_a_warning_where_it_was_passed(
    fd: bool, call: Callable[[Poll, Any], object]
) -> None:
    p = Poll()
    p.register(int(fd), 0)
    with pytest.warns(RuntimeWarning, match=r"^bool is used as a file descriptor$") as caught:
        call(p, fd)
    assert len(caught) == 1
    assert caught[0].category is RuntimeWarning
    assert caught[0].filename == __file__
    # The lambda of the table, which is what called the library.
    assert caught[0].lineno == call.__code__.co_firstlineno


@pytest.mark.parametrize("number", [0, 1])
def test_a_bool_stands_for_its_number(number: int) -> None:
    p = Poll()
    fd = bool(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        p.register(fd, POLLOUT)
        assert contents(p) == [(number, POLLOUT)]
        assert [type(each) for each in p] == [int]
        p.modify(fd, POLLIN)
        assert p[fd] == p[number] == POLLIN
        assert fd in p
        p.unregister(fd)
    assert contents(p) == []


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
@pytest.mark.parametrize("fd", [False, True])
def test_a_bool_changes_nothing_where_its_warning_is_an_error(
    p: Poll, fd: bool, call: Callable[[Poll, Any], object]
) -> None:
    with nothing_changes(p), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert type(error_of(call, p, fd)) is RuntimeWarning


@agrees_with_select
def test_select_poll_warns_of_a_bool_in_the_same_words() -> None:
    with pytest.warns(RuntimeWarning) as theirs:
        select.poll().register(True)
    with pytest.warns(RuntimeWarning) as ours:
        Poll().register(True)
    assert str(ours[0].message) == str(theirs[0].message)


# ---- Event masks ---------------------------------------------------------------------------


@pytest.mark.parametrize("call", rows(MASK_CALLS))
@pytest.mark.parametrize("refusal", rows(REFUSED_MASKS))
def test_what_is_no_event_mask_is_refused_and_changes_nothing(
    p: Poll, pipe: Pipe, refusal: Refusal, call: Callable[[Poll, Any, Any], object]
) -> None:
    with nothing_changes(p):
        assert_refused(refusal, error_of(call, p, pipe.reading, refusal.value))


@pytest.mark.parametrize("refusal", rows(REFUSED_MASKS))
def test_a_descriptor_is_not_registered_with_what_is_no_event_mask(
    p: Poll, refusal: Refusal
) -> None:
    with nothing_changes(p):
        assert_refused(refusal, error_of(p.register, NEVER_OPENED - 2, refusal.value))
    assert NEVER_OPENED - 2 not in p


@pytest.mark.parametrize("call", rows(MASK_CALLS))
@pytest.mark.parametrize("raised", rows(RAISED))
def test_what_index_of_a_mask_raises_propagates_and_changes_nothing(
    p: Poll, pipe: Pipe, raised: BaseException, call: Callable[[Poll, Any, Any], object]
) -> None:
    with nothing_changes(p):
        assert error_of(call, p, pipe.reading, Index(raised)) is raised


@agrees_with_select
@pytest.mark.parametrize("refusal", rows(REFUSED_MASKS))
def test_select_poll_refuses_the_same_masks_alike(refusal: Refusal) -> None:
    if isinstance(refusal.value, Index) and sys.version_info < (3, 14):
        pytest.skip("select.poll looks at __index__ of a mask from CPython 3.14 on")
    theirs = select.poll()
    for call in theirs.register, theirs.modify:
        assert type(error_of(call, NEVER_OPENED, refusal.value)) is refusal.error


@pytest.mark.parametrize("row", rows(ACCEPTED_MASKS))
def test_a_mask_is_an_int_of_16_bits_given_in_several_ways(
    pipe: Pipe, row: tuple[Any, int]
) -> None:
    mask, plain = row
    p = Poll()
    p.register(pipe.reading, mask)
    p.register(pipe.writing, 0)
    p.modify(pipe.writing, mask)
    assert contents(p) == [(pipe.reading, plain), (pipe.writing, plain)]
    assert [type(p[fd]) for fd in p] == [int, int]

    ready = dict(p.poll(0))
    assert bool(ready.get(pipe.reading, 0) & POLLIN) == bool(plain & POLLIN)
    assert bool(ready.get(pipe.writing, 0) & POLLOUT) == bool(plain & POLLOUT)
    for fd in pipe:
        assert poll_fd(fd, mask, 0) == ready.get(fd, 0)

    p.register(pipe.reading, 0)
    p.register(pipe.reading, mask)
    assert contents(p) == [(pipe.reading, plain), (pipe.writing, plain)]


# ---- The order of the checks ---------------------------------------------------------------


# One for each way in which a mask is refused, and likewise the timeouts.
BAD_MASKS = (-1, 65536, "x", Index(Interruption()))
BAD_TIMEOUTS = (float("nan"), 1e300, "x", Index(Interruption()))


@pytest.mark.parametrize("call", rows(MASK_CALLS))
@pytest.mark.parametrize("fd", rows(REFUSED_DESCRIPTORS))
def test_a_bad_descriptor_is_told_before_a_bad_mask(
    p: Poll, fd: Refusal, call: Callable[[Poll, Any, Any], object]
) -> None:
    with nothing_changes(p):
        for mask in BAD_MASKS:
            assert_refused(fd, error_of(call, p, fd.value, mask))


@pytest.mark.parametrize("mask", rows(REFUSED_MASKS))
def test_a_bad_mask_is_told_before_a_descriptor_that_is_not_registered(
    p: Poll, mask: Refusal
) -> None:
    with nothing_changes(p):
        assert_refused(mask, error_of(p.modify, NEVER_OPENED - 2, mask.value))


@pytest.mark.parametrize("mask", rows(REFUSED_MASKS))
def test_a_bad_mask_is_told_before_a_bad_timeout(mask: Refusal) -> None:
    for timeout in BAD_TIMEOUTS:
        assert_refused(mask, error_of(poll_fd, NEVER_OPENED, mask.value, timeout))


@pytest.mark.parametrize("fd", rows(REFUSED_DESCRIPTORS))
def test_a_bad_descriptor_is_told_before_a_bad_timeout(fd: Refusal) -> None:
    for timeout in BAD_TIMEOUTS:
        assert_refused(fd, error_of(poll_fd, fd.value, POLLIN, timeout))


class Witness:
    """A descriptor and a mask that write down when they are asked."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[str] = []

    def fileno(self) -> int:
        self.asked.append("fileno")
        return self.number

    def __index__(self) -> int:
        self.asked.append("__index__")
        return POLLIN


@pytest.mark.parametrize("call", rows(MASK_CALLS))
def test_descriptor_and_mask_are_asked_once_each_and_in_this_order(
    p: Poll, pipe: Pipe, call: Callable[[Poll, Any, Any], object]
) -> None:
    witness = Witness(pipe.reading)
    call(p, witness, witness)
    assert witness.asked == ["fileno", "__index__"]


@pytest.mark.parametrize("call", rows(DESCRIPTOR_CALLS))
def test_fileno_is_called_once(p: Poll, pipe: Pipe, call: Callable[[Poll, Any], object]) -> None:
    witness = Witness(pipe.reading)
    call(p, witness)
    assert witness.asked == ["fileno"]


@pytest.mark.parametrize("call", [Poll.register, Poll.modify])
def test_a_set_may_be_changed_by_the_arguments_own_methods(
    p: Poll, pipe: Pipe, call: Callable[[Poll, Any, Any], object]
) -> None:
    class Meddler(Witness):
        def fileno(self) -> int:
            p.unregister(NEVER_OPENED)
            return super().fileno()

        def __index__(self) -> int:
            p.register(NEVER_OPENED, POLLOUT)
            return super().__index__()

    meddler = Meddler(pipe.writing)
    call(p, meddler, meddler)
    assert contents(p) == [
        (pipe.writing, POLLIN),
        (pipe.reading, POLLIN),
        (NEVER_OPENED, POLLOUT),
    ]


# ---- Membership, and how arguments are passed ----------------------------------------------


@pytest.mark.parametrize("kind", [int, LyingInt, IntWithFileno, FileLike])
@pytest.mark.parametrize("fd", [0, NEVER_OPENED - 2, C_INT_MAX])
def test_a_descriptor_that_was_never_registered_cannot_be_changed(
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
        assert kind(fd) not in p


def test_a_descriptor_that_was_unregistered_cannot_be_changed(p: Poll, pipe: Pipe) -> None:
    p.unregister(pipe.reading)
    with nothing_changes(p):
        for call in p.unregister, p.__getitem__:
            assert type(error_of(call, pipe.reading)) is KeyError
        assert type(error_of(p.modify, pipe.reading, POLLIN)) is FileNotFoundError
        assert pipe.reading not in p


BAD_CALLS: dict[str, Callable[[Any], object]] = {
    "register()": lambda p: p.register(),
    "register(fd=)": lambda p: p.register(fd=1),
    "register(, eventmask=)": lambda p: p.register(1, eventmask=1),
    "register(,,)": lambda p: p.register(1, 1, 1),
    "modify()": lambda p: p.modify(),
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
}


@pytest.mark.parametrize("call", rows(BAD_CALLS))
def test_arguments_are_positional_only_and_counted(p: Poll, call: Callable[[Any], object]) -> None:
    with nothing_changes(p):
        assert type(error_of(call, p)) is TypeError


@pytest.mark.parametrize("args", [(1,), (None,), ([],)])
def test_a_polling_object_is_made_of_nothing(args: tuple[Any, ...]) -> None:
    assert type(error_of(Poll, *args)) is TypeError
