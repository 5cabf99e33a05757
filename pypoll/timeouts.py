"""Conversion of timeouts in milliseconds or seconds to whole nanoseconds.

The C code computes the deadlines, because it reads the clock right before the system call.
"""

from __future__ import annotations

import math
import operator
from numbers import Real

from pypoll.integers import plain
from pypoll.messages import shown

NO_LIMIT = -1
NEGATIVE = -2
PER_MILLISECOND = 1_000_000
PER_SECOND = 1_000_000_000
UNITS = {PER_MILLISECOND: "milliseconds", PER_SECOND: "seconds"}
MAX_NANOSECONDS = 2**63 - 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pypoll.types import Any, RealNumber


def nanoseconds(timeout: RealNumber, unit: int = PER_MILLISECOND) -> int:
    """Return a timeout in nanoseconds, rounded up; -1 if it is infinite, -2 if it is negative.

    *timeout* is a real number of milliseconds, or of *unit* nanoseconds. If it is negative, poll()
    waits indefinitely and a selector does not wait.

    Raises TypeError if *timeout* is not a real number, ValueError if it is a NaN, and OverflowError
    above 2**63 - 1 nanoseconds.

    >>> nanoseconds(1.5)
    1500000
    >>> nanoseconds(1e-300)
    1
    >>> nanoseconds(-0.5)
    -2
    """
    # The most common cases; eight times as fast as the code below.
    if type(timeout) is int and 0 <= timeout <= MAX_NANOSECONDS // unit:
        return timeout * unit
    if type(timeout) is float and 1e-6 <= timeout <= 1e9:
        numerator, denominator = timeout.as_integer_ratio()
        return -(-numerator * unit // denominator)
    number: Any = timeout
    if isinstance(number, float):
        number = float.__float__(number)
    elif hasattr(type(number), "__index__"):
        whole = plain(operator.index(number))
        return NEGATIVE if whole < 0 else _checked(whole * unit, timeout, unit)
    elif not hasattr(type(number), "as_integer_ratio"):
        if not isinstance(number, Real):
            raise TypeError(
                f"timeout must be a real number of {UNITS[unit]} or None, not {shown(number)}"
            )
        number = float(number)
    # Use the nearest float to recognize extreme values. The exact ratio of Decimal('1e-999999999')
    # would exhaust memory.
    try:
        nearest = float(number)
    except OverflowError:
        nearest = math.inf if number > 0 else -math.inf
    except ValueError:
        # float() raises ValueError for a signaling NaN of Decimal, but with another message.
        if not hasattr(type(number), "is_snan"):
            raise
        nearest = math.nan
    if math.isnan(nearest):
        raise ValueError(f"timeout must be a number of {UNITS[unit]}, not {shown(timeout)}")
    if nearest < 0:
        return NEGATIVE
    if number == math.inf:
        return NO_LIMIT
    if nearest < 1e-10:
        return NEGATIVE if number < 0 else int(number > 0)
    if nearest > MAX_NANOSECONDS:
        return _checked(MAX_NANOSECONDS + 1, timeout, unit)
    numerator, denominator = number.as_integer_ratio()
    return _checked(-(-numerator * unit // denominator), timeout, unit)


def _checked(total: int, timeout: RealNumber, unit: int) -> int:
    """Return *total*, or raise OverflowError if it does not fit 64 bits."""
    if total > MAX_NANOSECONDS:
        raise OverflowError(
            f"timeout of {shown(timeout)} {UNITS[unit]} is too long: "
            f"expected at most {MAX_NANOSECONDS // unit}"
        )
    return total
