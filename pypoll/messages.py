"""Text for the values in error messages."""

from __future__ import annotations

import reprlib

LONGEST = 200

# Abbreviates long containers, but shows everything that fits into LONGEST characters.
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = LONGEST + 1

# Returns the real name of a class, even if a metaclass overrides __name__.
_name_of = type.__dict__["__name__"].__get__


def shown(value: object) -> str:
    """Return a short repr of any value, without raising an exception.

    A plain repr() fails for an int with too many digits, and if the value's repr raises. An object
    without its own repr is shown by its type.

    >>> shown("x"), shown(-1), shown(10**5000), shown(object())
    ("'x'", '-1', 'an int of 16610 bits', 'an object')
    """
    if type(value) is int and -(10**18) < value < 10**18:
        return repr(value)  # the common case; ten times as fast
    name = _name_of(type(value))
    if type(name) is not str:
        name = "object"
    article = "an" if name[:1].lower() in "aeiou" else "a"
    text = None
    try:
        if isinstance(value, int) and int.bit_length(value) > 128:
            text = f"{article} {name} of {int.bit_length(value)} bits"
        elif type(value).__repr__ is not object.__repr__:
            text = _repr.repr(value)
    except Exception:
        text = None
    # A subclass of str may report a wrong length, and PyPy relies on it.
    if type(text) is not str:
        text = f"{article} {name}"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
