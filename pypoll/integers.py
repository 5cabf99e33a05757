"""The integer in what may be a subclass with ideas of its own."""

from __future__ import annotations


def plain(number: int) -> int:
    """Return the int that C sees, whatever methods a subclass has put over it.

    `int(number)` asks the subclass, and so does `int.__index__(number)` on PyPy.
    """
    return int.__add__(number, 0)
