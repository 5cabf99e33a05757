"""How a refused value is shown in an error message."""

from __future__ import annotations

import reprlib


def shown(value: object) -> str:
    """Return a short repr of *value*, whatever it is.

    A message must not fail in its turn: int refuses to print very many digits, and a repr
    may raise anything.

    >>> shown("x"), shown(-1), shown(10**5000)
    ("'x'", '-1', 'an int of 16610 bits')
    """
    if isinstance(value, int) and int.bit_length(value) > 128:
        return f"an {type(value).__name__} of {int.bit_length(value)} bits"
    return reprlib.repr(value)
