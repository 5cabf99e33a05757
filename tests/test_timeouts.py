"""How long a wait lasts: the contract's table of timeouts, for every call that takes one.

A wait that would last for ever is tried with a descriptor that is ready, and with one that
becomes ready. No wait may be shorter than was asked, by not a single nanosecond; how much
longer it is depends on the machine, so there the bounds are generous.
"""

from __future__ import annotations

import contextlib
import decimal
import math
import numbers
import os
import random
import reprlib
import select
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, Callable, NamedTuple

import pytest

from pypoll import POLLIN, POLLNVAL, POLLOUT, Poll, poll_fd
from pypoll.library import lib
from pypoll.timeouts import NEGATIVE, nanoseconds
from pypoll.timeouts import NO_LIMIT as NO_LIMIT_NANOSECONDS

HAS_PPOLL = bool(lib.pypoll_has_ppoll())
MILLISECOND = 1_000_000
LONGEST = 9223372036854
NEVER_OPENED = 2**31 - 6

# Far more than a wait of nothing or of some milliseconds takes on the busiest machine.
SOON = 5_000 * MILLISECOND

needs_ppoll = pytest.mark.skipif(not HAS_PPOLL, reason="built without ppoll(2)")
agrees_with_select = pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info < (3, 13),
    reason="select.poll follows the contract's exceptions on CPython from 3.13 on",
)


class LyingInt(int):
    """An int whose methods all tell of another number than the one C sees."""

    def __index__(self) -> int:
        return 0

    def __int__(self) -> int:
        return 0

    def __float__(self) -> float:
        return 0.0

    def __eq__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return self == other

    def __gt__(self, other: object) -> bool:
        return self == other

    def __add__(self, other: object) -> int:
        return 0

    def __mul__(self, other: object) -> int:
        return 0

    def __neg__(self) -> int:
        return 0

    def as_integer_ratio(self) -> Any:
        return 0, 1

    __hash__ = int.__hash__
    __radd__ = __add__
    __rmul__ = __mul__


class LyingFloat(float):
    """A float whose methods all tell of another number than the one C sees."""

    def __float__(self) -> float:
        return 0.0

    def __int__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return self == other

    def __gt__(self, other: object) -> bool:
        return self == other

    def __add__(self, other: object) -> float:
        return 0.0

    def __mul__(self, other: object) -> float:
        return 0.0

    def __neg__(self) -> float:
        return 0.0

    def as_integer_ratio(self) -> tuple[int, int]:
        return 0, 1

    __hash__ = float.__hash__
    __radd__ = __add__
    __rmul__ = __mul__


class FloatWithIndex(float):
    """A float is a float, whatever else it can do."""

    def __index__(self) -> int:
        return 0


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


class FractionWithoutFloat(Fraction):
    error: BaseException

    def __float__(self) -> float:
        raise self.error


class FractionWithoutRatio(Fraction):
    error: BaseException

    def as_integer_ratio(self) -> tuple[int, int]:
        raise self.error


@numbers.Real.register
class Measured:
    """A real number that says no more than how large it is."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


class Unordered:
    """A number that cannot be compared."""

    def __init__(self, *ratio: int) -> None:
        self.ratio = ratio

    def __float__(self) -> float:
        return self.ratio[0] / self.ratio[1]

    def as_integer_ratio(self) -> tuple[int, ...]:
        return self.ratio


class ReprRaises:
    def __repr__(self) -> str:
        raise LookupError("no repr")


class Impostor:
    """Claims to be of another class."""

    def __init__(self, claimed: type) -> None:
        self.claimed = claimed

    @property  # type: ignore[misc] # an object's own can be assigned to
    def __class__(self) -> Any:
        return self.claimed


class EqualToAll(type):
    """Makes classes that are equal to every other, int and float among them."""

    def __eq__(cls, other: object) -> bool:
        return True

    def __ne__(cls, other: object) -> bool:
        return False

    __hash__ = type.__hash__


class Computable(metaclass=EqualToAll):
    """Can be compared and multiplied like a number, and is none."""

    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True

    def __mul__(self, other: object) -> int:
        return 1


class LyingTuple(tuple):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: object) -> Any:
        return self


class Contradictory:
    """A number that says one thing as a float, and another as a ratio."""

    def __init__(self, nearest: Any, ratio: Any) -> None:
        self.nearest = nearest
        self.ratio = ratio

    def __float__(self) -> float:
        return self.nearest  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        return bool(other)

    def __lt__(self, other: object) -> bool:
        return bool(other)

    def __gt__(self, other: object) -> bool:
        return bool(other)

    __hash__ = None  # type: ignore[assignment]

    def as_integer_ratio(self) -> Any:
        return self.ratio


class Interruption(BaseException):
    """As KeyboardInterrupt, but nobody else raises it."""


FakeArray = type("array", (), {})

NO_LIMIT: dict[str, Any] = {
    "None": None,
    "-1": -1,
    "-2": -2,
    "-2**31": -(2**31),
    "-2**31-1": -(2**31) - 1,
    "-2**63-1": -(2**63) - 1,
    "-10**5000": -(10**5000),
    "-1.0": -1.0,
    "-0.5": -0.5,
    "-1e-100": -1e-100,
    "the negative float nearest to 0": -5e-324,
    "-1e300": -1e300,
    "inf": math.inf,
    "-inf": -math.inf,
    "Decimal(-1)": Decimal(-1),
    "Decimal('-1e-400000000')": Decimal("-1e-400000000"),
    "Decimal('-1e400000000')": Decimal("-1e400000000"),
    "Decimal('Infinity')": Decimal("Infinity"),
    "Decimal('-Infinity')": Decimal("-Infinity"),
    "Fraction(-1, 3)": Fraction(-1, 3),
    "Fraction(-1, 10**400)": Fraction(-1, 10**400),
    "-1/3, which cannot be compared": Unordered(-1, 3),
    "-Fraction(10**400)": -Fraction(10**400),
    "__index__() of -1": Index(-1),
    "__index__() of -10**5000": Index(-(10**5000)),
    "an int subclass of -1": LyingInt(-1),
    "a float subclass of -0.5": LyingFloat(-0.5),
    "a float subclass of inf": LyingFloat(math.inf),
    "a float subclass of -1.0 with __index__": FloatWithIndex(-1.0),
    "another real number": Measured(-0.5),
}

AT_ONCE: dict[str, Any] = {
    "0": 0,
    "False": False,
    "0.0": 0.0,
    "-0.0": -0.0,
    "Decimal(0)": Decimal(0),
    "Decimal('-0')": Decimal("-0"),
    "Decimal('0e999999')": Decimal("0e999999"),
    "Fraction(0)": Fraction(0),
    "__index__() of 0": Index(0),
    "an int subclass": LyingInt(0),
    "a float subclass": LyingFloat(0.0),
    "a float subclass of -0.0": LyingFloat(-0.0),
    "another real number": Measured(0.0),
}

# The number, and the nanoseconds that the wait must last.
LIMITED: dict[str, tuple[Any, int]] = {
    "1": (1, MILLISECOND),
    "True": (True, MILLISECOND),
    "20": (20, 20 * MILLISECOND),
    "1.0": (1.0, MILLISECOND),
    "1.5": (1.5, 1_500_000),
    "0.5": (0.5, 500_000),
    # The float that is written 0.1 is a little more than that, so it is rounded up.
    "0.1": (0.1, 100_001),
    "0.05": (0.05, 50_001),
    "0.046875": (0.046875, 46_875),
    "1e-6": (1e-6, 1),
    "1e-7": (1e-7, 1),
    "1e-300": (1e-300, 1),
    "the float nearest to 0": (5e-324, 1),
    "Fraction(1, 3)": (Fraction(1, 3), 333_334),
    "Fraction(1, 10**6)": (Fraction(1, 10**6), 1),
    "Fraction(10**6 + 1, 10**12)": (Fraction(10**6 + 1, 10**12), 2),
    "Fraction(1, 10**400)": (Fraction(1, 10**400), 1),
    "Fraction(10**400 + 1, 10**400)": (Fraction(10**400 + 1, 10**400), MILLISECOND + 1),
    "Decimal('1.5')": (Decimal("1.5"), 1_500_000),
    "Decimal('0.1')": (Decimal("0.1"), 100_000),
    "Decimal('1.0000001')": (Decimal("1.0000001"), MILLISECOND + 1),
    "Decimal('1e-400000000')": (Decimal("1e-400000000"), 1),
    "__index__()": (Index(2), 2 * MILLISECOND),
    "an int subclass": (LyingInt(2), 2 * MILLISECOND),
    "a float subclass": (LyingFloat(1.5), 1_500_000),
    "a float subclass with __index__": (FloatWithIndex(1.5), 1_500_000),
    "another real number": (Measured(1.5), 1_500_000),
}

LONG: dict[str, tuple[Any, int]] = {
    "2**31-1": (2**31 - 1, (2**31 - 1) * MILLISECOND),
    "2**31": (2**31, 2**31 * MILLISECOND),
    "2**31+0.5": (2**31 + 0.5, 2**31 * MILLISECOND + 500_000),
    "2**32": (2**32, 2**32 * MILLISECOND),
    "2**32+1": (2**32 + 1, (2**32 + 1) * MILLISECOND),
    "2**43": (2**43, 2**43 * MILLISECOND),
    "the longest": (LONGEST, LONGEST * MILLISECOND),
    "2**63-1 ns": (Fraction(2**63 - 1, MILLISECOND), 2**63 - 1),
    "the longest as a float": (float(LONGEST), LONGEST * MILLISECOND),
    "the longest as a Decimal": (Decimal(LONGEST), LONGEST * MILLISECOND),
    "the longest as a Fraction": (Fraction(LONGEST), LONGEST * MILLISECOND),
    "the longest as an __index__()": (Index(LONGEST), LONGEST * MILLISECOND),
    "the longest as an int subclass": (LyingInt(LONGEST), LONGEST * MILLISECOND),
    "the longest as a float subclass": (LyingFloat(LONGEST), LONGEST * MILLISECOND),
}


# Where int refuses to print very many digits, a list of them is shown by its type, unless reprlib
# has an answer of its own, as in newer ones.
try:
    reprlib.repr([10**5000])
    UNPRINTED = "["
except ValueError:
    UNPRINTED = "list"


class Refusal(NamedTuple):
    """A bad timeout, the exact type of the exception, and words of its message."""

    value: Any
    error: type[BaseException]
    words: tuple[str, ...] = ()


TOO_LONG = {
    "9223372036855": Refusal(LONGEST + 1, OverflowError, (str(LONGEST + 1), str(LONGEST))),
    "9223372036855.0": Refusal(
        float(LONGEST + 1), OverflowError, (str(float(LONGEST + 1)), str(LONGEST))
    ),
    "2**63": Refusal(2**63, OverflowError, (str(2**63), str(LONGEST))),
    "2**64": Refusal(2**64, OverflowError, (str(2**64), str(LONGEST))),
    "10**5000": Refusal(10**5000, OverflowError, ("int", str(LONGEST))),
    "1e300": Refusal(1e300, OverflowError, ("1e+300", str(LONGEST))),
    "the largest float": Refusal(sys.float_info.max, OverflowError, ("e+308", str(LONGEST))),
    "an int subclass": Refusal(
        LyingInt(LONGEST + 1), OverflowError, (str(LONGEST + 1), str(LONGEST))
    ),
    "a float subclass": Refusal(LyingFloat(1e300), OverflowError, ("1e+300", str(LONGEST))),
    "__index__()": Refusal(Index(10**5000), OverflowError, ("Index", str(LONGEST))),
    "Decimal": Refusal(
        Decimal(LONGEST + 1), OverflowError, (f"Decimal('{LONGEST + 1}')", str(LONGEST))
    ),
    "Decimal('1e400000000')": Refusal(
        Decimal("1e400000000"), OverflowError, ("Decimal('1E+400000000')", str(LONGEST))
    ),
    "Fraction": Refusal(Fraction(LONGEST + 1), OverflowError, ("Fraction", str(LONGEST))),
    "Fraction(10**400)": Refusal(Fraction(10**400), OverflowError, ("Fraction", str(LONGEST))),
    "Fraction(10**5000)": Refusal(Fraction(10**5000), OverflowError, ("Fraction", str(LONGEST))),
    "another real number": Refusal(Measured(1e300), OverflowError, ("Measured", str(LONGEST))),
}

NOT_A_NUMBER = {
    "nan": Refusal(math.nan, ValueError, ("timeout", "nan", "milliseconds")),
    "-nan": Refusal(-math.nan, ValueError, ("timeout", "nan", "milliseconds")),
    "a float subclass": Refusal(
        LyingFloat(math.nan), ValueError, ("timeout", "nan", "milliseconds")
    ),
    "Decimal('NaN')": Refusal(Decimal("NaN"), ValueError, ("timeout", "NaN", "milliseconds")),
    "Decimal('-NaN')": Refusal(Decimal("-NaN"), ValueError, ("timeout", "-NaN", "milliseconds")),
    "Decimal('sNaN')": Refusal(Decimal("sNaN"), ValueError, ("timeout", "sNaN", "milliseconds")),
    "another real number": Refusal(
        Measured(math.nan), ValueError, ("timeout", "Measured", "milliseconds")
    ),
}

EXPECTED = ("timeout", "real number of milliseconds", "None")
WRONG_TYPE = {
    "a str": Refusal("1", TypeError, ("'1'", *EXPECTED)),
    "an empty str": Refusal("", TypeError, ("''", *EXPECTED)),
    "bytes": Refusal(b"1", TypeError, ("b'1'", *EXPECTED)),
    "a bytearray": Refusal(bytearray(b"1"), TypeError, ("bytearray", *EXPECTED)),
    "a complex": Refusal(1j, TypeError, ("1j", *EXPECTED)),
    "a real complex": Refusal(complex(1), TypeError, ("(1+0j)", *EXPECTED)),
    "a list": Refusal([1], TypeError, ("[1]", *EXPECTED)),
    "an empty list": Refusal([], TypeError, ("[]", *EXPECTED)),
    "a tuple": Refusal((1, 1), TypeError, ("(1, 1)", *EXPECTED)),
    "a tuple subclass": Refusal(LyingTuple((1, 1)), TypeError, EXPECTED),
    "a dict": Refusal({}, TypeError, ("{}", *EXPECTED)),
    "a list of an int that has no repr": Refusal([10**5000], TypeError, (UNPRINTED, *EXPECTED)),
    "an object whose class is named array": Refusal(FakeArray(), TypeError, ("array", *EXPECTED)),
    "an object": Refusal(object(), TypeError, ("object", *EXPECTED)),
    "an object without a repr": Refusal(ReprRaises(), TypeError, ("ReprRaises", *EXPECTED)),
    "an object with __int__": Refusal(OnlyInt(), TypeError, ("OnlyInt", *EXPECTED)),
    "an object with __float__": Refusal(OnlyFloat(), TypeError, ("OnlyFloat", *EXPECTED)),
    "an object that claims to be an int": Refusal(Impostor(int), TypeError),
    "an object that claims to be a float": Refusal(Impostor(float), TypeError),
    "a type": Refusal(float, TypeError, ("float", *EXPECTED)),
    "__index__() returns a str": Refusal(Index("1"), TypeError, ("__index__", "int")),
    "__index__() returns a float": Refusal(Index(1.0), TypeError, ("__index__", "int")),
    "__index__() returns None": Refusal(Index(None), TypeError, ("__index__", "int")),
    # PyPy takes its class for one that is registered as a Real, and then float() refuses it.
    "what computes as a number does": Refusal(Computable(), TypeError),
}

REFUSED = {
    **{f"too long: {name}": row for name, row in TOO_LONG.items()},
    **{f"not a number: {name}": row for name, row in NOT_A_NUMBER.items()},
    **{f"wrong type: {name}": row for name, row in WRONG_TYPE.items()},
}

RAISING: dict[str, Callable[[BaseException], Any]] = {
    "__index__()": Index,
    "__float__()": lambda error: raising(FractionWithoutFloat(1, 3), error),
    "as_integer_ratio()": lambda error: raising(FractionWithoutRatio(1, 3), error),
}

RAISED: dict[str, BaseException] = {
    "OSError": OSError(5, "no"),
    "ValueError": ValueError("no"),
    "TypeError": TypeError("no"),
    "a BaseException": Interruption(),
}

CONTRADICTORY: dict[str, Any] = {
    "a ratio over 0": Contradictory(1.0, (1, 0)),
    "0 over 0": Contradictory(1.0, (0, 0)),
    "no ratio": Contradictory(1.0, None),
    "a ratio of one": Contradictory(1.0, (1,)),
    "a ratio of three": Contradictory(1.0, (1, 2, 3)),
    "a ratio of strs": Contradictory(1.0, ("1", "2")),
    "a ratio of floats": Contradictory(1.0, (0.5, 0.25)),
    "a ratio of NaNs": Contradictory(1.0, (math.nan, math.nan)),
    "a ratio of lying ints": Contradictory(1.0, (LyingInt(1), LyingInt(1))),
    "a lying tuple": Contradictory(1.0, LyingTuple((1, 1))),
    "a huge ratio": Contradictory(1.0, (10**5000, 1)),
    "a negative ratio": Contradictory(1.0, (-1, 1)),
    "a hugely negative ratio": Contradictory(1.0, (-(10**5000), 1)),
    "a tiny float": Contradictory(1e-9, (1, 1)),
    "a NaN": Contradictory(math.nan, (1, 1)),
    "an infinite float": Contradictory(math.inf, (1, 1)),
    "a negative float": Contradictory(-1.0, (1, 1)),
    "a str for a float": Contradictory("1", (1, 1)),
}


def raising(number: Any, error: BaseException) -> Any:
    """Return the number, whose method will raise this."""
    number.error = error
    return number


def rows(table: dict[str, Any]) -> list[Any]:
    """Return a table as the parameters of a test."""
    return [pytest.param(row, id=name) for name, row in table.items()]


def only_event(ready: list[tuple[int, int]]) -> int:
    """Return the event of a set of one descriptor, 0 where time ran out."""
    return ready[0][1] if ready else 0


def set_of(fd: int) -> Poll:
    p = Poll()
    p.register(fd, POLLIN)
    return p


# Each waits for one descriptor to be readable, and returns its events, or 0.
WAITS = [
    pytest.param(lambda fd, timeout: only_event(set_of(fd).poll(timeout)), id="poll"),
    pytest.param(lambda fd, timeout: only_event(set_of(fd).ppoll(timeout)), id="ppoll"),
    pytest.param(
        lambda fd, timeout: only_event(set_of(fd).ppoll(timeout, ())),
        id="ppoll with a signal mask",
        marks=needs_ppoll,
    ),
    pytest.param(lambda fd, timeout: poll_fd(fd, POLLIN, timeout), id="poll_fd"),
]

# Without a signal mask ppoll is poll.
DISTINCT_WAITS = [wait for wait in WAITS if wait.id != "ppoll"]

Wait = Callable[[int, Any], int]

# What a set, and what one descriptor is polled with.
CALLS = [
    pytest.param(lambda p, _, timeout: p.poll(timeout), id="poll"),
    pytest.param(lambda p, _, timeout: p.ppoll(timeout), id="ppoll"),
    pytest.param(
        lambda p, _, timeout: p.ppoll(timeout, ()), id="ppoll with a signal mask", marks=needs_ppoll
    ),
    pytest.param(lambda _, fd, timeout: poll_fd(fd, POLLIN, timeout), id="poll_fd"),
]

Call = Callable[[Poll, int, Any], object]


class Pipe(NamedTuple):
    reading: int
    writing: int


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = Pipe(*os.pipe())
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def ready(pipe: Pipe) -> int:
    """The reading end of a pipe in which one byte waits."""
    os.write(pipe.writing, b"x")
    return pipe.reading


def error_of(call: Callable[..., object], *args: object) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the caller looks at it
        call(*args)
    return caught.value


def assert_refused(refusal: Refusal, error: BaseException) -> None:
    assert type(error) is refusal.error
    message = str(error)
    for words in refusal.words:
        assert words in message
    assert len(message) < 300


def assert_intact(p: Poll, pipe: Pipe) -> None:
    """Check that the set is what `mixed` made, and that it polls and can change."""
    masks = [(pipe.writing, POLLOUT), (NEVER_OPENED, 0), (pipe.reading, POLLIN)]
    assert len(p) == 3
    assert [(fd, p[fd]) for fd in p] == masks
    assert p.poll(0) == [(pipe.writing, POLLOUT), (NEVER_OPENED, POLLNVAL)]
    p.register(0, 0)
    p.unregister(0)
    assert list(p) == [fd for fd, _ in masks]


def mixed(pipe: Pipe) -> Poll:
    p = Poll()
    p.register(pipe.writing, POLLOUT)
    p.register(NEVER_OPENED, 0)
    p.register(pipe.reading, POLLIN)
    return p


def writes_after(pipe: Pipe, seconds: float) -> threading.Timer:
    """Start a timer that puts a byte into the pipe."""
    timer = threading.Timer(seconds, os.write, (pipe.writing, b"x"))
    timer.start()
    return timer


# ---- No limit, and no wait -----------------------------------------------------------------


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", rows(NO_LIMIT))
def test_without_limit_what_is_ready_is_returned(ready: int, timeout: Any, wait: Wait) -> None:
    assert wait(ready, timeout) == POLLIN


@pytest.mark.parametrize("wait", DISTINCT_WAITS)
@pytest.mark.parametrize("timeout", rows(NO_LIMIT))
def test_without_limit_a_wait_lasts_until_something_is_ready(
    pipe: Pipe, timeout: Any, wait: Wait
) -> None:
    timer = writes_after(pipe, 0.05)
    try:
        assert wait(pipe.reading, timeout) == POLLIN
    finally:
        timer.join()


def test_a_timeout_that_is_left_out_is_no_limit(pipe: Pipe) -> None:
    p = set_of(pipe.reading)
    waits: list[Callable[[], object]] = [
        lambda: p.poll() == [(pipe.reading, POLLIN)],
        lambda: p.ppoll() == [(pipe.reading, POLLIN)],
        lambda: poll_fd(pipe.reading, POLLIN) == POLLIN,
        lambda: poll_fd(pipe.reading) == POLLIN,
    ]
    for wait in waits:
        timer = writes_after(pipe, 0.05)
        try:
            assert wait()
        finally:
            timer.join()
        os.read(pipe.reading, 1)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", rows(AT_ONCE))
def test_zero_returns_at_once(pipe: Pipe, timeout: Any, wait: Wait) -> None:
    start = time.monotonic_ns()
    assert wait(pipe.reading, timeout) == 0
    assert time.monotonic_ns() - start < SOON
    os.write(pipe.writing, b"x")
    assert wait(pipe.reading, timeout) == POLLIN


# ---- A limit -------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("row", rows(LIMITED))
def test_a_wait_is_never_shorter_than_its_timeout(
    pipe: Pipe, row: tuple[Any, int], wait: Wait
) -> None:
    timeout, least = row
    for _ in range(3):
        start = time.monotonic_ns()
        assert wait(pipe.reading, timeout) == 0
        assert least <= time.monotonic_ns() - start < SOON


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("row", rows({**LIMITED, **LONG}))
def test_a_wait_ends_when_something_is_ready(ready: int, row: tuple[Any, int], wait: Wait) -> None:
    assert wait(ready, row[0]) == POLLIN


@pytest.mark.parametrize("wait", DISTINCT_WAITS)
@pytest.mark.parametrize("row", rows(LONG))
def test_a_long_timeout_is_not_cut_short(pipe: Pipe, row: tuple[Any, int], wait: Wait) -> None:
    timer = writes_after(pipe, 0.05)
    try:
        assert wait(pipe.reading, row[0]) == POLLIN
    finally:
        timer.join()


@pytest.mark.parametrize("wait", DISTINCT_WAITS)
def test_a_wait_of_any_float_is_never_too_short(pipe: Pipe, wait: Wait) -> None:
    chance = random.Random(31415)
    for _ in range(150):
        timeout = chance.uniform(0, 10 ** chance.uniform(-4, 0.5))
        start = time.monotonic_ns()
        assert wait(pipe.reading, timeout) == 0
        assert time.monotonic_ns() - start >= Fraction(timeout) * MILLISECOND


@pytest.mark.parametrize("row", rows({**LIMITED, **LONG}))
def test_a_timeout_is_rounded_up_to_the_nanosecond(row: tuple[Any, int]) -> None:
    timeout, least = row
    assert nanoseconds(timeout) == least
    assert type(nanoseconds(timeout)) is int


@pytest.mark.parametrize("timeout", rows(AT_ONCE))
def test_no_time_is_not_rounded_up(timeout: Any) -> None:
    assert nanoseconds(timeout) == 0


@pytest.mark.parametrize("timeout", rows({k: v for k, v in NO_LIMIT.items() if k != "None"}))
def test_no_limit_is_infinity_or_a_negative_number(timeout: Any) -> None:
    # macOS and older FreeBSD answer EINVAL to any other negative one.
    assert nanoseconds(timeout) in (NO_LIMIT_NANOSECONDS, NEGATIVE)


def test_decimals_are_exact_in_any_context(pipe: Pipe) -> None:
    every_trap = dict.fromkeys(decimal.getcontext().traps, True)
    strict = decimal.Context(prec=1, Emax=1, Emin=-1, traps=every_trap)
    with decimal.localcontext(strict):
        for text, least in ("1.0000001", 1_000_001), ("0.9999", 999_900), ("1e-99999", 1):
            start = time.monotonic_ns()
            assert poll_fd(pipe.reading, POLLIN, Decimal(text)) == 0
            assert time.monotonic_ns() - start >= least
            assert nanoseconds(Decimal(text)) == least
        assert type(error_of(poll_fd, pipe.reading, POLLIN, Decimal("NaN"))) is ValueError
        assert type(error_of(poll_fd, pipe.reading, POLLIN, Decimal("1e9999"))) is OverflowError


@pytest.mark.parametrize("text", ["1e-400000000", "-1e-400000000", "1e400000000"])
def test_the_exponent_of_a_decimal_costs_no_time(ready: int, text: str) -> None:
    start = time.monotonic_ns()
    for _ in range(10):
        try:
            assert poll_fd(ready, POLLIN, Decimal(text)) == POLLIN
        except OverflowError:
            assert text == "1e400000000"
    assert time.monotonic_ns() - start < SOON


@pytest.mark.parametrize("timeout", [1, 2.5, 20, Fraction(1, 3)])
def test_a_set_without_descriptors_sleeps(timeout: Any) -> None:
    emptied = Poll()
    for fd in range(40):
        emptied.register(fd)
    for fd in range(40):
        emptied.unregister(fd)
    for p in Poll(), emptied:
        start = time.monotonic_ns()
        assert p.poll(timeout) == []
        assert timeout * MILLISECOND <= time.monotonic_ns() - start < SOON
        assert p.poll(0) == []


# ---- Precision -----------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_PPOLL, reason="poll(2) knows whole milliseconds only")
@pytest.mark.parametrize("call", CALLS)
def test_a_wait_of_50_microseconds_takes_less_than_200(pipe: Pipe, call: Call) -> None:
    p = set_of(pipe.reading)
    medians = []
    for _ in range(10):
        taken = []
        for _ in range(200):
            start = time.monotonic_ns()
            assert not call(p, pipe.reading, 0.05)
            taken.append(time.monotonic_ns() - start)
        assert min(taken) >= 50_000
        medians.append(statistics.median(taken))
        if medians[-1] < 200_000:
            return
        # Somebody else uses the machine: look again a little later.
        time.sleep(0.2)
    pytest.fail(f"median waits of 0.05 ms lasted {medians} ns")


@pytest.mark.parametrize("wait", DISTINCT_WAITS)
@pytest.mark.parametrize("timeout", [0.5, 0.999, Fraction(1, 2), Decimal("0.5")])
def test_half_a_millisecond_is_slept_and_not_spun(pipe: Pipe, timeout: Any, wait: Wait) -> None:
    # Another process may make this one's own work look long, though hardly each time.
    for _ in range(20):
        used, start = time.process_time_ns(), time.monotonic_ns()
        for _ in range(100):
            assert wait(pipe.reading, timeout) == 0
        elapsed = time.monotonic_ns() - start
        assert elapsed >= 100 * timeout * MILLISECOND
        if time.process_time_ns() - used < elapsed / 2:
            return
    raise AssertionError("most of the time was spent working")


# ---- Refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("refusal", rows(REFUSED))
def test_what_is_no_timeout_is_refused_and_changes_nothing(
    pipe: Pipe, refusal: Refusal, call: Call
) -> None:
    p = mixed(pipe)
    assert_refused(refusal, error_of(call, p, pipe.reading, refusal.value))
    assert_intact(p, pipe)


@pytest.mark.parametrize("refusal", rows(REFUSED))
def test_a_bad_timeout_is_refused_also_where_there_is_nothing_to_wait_for(
    refusal: Refusal,
) -> None:
    assert_refused(refusal, error_of(Poll().poll, refusal.value))


def test_the_longest_timeout_is_told_to_the_nanosecond() -> None:
    assert nanoseconds(Fraction(2**63 - 1, 1_000_000)) == 2**63 - 1
    for total in (2**63, 2**63 + 1):
        assert type(error_of(nanoseconds, Fraction(total, 1_000_000))) is OverflowError


def test_the_message_tells_the_longest_timeout() -> None:
    assert str(error_of(nanoseconds, LONGEST + 1)) == (
        f"timeout of {LONGEST + 1} milliseconds is too long: expected at most {LONGEST}"
    )


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("raised", rows(RAISED))
@pytest.mark.parametrize("where", rows(RAISING))
def test_what_a_number_raises_propagates_and_changes_nothing(
    pipe: Pipe, where: Callable[[BaseException], Any], raised: BaseException, call: Call
) -> None:
    p = mixed(pipe)
    assert error_of(call, p, pipe.reading, where(raised)) is raised
    assert_intact(p, pipe)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("timeout", rows(CONTRADICTORY))
def test_a_number_that_contradicts_itself_does_no_harm(
    pipe: Pipe, timeout: Any, call: Call
) -> None:
    p = mixed(pipe)
    os.write(pipe.writing, b"x")
    with contextlib.suppress(TypeError, ValueError, ArithmeticError):
        call(p, pipe.reading, timeout)
    os.read(pipe.reading, 1)
    assert_intact(p, pipe)


def test_a_set_may_be_changed_by_the_methods_of_a_timeout(pipe: Pipe) -> None:
    p = Poll()

    class Meddler:
        def __index__(self) -> int:
            p.register(pipe.writing, POLLOUT)
            assert p.poll(0) == [(pipe.writing, POLLOUT)]
            return 0

    p.register(pipe.reading, POLLIN)
    assert p.poll(Meddler()) == [(pipe.writing, POLLOUT)]


@pytest.mark.parametrize("refusal", rows(REFUSED))
def test_a_bad_timeout_is_told_before_a_concurrent_wait(pipe: Pipe, refusal: Refusal) -> None:
    p = set_of(pipe.reading)
    results: list[list[tuple[int, int]]] = []

    def wait() -> None:
        while not results:
            try:
                results.append(p.poll())
            except RuntimeError:
                # The set was in the hands of the other thread, which looks whether it is busy.
                time.sleep(0.001)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        while True:
            try:
                p.poll(0)
            except RuntimeError as error:
                assert str(error) == "concurrent poll() invocation"  # noqa: PT017
                break
            time.sleep(0.001)
        assert_refused(refusal, error_of(p.poll, refusal.value))
        assert type(error_of(p.poll, 0)) is RuntimeError
        assert results == []
    finally:
        os.write(pipe.writing, b"x")
        waiting.join()
    assert results == [[(pipe.reading, POLLIN)]]
    assert p.poll(0) == [(pipe.reading, POLLIN)]


# ---- As select.poll ------------------------------------------------------------------------

SELECT_KNOWS = (int, float, Index)


@agrees_with_select
@pytest.mark.parametrize("refusal", rows({**NOT_A_NUMBER, **WRONG_TYPE}))
def test_select_poll_refuses_the_same_timeouts_alike(ready: int, refusal: Refusal) -> None:
    if isinstance(refusal.value, (Decimal, Measured)):
        pytest.skip("select.poll takes no such number")
    if isinstance(refusal.value, OnlyFloat) and sys.version_info >= (3, 15):
        pytest.skip("select.poll takes what has __float__() alone from CPython 3.15 on")
    theirs = select.poll()
    theirs.register(ready, POLLIN)
    assert type(error_of(theirs.poll, refusal.value)) is refusal.error


@agrees_with_select
@pytest.mark.parametrize("row", rows(LIMITED))
def test_select_poll_waits_no_shorter_either(pipe: Pipe, row: tuple[Any, int]) -> None:
    timeout, least = row
    if not isinstance(timeout, SELECT_KNOWS) or isinstance(timeout, (LyingInt, FloatWithIndex)):
        pytest.skip("select.poll takes no such number, or believes it")
    theirs = select.poll()
    theirs.register(pipe.reading, POLLIN)
    start = time.monotonic_ns()
    assert theirs.poll(timeout) == []  # type: ignore[arg-type] # typeshed knows no __index__
    assert time.monotonic_ns() - start >= least
