"""Any real number of milliseconds, to whole nanoseconds.

The deadlines that follow from them are the shim's: it reads the clock next to the system call.
"""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any, Protocol, SupportsIndex, Union

from pypoll.messages import shown

__all__ = ["NO_LIMIT", "Milliseconds", "nanoseconds"]

NO_LIMIT = -1
NANOSECONDS_PER_MILLISECOND = 1_000_000
MAX_NANOSECONDS = 2**63 - 1


class SupportsIntegerRatio(Protocol):
    """A number that is exactly one integer over another: Fraction, Decimal, float, int."""

    def as_integer_ratio(self) -> tuple[int, int]:
        """Return numerator and denominator."""
        ...


Milliseconds = Union[float, SupportsIndex, SupportsIntegerRatio]


def nanoseconds(milliseconds: Milliseconds) -> int:
    """Return the nanoseconds in so many milliseconds, rounded up, or -1 for no limit.

    A negative number is no limit, as is ``math.inf``. Raises TypeError for what is not a real
    number, ValueError for a NaN, and OverflowError for more than 2**63 - 1 nanoseconds.

    >>> nanoseconds(1.5)
    1500000
    >>> nanoseconds(1e-300)
    1
    >>> nanoseconds(-0.5)
    -1
    """
    number: Any = milliseconds
    if hasattr(type(number), "__index__"):
        whole = int.__index__(operator.index(number))
        if whole < 0:
            return NO_LIMIT
        return _checked(whole * NANOSECONDS_PER_MILLISECOND, milliseconds)
    if isinstance(number, float):
        number = float.__float__(number)
    elif not hasattr(type(number), "as_integer_ratio"):
        if not isinstance(number, Real):
            raise TypeError(
                f"timeout must be a real number of milliseconds or None, not {shown(number)}"
            )
        number = float(number)
    return _rounded_up(number, milliseconds)


def _rounded_up(number: Any, milliseconds: Milliseconds) -> int:
    """Return the nanoseconds in *number*, a float or something as exact.

    The nearest float tells first what can be told without the exact ratio, which for
    Decimal('1e-999999999') would fill the memory.
    """
    try:
        nearest = float(number)
    except OverflowError:
        nearest = math.inf if number > 0 else -math.inf
    if math.isnan(nearest):
        raise ValueError(f"timeout must be a number of milliseconds, not {shown(milliseconds)}")
    if nearest < 0 or number == math.inf:
        return NO_LIMIT
    if nearest < 1e-7:
        return NO_LIMIT if number < 0 else int(number > 0)
    if nearest > MAX_NANOSECONDS:
        return _checked(MAX_NANOSECONDS + 1, milliseconds)
    numerator, denominator = number.as_integer_ratio()
    return _checked(-(-numerator * NANOSECONDS_PER_MILLISECOND // denominator), milliseconds)


def _checked(total: int, milliseconds: Milliseconds) -> int:
    """Return *total*, if that many nanoseconds fit the 64 bits of the clock."""
    if total > MAX_NANOSECONDS:
        raise OverflowError(
            f"timeout of {shown(milliseconds)} ms is too long: "
            f"expected at most {MAX_NANOSECONDS // NANOSECONDS_PER_MILLISECOND}"
        )
    return total
