"""How a refused value is shown in an error message."""

from __future__ import annotations

import reprlib


def shown(value: object) -> str:
    """Return a short repr of *value*, whatever it is.

    A message must not fail in its turn: int refuses to print very many digits, and a repr may
    raise anything. An object without a repr of its own is shown by its type.

    >>> shown("x"), shown(-1), shown(10**5000), shown(object())
    ("'x'", '-1', 'an int of 16610 bits', 'an object')
    """
    name = type(value).__name__
    article = "an" if name[:1].lower() in "aeiou" else "a"
    if isinstance(value, int) and int.bit_length(value) > 128:
        return f"{article} {name} of {int.bit_length(value)} bits"
    if type(value).__repr__ is object.__repr__:
        return f"{article} {name}"
    try:
        return reprlib.repr(value)
    except Exception:
        return f"{article} {name}"
