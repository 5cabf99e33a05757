"""How long a wait lasts, for each kind of number that a timeout may be.

No wait is shorter than asked, not even by a nanosecond. How much longer it is depends on the
machine, so the upper bounds are generous.
"""

from __future__ import annotations

import decimal
import math
import os
import select
import sys
import time
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
    Index,
    LyingFloat,
    LyingInt,
    Measured,
    OnlyInt,
    Pipe,
    Refusal,
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
# Far longer than a few milliseconds take on the busiest machine.
SOON = 5_000 * MILLISECOND

Wait = Callable[[Poll, int, Any], Any]

# Each waits in a set, or for a descriptor of it, and returns something false if time ran out.
WAITS = [
    pytest.param(lambda p, _, timeout: p.poll(timeout), id="poll"),
    pytest.param(lambda p, _, timeout: p.ppoll(timeout, ()), id="ppoll", marks=needs_ppoll),
    pytest.param(lambda _, fd, timeout: poll_fd(fd, POLLIN, timeout), id="poll_fd"),
]


@pytest.fixture
def p(pipe: Pipe) -> Poll:
    return set_of({pipe.reading: POLLIN})


# ---- Conversion ------------------------------------------------------------------------------

# A number of milliseconds, and the nanoseconds that the wait must last.
NANOSECONDS: dict[str, tuple[Any, int]] = {
    "0": (0, 0),
    "-0.0": (-0.0, 0),
    "Fraction(0)": (Fraction(0), 0),
    "Decimal('0e999999')": (Decimal("0e999999"), 0),
    "__index__() of 0": (Index(0), 0),
    "a float subclass of 0": (LyingFloat(0.0), 0),
    "1": (1, MILLISECOND),
    "True": (True, MILLISECOND),
    "1.5": (1.5, 1_500_000),
    # The float that is written 0.1 is slightly more than that, so it is rounded up.
    "0.1": (0.1, 100_001),
    "1e-6": (1e-6, 1),
    "1e-7": (1e-7, 1),
    "the float nearest to 0": (5e-324, 1),
    "Fraction(1, 3)": (Fraction(1, 3), 333_334),
    "1 ns and a bit": (Fraction(10**6 + 1, 10**12), 2),
    "Fraction(1, 10**400)": (Fraction(1, 10**400), 1),
    "1 ms and a bit": (Fraction(10**400 + 1, 10**400), MILLISECOND + 1),
    "Decimal('0.1')": (Decimal("0.1"), 100_000),
    "Decimal('1.0000001')": (Decimal("1.0000001"), MILLISECOND + 1),
    "Decimal('1e-400000000')": (Decimal("1e-400000000"), 1),
    "__index__()": (Index(2), 2 * MILLISECOND),
    "__index__() returns an int subclass": (Index(LyingInt(2)), 2 * MILLISECOND),
    "an int subclass": (LyingInt(2), 2 * MILLISECOND),
    "a float subclass": (LyingFloat(1.5), 1_500_000),
    "another real number": (Measured(1.5), 1_500_000),
    "2**31+0.5": (2**31 + 0.5, 2**31 * MILLISECOND + 500_000),
    "2e9": (2e9, 2 * 10**9 * MILLISECOND),
    "the longest": (LONGEST, LONGEST * MILLISECOND),
    "the longest as a float": (float(LONGEST), LONGEST * MILLISECOND),
    "the longest as a Decimal": (Decimal(LONGEST), LONGEST * MILLISECOND),
    "the longest as an __index__()": (Index(LONGEST), LONGEST * MILLISECOND),
    "2**63-1 ns": (Fraction(2**63 - 1, MILLISECOND), 2**63 - 1),
}

NEGATIVE_NUMBERS: dict[str, Any] = {
    "-1": -1,
    "-10**5000": -(10**5000),
    "-0.5": -0.5,
    "the negative float nearest to 0": -5e-324,
    "-inf": -math.inf,
    "Decimal('-1e-400000000')": Decimal("-1e-400000000"),
    "Decimal('-Infinity')": Decimal("-Infinity"),
    "Fraction(-1, 10**400)": Fraction(-1, 10**400),
    "-Fraction(10**400)": -Fraction(10**400),
    "__index__() of -1": Index(-1),
    "an int subclass": LyingInt(-1),
    "a float subclass": LyingFloat(-0.5),
    "another real number": Measured(-0.5),
}


@pytest.mark.filterwarnings("ignore:.*__index__:DeprecationWarning")
@pytest.mark.parametrize("row", rows(NANOSECONDS))
def test_a_timeout_is_rounded_up_to_the_nanosecond(row: tuple[Any, int]) -> None:
    timeout, expected = row
    assert nanoseconds(timeout) == expected
    assert type(nanoseconds(timeout)) is int


@pytest.mark.parametrize("unit", [MILLISECOND, PER_SECOND])
def test_infinity_is_told_from_negative_numbers(unit: int) -> None:
    # PollSelector.select() does not wait for negative numbers.
    for name, timeout in NEGATIVE_NUMBERS.items():
        assert (name, nanoseconds(timeout, unit)) == (name, NEGATIVE)
    infinities: list[Any] = [math.inf, Decimal("inf"), LyingFloat(math.inf), Measured(math.inf)]
    for infinite in infinities:
        assert nanoseconds(infinite, unit) == NO_LIMIT


def test_decimals_are_exact_in_any_context() -> None:
    every_trap = dict.fromkeys(decimal.getcontext().traps, True)
    with decimal.localcontext(decimal.Context(prec=1, Emax=1, Emin=-1, traps=every_trap)):
        assert nanoseconds(Decimal("1.0000001")) == 1_000_001
        assert nanoseconds(Decimal("0.9999")) == 999_900
        assert nanoseconds(Decimal("1e-99999")) == 1
        assert type(error_of(nanoseconds, Decimal("NaN"))) is ValueError
        assert type(error_of(nanoseconds, Decimal("1e9999"))) is OverflowError


# ---- Waits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", [None, -1, -0.5, math.inf, 2**31, LONGEST, float(LONGEST)])
def test_a_wait_without_a_limit_or_with_a_long_one_lasts_until_an_event(
    p: Poll, pipe: Pipe, timeout: Any, wait: Wait
) -> None:
    with written_after(pipe, 0.03):
        assert wait(p, pipe.reading, timeout) in ([(pipe.reading, POLLIN)], POLLIN)
    assert wait(p, pipe.reading, timeout) in ([(pipe.reading, POLLIN)], POLLIN)


def test_no_timeout_means_no_limit(p: Poll, pipe: Pipe) -> None:
    waits: list[Callable[[], Any]] = [p.poll, p.ppoll, lambda: poll_fd(pipe.reading)]
    for wait in waits:
        with written_after(pipe):
            assert wait() in ([(pipe.reading, POLLIN)], POLLIN)
        os.read(pipe.reading, 1)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", [0, -0.0, Index(0), 1e-6, 1, 1.5, 0.1, Fraction(1, 3)])
def test_a_wait_is_never_shorter_than_its_timeout(
    p: Poll, pipe: Pipe, timeout: Any, wait: Wait
) -> None:
    for _ in range(3):
        begun = time.monotonic_ns()
        assert not wait(p, pipe.reading, timeout)
        assert nanoseconds(timeout) <= time.monotonic_ns() - begun < SOON
    os.write(pipe.writing, b"x")
    assert wait(p, pipe.reading, timeout) in ([(pipe.reading, POLLIN)], POLLIN)


@pytest.mark.parametrize("timeout", [1, 2.5])
def test_an_empty_set_sleeps(timeout: float) -> None:
    emptied = set_of(dict.fromkeys(range(40), 0))
    for fd in range(40):
        emptied.unregister(fd)
    for p in Poll(), emptied:
        begun = time.monotonic_ns()
        assert p.poll(timeout) == []
        assert timeout * MILLISECOND <= time.monotonic_ns() - begun < SOON
        assert p.poll(0) == []


@needs_ppoll
@pytest.mark.parametrize("wait", WAITS)
def test_a_fraction_of_a_millisecond_is_not_rounded_up_to_one(
    p: Poll, pipe: Pipe, wait: Wait
) -> None:
    taken: list[int] = []
    while not any(time < MILLISECOND for time in taken):
        assert len(taken) < 1000
        begun = time.monotonic_ns()
        assert not wait(p, pipe.reading, 0.05)
        taken.append(time.monotonic_ns() - begun)
    assert min(taken) >= 50_000


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", [0.5, Fraction(1, 2)])
def test_half_a_millisecond_is_slept_and_not_spun(
    p: Poll, pipe: Pipe, timeout: Any, wait: Wait
) -> None:
    # On a busy machine the process may seem to work for longer, though hardly each time.
    for _ in range(20):
        used, begun = time.process_time_ns(), time.monotonic_ns()
        for _ in range(100):
            assert not wait(p, pipe.reading, timeout)
        if time.process_time_ns() - used < (time.monotonic_ns() - begun) / 2:
            return
    raise AssertionError("the waits used the processor for most of their time")


# ---- Refused ---------------------------------------------------------------------------------


def too_long(value: Any, shown: str) -> Refusal:
    return Refusal(value, OverflowError, (f"timeout of {shown}", "too long", f" most {LONGEST}"))


def nan(value: Any, shown: str) -> Refusal:
    return Refusal(value, ValueError, (f"timeout must be a number of milliseconds, not {shown}",))


def wrong(value: Any, shown: str) -> Refusal:
    words = f"timeout must be a real number of milliseconds or None, not {shown}"
    return Refusal(value, TypeError, (words,))


REFUSED = {
    "9223372036855": too_long(LONGEST + 1, str(LONGEST + 1)),
    "9223372036855.0": too_long(float(LONGEST + 1), str(float(LONGEST + 1))),
    "2**63 ns": too_long(Fraction(2**63, MILLISECOND), "Fraction"),
    "10**5000": too_long(10**5000, "an int of 16610 bits"),
    "the largest float": too_long(sys.float_info.max, "1.7976931348623157e+308"),
    "an int subclass": too_long(LyingInt(LONGEST + 1), str(LONGEST + 1)),
    "a float subclass": too_long(LyingFloat(1e300), "1e+300"),
    "__index__()": too_long(Index(10**5000), "an Index"),
    "Decimal": too_long(Decimal(LONGEST + 1), f"Decimal('{LONGEST + 1}')"),
    "Decimal('1e400000000')": too_long(Decimal("1e400000000"), "Decimal('1E+400000000')"),
    "Fraction(10**400)": too_long(Fraction(10**400), "Fraction"),
    "another real number": too_long(Measured(1e300), "a Measured"),
    "nan": nan(math.nan, "nan"),
    "nan as a float subclass": nan(LyingFloat(math.nan), "nan"),
    "Decimal('NaN')": nan(Decimal("NaN"), "Decimal('NaN')"),
    "Decimal('sNaN')": nan(Decimal("sNaN"), "Decimal('sNaN')"),
    "another real number that is a NaN": nan(Measured(math.nan), "a Measured"),
    "a str": wrong("1", "'1'"),
    "a complex": wrong(complex(1), "(1+0j)"),
    "a list": wrong([1], "[1]"),
    "an object": wrong(object(), "an object"),
    "an object with __int__": wrong(OnlyInt(), "an OnlyInt"),
    "a type": wrong(float, "<class 'float'>"),
    "__index__() returns a str": Refusal(Index("1"), TypeError, ("__index__", "int")),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("refusal", rows(REFUSED))
def test_a_bad_timeout_is_refused_and_changes_nothing(
    pipe: Pipe, refusal: Refusal, wait: Wait
) -> None:
    p = set_of({pipe.writing: POLLOUT, NEVER_OPENED: 0, pipe.reading: POLLIN})
    with nothing_changes(p):
        refusal.check(wait, p, pipe.reading, refusal.value)


def test_the_message_names_the_longest_timeout() -> None:
    assert str(error_of(nanoseconds, LONGEST + 1)) == (
        f"timeout of {LONGEST + 1} milliseconds is too long: expected at most {LONGEST}"
    )


def number_whose(method: str, error: BaseException) -> Any:
    """Return a Fraction, one method of which raises."""

    def raises(_number: Fraction) -> Any:
        raise error

    return type("Number", (Fraction,), {method: raises})(1, 3)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("raised", RAISED, ids=repr)
@pytest.mark.parametrize("method", ["__index__", "__float__", "as_integer_ratio"])
def test_exceptions_of_a_numbers_methods_propagate_and_change_nothing(
    p: Poll, pipe: Pipe, method: str, raised: BaseException, wait: Wait
) -> None:
    with nothing_changes(p):
        assert error_of(wait, p, pipe.reading, number_whose(method, raised)) is raised


def test_the_timeout_is_checked_before_another_wait_is_noticed(p: Poll, pipe: Pipe) -> None:
    thread = waiting_thread(p)
    for refusal in REFUSED.values():
        refusal.check(p.poll, refusal.value)
    assert type(error_of(p.poll, 0)) is RuntimeError
    assert thread.is_alive()
    os.write(pipe.writing, b"x")
    assert thread.join() == [(pipe.reading, POLLIN)]


@needs_recent_select
def test_select_poll_refuses_the_same_timeouts() -> None:
    p = select.poll()
    for value, error, _ in REFUSED.values():
        # select.poll has another limit, and knows no other kinds of numbers.
        if error is not OverflowError and not isinstance(value, (Decimal, Measured, LyingFloat)):
            assert type(error_of(p.poll, value)) is error
