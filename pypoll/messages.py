"""How a refused value is shown in an error message."""

from __future__ import annotations

import reprlib

LONGEST = 200

# Cuts long containers short, but shows all of what fits.
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = LONGEST + 1

# Asked of the class itself, where a metaclass may answer as it likes.
_name_of = type.__dict__["__name__"].__get__


def shown(value: object) -> str:
    """Return a short repr of *value*, whatever it is.

    A message must not fail in its turn: int refuses to print very many digits, and a repr may
    raise anything. An object without a repr of its own is shown by its type.

    >>> shown("x"), shown(-1), shown(10**5000), shown(object())
    ("'x'", '-1', 'an int of 16610 bits', 'an object')
    """
    if type(value) is int and -(10**18) < value < 10**18:
        return repr(value)  # the commonest value, in a tenth of the time
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
    # A str of somebody's own may lie about its length, and PyPy believes that.
    if type(text) is not str:
        text = f"{article} {name}"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
