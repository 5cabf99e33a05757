"""Conversion of int subclasses and int-like objects to plain ints."""

from __future__ import annotations

import operator

from pypoll.messages import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


def plain(number: int) -> int:
    """Return the value of an int as a plain int, even if it is a subclass that overrides methods.

    ``int(number)`` calls methods of the subclass. On PyPy, so does ``int.__index__(number)``.
    """
    return int.__add__(number, 0)


def index(value: SupportsIndex, name: str) -> int:
    """Return *value* as a plain int, or raise TypeError if it is not an int.

    *name* is the name of the value in the message. Exceptions of ``__index__()`` propagate.
    """
    try:
        return plain(operator.index(value))
    except TypeError:
        if hasattr(type(value), "__index__"):
            raise
        raise TypeError(f"{name} must be an int, not {shown(value)}") from None
