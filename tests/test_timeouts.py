"""How long a wait lasts, for each kind of number that a timeout may be.

No wait is shorter than asked, by not a single nanosecond. How much longer it is depends on the
machine, so the upper bounds are generous.
"""

from __future__ import annotations

import contextlib
import decimal
import math
import os
import select
import statistics
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, Callable

import pytest

from pypoll import POLLIN, POLLOUT, Poll, poll_fd
from pypoll.timeouts import NEGATIVE, NO_LIMIT, PER_SECOND, nanoseconds
from support import (
    MILLISECOND,
    NEVER_OPENED,
    RAISED,
    UNPRINTED,
    EqualToAll,
    FakeArray,
    Impostor,
    Index,
    LyingFloat,
    LyingInt,
    Measured,
    OnlyFloat,
    OnlyInt,
    Pipe,
    Refusal,
    ReprRaises,
    error_of,
    needs_ppoll,
    needs_recent_select,
    nothing_changes,
    rows,
    set_of,
    waiting_thread,
    written_after,
)

LONGEST = 9223372036854
# Far more than a wait of nothing or of some milliseconds takes on the busiest machine.
SOON = 5_000 * MILLISECOND

Row = tuple[Any, int]
Call = Callable[[Poll, int, Any], Any]


class FloatWithIndex(float):
    """A float is a float, whatever else it can do."""

    def __index__(self) -> int:
        return 0


class FractionWithoutFloat(Fraction):
    error: BaseException

    def __float__(self) -> float:
        raise self.error


class FractionWithoutRatio(Fraction):
    error: BaseException

    def as_integer_ratio(self) -> tuple[int, int]:
        raise self.error


class Unordered:
    """A number that cannot be compared."""

    def __init__(self, *ratio: int) -> None:
        self.ratio = ratio

    def __float__(self) -> float:
        return self.ratio[0] / self.ratio[1]

    def as_integer_ratio(self) -> tuple[int, ...]:
        return self.ratio


class Computable(metaclass=EqualToAll):
    """Can be compared and multiplied like a number, and is none."""

    def __le__(self, other: object) -> bool:
        return True

    def __mul__(self, other: object) -> int:
        return 1

    __ge__ = __le__


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

    def as_integer_ratio(self) -> Any:
        return self.ratio

    __lt__ = __gt__ = __eq__
    __hash__ = None  # type: ignore[assignment]


WITHOUT_LIMIT: dict[str, Any] = {
    "None": None,
    "-1": -1,
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
LIMITED: dict[str, Row] = {
    "1": (1, MILLISECOND),
    "True": (True, MILLISECOND),
    "20": (20, 20 * MILLISECOND),
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

LONG: dict[str, Row] = {
    "2**31-1": (2**31 - 1, (2**31 - 1) * MILLISECOND),
    "2**31": (2**31, 2**31 * MILLISECOND),
    "2**31+0.5": (2**31 + 0.5, 2**31 * MILLISECOND + 500_000),
    "2**32+1": (2**32 + 1, (2**32 + 1) * MILLISECOND),
    "2**43": (2**43, 2**43 * MILLISECOND),
    "1e9": (1e9, 10**9 * MILLISECOND),
    "the longest": (LONGEST, LONGEST * MILLISECOND),
    "2**63-1 ns": (Fraction(2**63 - 1, MILLISECOND), 2**63 - 1),
    "the longest as a float": (float(LONGEST), LONGEST * MILLISECOND),
    "the longest as a Decimal": (Decimal(LONGEST), LONGEST * MILLISECOND),
    "the longest as an __index__()": (Index(LONGEST), LONGEST * MILLISECOND),
    "the longest as an int subclass": (LyingInt(LONGEST), LONGEST * MILLISECOND),
    "the longest as a float subclass": (LyingFloat(LONGEST), LONGEST * MILLISECOND),
}


def too_long(value: Any, shown: str) -> Refusal:
    return Refusal(value, OverflowError, (shown, "milliseconds is too long", str(LONGEST)))


def nan(value: Any, shown: str) -> Refusal:
    return Refusal(value, ValueError, ("timeout must be", shown, "milliseconds"))


def wrong(value: Any, *shown: str) -> Refusal:
    return Refusal(value, TypeError, (*shown, "timeout", "real number of milliseconds or None"))


NOT_A_NUMBER = {
    "nan": nan(math.nan, "nan"),
    "-nan": nan(-math.nan, "nan"),
    "nan as a float subclass": nan(LyingFloat(math.nan), "nan"),
    "Decimal('NaN')": nan(Decimal("NaN"), "NaN"),
    "Decimal('-NaN')": nan(Decimal("-NaN"), "-NaN"),
    "Decimal('sNaN')": nan(Decimal("sNaN"), "sNaN"),
    "another real number that is a NaN": nan(Measured(math.nan), "Measured"),
}

WRONG_TYPE = {
    "a str": wrong("1", "'1'"),
    "bytes": wrong(b"1", "b'1'"),
    "a bytearray": wrong(bytearray(b"1"), "bytearray"),
    "a complex": wrong(1j, "1j"),
    "a real complex": wrong(complex(1), "(1+0j)"),
    "a list": wrong([1], "[1]"),
    "a tuple": wrong((1, 1), "(1, 1)"),
    "a tuple subclass": wrong(LyingTuple((1, 1))),
    "a list of an int without a repr": wrong([10**5000], UNPRINTED),
    "an object whose class is named array": wrong(FakeArray(), "array"),
    "an object": wrong(object(), "object"),
    "an object without a repr": wrong(ReprRaises(), "ReprRaises"),
    "an object with __int__": wrong(OnlyInt(), "OnlyInt"),
    "an object with __float__": wrong(OnlyFloat(), "OnlyFloat"),
    "an object that claims to be an int": Refusal(Impostor(int), TypeError),
    "an object that claims to be a float": Refusal(Impostor(float), TypeError),
    "a type": wrong(float, "float"),
    "__index__() returns a str": Refusal(Index("1"), TypeError, ("__index__", "int")),
    "__index__() returns None": Refusal(Index(None), TypeError, ("__index__", "int")),
    # PyPy takes its class for one that is registered as a Real, and then float() refuses it.
    "what computes as a number does": Refusal(Computable(), TypeError),
}

REFUSED = {
    "9223372036855": too_long(LONGEST + 1, str(LONGEST + 1)),
    "9223372036855.0": too_long(float(LONGEST + 1), str(float(LONGEST + 1))),
    "2**63 ns": too_long(Fraction(2**63, MILLISECOND), "Fraction"),
    "2**64": too_long(2**64, str(2**64)),
    "10**5000": too_long(10**5000, "int"),
    "1e300": too_long(1e300, "1e+300"),
    "the largest float": too_long(sys.float_info.max, "e+308"),
    "too large an int subclass": too_long(LyingInt(LONGEST + 1), str(LONGEST + 1)),
    "too large a float subclass": too_long(LyingFloat(1e300), "1e+300"),
    "too large an __index__()": too_long(Index(10**5000), "Index"),
    "too large a Decimal": too_long(Decimal(LONGEST + 1), f"Decimal('{LONGEST + 1}')"),
    "Decimal('1e400000000')": too_long(Decimal("1e400000000"), "Decimal('1E+400000000')"),
    "Fraction(10**400)": too_long(Fraction(10**400), "Fraction"),
    "Fraction(10**5000)": too_long(Fraction(10**5000), "Fraction"),
    "another real number": too_long(Measured(1e300), "Measured"),
    **NOT_A_NUMBER,
    **WRONG_TYPE,
}

CONTRADICTORY: dict[str, Any] = {
    "a ratio over 0": Contradictory(1.0, (1, 0)),
    "no ratio": Contradictory(1.0, None),
    "a ratio of three": Contradictory(1.0, (1, 2, 3)),
    "a ratio of strs": Contradictory(1.0, ("1", "2")),
    "a ratio of lying ints": Contradictory(1.0, (LyingInt(1), LyingInt(1))),
    "a lying tuple": Contradictory(1.0, LyingTuple((1, 1))),
    "a huge ratio": Contradictory(1.0, (10**5000, 1)),
    "a hugely negative ratio": Contradictory(1.0, (-(10**5000), 1)),
    "a str for a float": Contradictory("1", (1, 1)),
}

# Each waits in a set, or for a descriptor of it, and returns something false if time ran out.
WAITS = [
    pytest.param(lambda p, _, timeout: p.poll(timeout), id="poll"),
    pytest.param(lambda p, _, timeout: p.ppoll(timeout), id="ppoll"),
    pytest.param(lambda p, _, timeout: p.ppoll(timeout, ()), id="masked", marks=needs_ppoll),
    pytest.param(lambda _, fd, timeout: poll_fd(fd, POLLIN, timeout), id="poll_fd"),
]
# Without a signal mask ppoll is poll.
DISTINCT_WAITS = [wait for wait in WAITS if wait.id != "ppoll"]


@pytest.fixture
def p(pipe: Pipe) -> Poll:
    return set_of({pipe.reading: POLLIN})


# ---- No limit, and no wait -------------------------------------------------------------------


@pytest.mark.parametrize("wait", DISTINCT_WAITS)
@pytest.mark.parametrize("timeout", rows({**WITHOUT_LIMIT, **{k: v for k, (v, _) in LONG.items()}}))
def test_a_wait_without_limit_or_with_a_long_one_lasts_until_an_event(
    p: Poll, pipe: Pipe, timeout: Any, wait: Call
) -> None:
    with written_after(pipe, 0.03):
        assert wait(p, pipe.reading, timeout) in ([(pipe.reading, POLLIN)], POLLIN)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(
    "timeout", rows({**WITHOUT_LIMIT, **AT_ONCE, **{k: v for k, (v, _) in LIMITED.items()}})
)
def test_what_is_ready_is_returned_whatever_the_timeout(
    p: Poll, ready: int, timeout: Any, wait: Call
) -> None:
    assert wait(p, ready, timeout) in ([(ready, POLLIN)], POLLIN)


def test_no_timeout_means_no_limit(p: Poll, pipe: Pipe) -> None:
    result = [(pipe.reading, POLLIN)]
    waits: list[Callable[[], object]] = [p.poll, p.ppoll]
    waits += [lambda: [(pipe.reading, poll_fd(pipe.reading))]]
    for wait in waits:
        with written_after(pipe):
            assert wait() == result
        os.read(pipe.reading, 1)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", rows(AT_ONCE))
def test_zero_returns_at_once(p: Poll, pipe: Pipe, timeout: Any, wait: Call) -> None:
    begun = time.monotonic_ns()
    assert not wait(p, pipe.reading, timeout)
    assert time.monotonic_ns() - begun < SOON


# ---- A limit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("row", rows(LIMITED))
def test_a_wait_is_never_shorter_than_its_timeout(
    p: Poll, pipe: Pipe, row: Row, wait: Call
) -> None:
    timeout, least = row
    for _ in range(3):
        begun = time.monotonic_ns()
        assert not wait(p, pipe.reading, timeout)
        assert least <= time.monotonic_ns() - begun < SOON


@pytest.mark.parametrize(
    "row", rows({**LIMITED, **LONG, **{k: (v, 0) for k, v in AT_ONCE.items()}})
)
def test_a_timeout_is_rounded_up_to_the_nanosecond(row: Row) -> None:
    timeout, least = row
    assert nanoseconds(timeout) == least
    assert type(nanoseconds(timeout)) is int


@pytest.mark.parametrize("timeout", rows({k: v for k, v in WITHOUT_LIMIT.items() if k != "None"}))
def test_infinity_is_told_from_negative_numbers(timeout: Any) -> None:
    # A selector does not wait for these. macOS and older FreeBSD answer EINVAL to others than -1.
    infinite = timeout == math.inf and not isinstance(timeout, LyingInt)
    infinite = infinite and not (isinstance(timeout, LyingFloat) and float.__lt__(timeout, 0.0))
    for unit in (MILLISECOND, PER_SECOND):
        assert nanoseconds(timeout, unit) == (NO_LIMIT if infinite else NEGATIVE)


def test_decimals_are_exact_in_any_context(pipe: Pipe) -> None:
    every_trap = dict.fromkeys(decimal.getcontext().traps, True)
    strict = decimal.Context(prec=1, Emax=1, Emin=-1, traps=every_trap)
    with decimal.localcontext(strict):
        for text, least in ("1.0000001", 1_000_001), ("0.9999", 999_900), ("1e-99999", 1):
            begun = time.monotonic_ns()
            assert poll_fd(pipe.reading, POLLIN, Decimal(text)) == 0
            assert time.monotonic_ns() - begun >= least
            assert nanoseconds(Decimal(text)) == least
        assert type(error_of(poll_fd, pipe.reading, POLLIN, Decimal("NaN"))) is ValueError
        assert type(error_of(poll_fd, pipe.reading, POLLIN, Decimal("1e9999"))) is OverflowError


@pytest.mark.parametrize("timeout", [1, 2.5, 30, Fraction(1, 3)])
def test_an_empty_set_sleeps(timeout: Any) -> None:
    emptied = set_of(dict.fromkeys(range(40), 0))
    for fd in range(40):
        emptied.unregister(fd)
    for p in Poll(), emptied:
        begun = time.monotonic_ns()
        assert p.poll(timeout) == []
        assert timeout * MILLISECOND <= time.monotonic_ns() - begun < SOON
        assert p.poll(0) == p.ppoll(0) == []


# ---- Precision -------------------------------------------------------------------------------


@needs_ppoll
@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_of_50_microseconds_takes_less_than_200(p: Poll, pipe: Pipe, wait: Call) -> None:
    medians = []
    for _ in range(10):
        taken = []
        for _ in range(200):
            begun = time.monotonic_ns()
            assert not wait(p, pipe.reading, 0.05)
            taken.append(time.monotonic_ns() - begun)
        assert min(taken) >= 50_000
        medians.append(statistics.median(taken))
        if medians[-1] < 200_000:
            return
        # Somebody else uses the machine: look again a little later.
        time.sleep(0.2)
    pytest.fail(f"median waits of 0.05 ms lasted {medians} ns")


@pytest.mark.parametrize("wait", DISTINCT_WAITS)
@pytest.mark.parametrize("timeout", [0.5, 0.999, Fraction(1, 2), Decimal("0.5")])
def test_half_a_millisecond_is_slept_and_not_spun(
    p: Poll, pipe: Pipe, timeout: Any, wait: Call
) -> None:
    # Another process may make this one's own work look long, though hardly each time.
    for _ in range(20):
        used, begun = time.process_time_ns(), time.monotonic_ns()
        for _ in range(100):
            assert not wait(p, pipe.reading, timeout)
        elapsed = time.monotonic_ns() - begun
        assert elapsed >= 100 * timeout * MILLISECOND
        if time.process_time_ns() - used < elapsed / 2:
            return
    raise AssertionError("most of the time was spent working")


# ---- Refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("refusal", rows(REFUSED))
def test_a_bad_timeout_is_refused_and_changes_nothing(
    pipe: Pipe, refusal: Refusal, wait: Call
) -> None:
    p = set_of({pipe.writing: POLLOUT, NEVER_OPENED: 0, pipe.reading: POLLIN})
    with nothing_changes(p):
        refusal.check(wait, p, pipe.reading, refusal.value)
        refusal.check(wait, Poll(), pipe.reading, refusal.value)


def test_the_message_names_the_longest_timeout() -> None:
    assert str(error_of(nanoseconds, LONGEST + 1)) == (
        f"timeout of {LONGEST + 1} milliseconds is too long: expected at most {LONGEST}"
    )


def raising(number: Any, error: BaseException) -> Any:
    """Return the number, whose method will raise this."""
    number.error = error
    return number


RAISING: dict[str, Callable[[BaseException], Any]] = {
    "__index__()": Index,
    "__float__()": lambda error: raising(FractionWithoutFloat(1, 3), error),
    "as_integer_ratio()": lambda error: raising(FractionWithoutRatio(1, 3), error),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("raised", rows(RAISED))
@pytest.mark.parametrize("where", rows(RAISING))
def test_exceptions_of_a_numbers_methods_propagate_and_change_nothing(
    p: Poll,
    pipe: Pipe,
    where: Callable[[BaseException], Any],
    raised: BaseException,
    wait: Call,
) -> None:
    with nothing_changes(p):
        assert error_of(wait, p, pipe.reading, where(raised)) is raised


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", rows(CONTRADICTORY))
def test_a_number_that_contradicts_itself_does_no_harm(
    p: Poll, ready: int, timeout: Any, wait: Call
) -> None:
    with nothing_changes(p), contextlib.suppress(TypeError, ValueError, ArithmeticError):
        wait(p, ready, timeout)


def test_the_timeout_is_checked_before_another_thread_is_noticed(p: Poll, pipe: Pipe) -> None:
    thread = waiting_thread(p)
    for refusal in REFUSED.values():
        refusal.check(p.poll, refusal.value)
    assert type(error_of(p.poll, 0)) is RuntimeError
    assert thread.is_alive()
    os.write(pipe.writing, b"x")
    assert thread.join() == [(pipe.reading, POLLIN)]


# ---- As select.poll --------------------------------------------------------------------------


@needs_recent_select
@pytest.mark.parametrize("refusal", rows({**NOT_A_NUMBER, **WRONG_TYPE}))
def test_select_poll_refuses_the_same_timeouts(refusal: Refusal) -> None:
    if isinstance(refusal.value, (Decimal, Measured)):
        pytest.skip("select.poll takes no such number")
    if isinstance(refusal.value, (OnlyFloat, LyingFloat)) and sys.version_info >= (3, 15):
        pytest.skip("from CPython 3.15 on, select.poll asks __float__() first")
    assert type(error_of(select.poll().poll, refusal.value)) is refusal.error
