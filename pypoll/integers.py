"""The integer in what may be a subclass, or a stand-in, with ideas of its own."""

from __future__ import annotations

import operator

from pypoll.messages import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


def plain(number: int) -> int:
    """Return the int that C sees, whatever methods a subclass has put over it.

    `int(number)` asks the subclass, and so does `int.__index__(number)` on PyPy.
    """
    return int.__add__(number, 0)


def index(value: SupportsIndex, name: str) -> int:
    """Return the plain int that *value* is or stands for, or raise TypeError naming what it is.

    What its own ``__index__()`` raises propagates.
    """
    try:
        return plain(operator.index(value))
    except TypeError:
        if hasattr(type(value), "__index__"):
            raise
        raise TypeError(f"{name} must be an int, not {shown(value)}") from None
