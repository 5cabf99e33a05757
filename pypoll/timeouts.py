"""Any real number of milliseconds or seconds, to whole nanoseconds.

The deadlines that follow from them are the shim's: it reads the clock next to the system call.
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
    """Return the nanoseconds in a timeout, rounded up; -1 for no limit, -2 if it is negative.

    *timeout* is a real number of milliseconds, or of another *unit* of so many nanoseconds. No
    limit is ``math.inf``; a negative one is that too to poll(), and no wait to a selector. Raises
    TypeError for what is not a real number, ValueError for a NaN, and OverflowError for more than
    2**63 - 1 nanoseconds.

    >>> nanoseconds(1.5)
    1500000
    >>> nanoseconds(1e-300)
    1
    >>> nanoseconds(-0.5)
    -2
    """
    # What nearly everybody passes, in an eighth of the time of what follows.
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
    # The nearest float tells first what can be told without the exact ratio, which for
    # Decimal('1e-999999999') would fill the memory.
    try:
        nearest = float(number)
    except OverflowError:
        nearest = math.inf if number > 0 else -math.inf
    except ValueError:
        # Of a Decimal it is the signaling NaN that float() refuses, in words of its own.
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
    """Return *total*, if that many nanoseconds fit the 64 bits of the clock."""
    if total > MAX_NANOSECONDS:
        raise OverflowError(
            f"timeout of {shown(timeout)} {UNITS[unit]} is too long: "
            f"expected at most {MAX_NANOSECONDS // unit}"
        )
    return total
