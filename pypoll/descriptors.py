"""Conversion of file descriptors and file objects to plain ints."""

from __future__ import annotations

import warnings

from pypoll.integers import plain
from pypoll.messages import shown

MAX_DESCRIPTOR = 2**31 - 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pypoll.types import FileDescriptorLike


def descriptor(fd: FileDescriptorLike, stacklevel: int = 3) -> int:
    """Return the number of a descriptor, or of an object with a ``fileno()`` that returns one.

    An int is used as it is, even if it has a ``fileno``. A bool emits a RuntimeWarning, as in
    CPython 3.13 and later (CPython issue 82626). *stacklevel* is that of the warning.

    Raises TypeError for anything else, ValueError for a negative number, and OverflowError for a
    number that does not fit a C int. Exceptions of ``fileno()`` propagate.

    >>> descriptor(3)
    3
    >>> descriptor(-1)
    Traceback (most recent call last):
        ...
    ValueError: file descriptor cannot be a negative integer (-1)
    """
    if isinstance(fd, bool):
        warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=stacklevel)
    if isinstance(fd, int):
        number: int = fd
    else:
        try:
            fileno = fd.fileno
        except AttributeError:
            raise TypeError(
                f"file descriptor must be an int, or have a fileno() method, not {shown(fd)}"
            ) from None
        number = fileno()
        if not isinstance(number, int):
            raise TypeError(f"fileno() of {shown(fd)} returned {shown(number)}, not an int")
    number = plain(number)
    if not -MAX_DESCRIPTOR - 1 <= number <= MAX_DESCRIPTOR:
        raise OverflowError(
            f"file descriptor {shown(number)} does not fit a C int: expected 0 to {MAX_DESCRIPTOR}"
        )
    if number < 0:
        cause = "" if isinstance(fd, int) else f": {shown(fd)} is closed or has none"
        raise ValueError(f"file descriptor cannot be a negative integer ({number}){cause}")
    return number
