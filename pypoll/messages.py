"""Short text for any value in an error message."""

from __future__ import annotations

import reprlib

LONGEST = 200

# Shortens long containers, and shows all of a value that fits.
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = LONGEST + 1

# The real name of a class, even if a metaclass overrides it.
_name_of = type.__dict__["__name__"].__get__


def shown(value: object) -> str:
    """Return a short repr of any value.

    An error message must not fail itself: int refuses to print very many digits, and a repr may
    raise any exception. An object without its own repr is shown by its type.

    >>> shown("x"), shown(-1), shown(10**5000), shown(object())
    ("'x'", '-1', 'an int of 16610 bits', 'an object')
    """
    if type(value) is int and -(10**18) < value < 10**18:
        return repr(value)  # the most common case, ten times as fast
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
    # A subclass of str may return a wrong length, which PyPy trusts.
    if type(text) is not str:
        text = f"{article} {name}"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
