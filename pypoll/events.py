"""The POLL* constants, event masks and `PollEvent`."""

from __future__ import annotations

import sys
from enum import IntFlag, auto

from pypoll.integers import index
from pypoll.library import ffi, lib
from pypoll.messages import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

MAX_MASK = 0xFFFF


def _system_constants() -> dict[str, int]:
    """Return the POLL* constants that the system's headers define."""
    constants = {}
    table = lib.pypoll_constants()
    place = 0
    while table[place].name:
        constants[ffi.string(table[place].name).decode()] = table[place].value
        place += 1
    return constants


CONSTANTS = _system_constants()
globals().update(CONSTANTS)

DEFAULT_MASK = CONSTANTS["POLLIN"] | CONSTANTS["POLLPRI"] | CONSTANTS["POLLOUT"]


def event_mask(mask: SupportsIndex) -> int:
    """Return an event mask as a plain int.

    Accepts an int from 0 to 65535, because poll(2) takes 16 bits, or an object whose
    ``__index__()`` returns one. Raises TypeError for anything else, ValueError if the number is
    negative, and OverflowError if it is too large.

    >>> event_mask(PollEvent(17))
    17
    >>> event_mask(65536)
    Traceback (most recent call last):
        ...
    OverflowError: event mask 65536 is too large: expected 0 to 65535
    """
    number = index(mask, "event mask")
    if number < 0:
        raise ValueError(f"event mask cannot be negative ({shown(number)}): expected 0 to 65535")
    if number > MAX_MASK:
        raise OverflowError(f"event mask {shown(number)} is too large: expected 0 to 65535")
    return number


class EventFlag(IntFlag):
    """An IntFlag whose str() and repr() are the same in every Python version."""

    def __str__(self) -> str:
        value = left = int(self)
        names = []
        for name, bits in CONSTANTS.items():
            # Some systems have two names for the same bit, such as POLLOUT and POLLWRNORM.
            if left & bits:
                names.append(name)
                left &= ~bits
        if left or not value:
            names.append(f"{left:#x}")
        return "|".join(names)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self}: {int(self)}>"

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)


if TYPE_CHECKING:
    # For type checkers: the names that every system has, then those of single systems.
    POLLIN: int
    POLLPRI: int
    POLLOUT: int
    POLLERR: int
    POLLHUP: int
    POLLNVAL: int
    POLLRDNORM: int
    POLLRDBAND: int
    POLLWRNORM: int
    POLLWRBAND: int
    if sys.platform == "linux":
        POLLMSG: int
        POLLREMOVE: int
        POLLRDHUP: int
    elif sys.platform == "darwin":
        POLLEXTEND: int
        POLLATTRIB: int
        POLLNLINK: int
        POLLWRITE: int
        POLLSTANDARD: int
    elif sys.platform.startswith("freebsd"):
        POLLRDHUP: int
        POLLINIGNEOF: int
        POLLSTANDARD: int

    class PollEvent(EventFlag):
        """An event mask, or the events of a descriptor, shown by name."""

        POLLIN = auto()
        POLLPRI = auto()
        POLLOUT = auto()
        POLLERR = auto()
        POLLHUP = auto()
        POLLNVAL = auto()
        POLLRDNORM = auto()
        POLLRDBAND = auto()
        POLLWRNORM = auto()
        POLLWRBAND = auto()
        if sys.platform == "linux":
            POLLMSG = auto()
            POLLREMOVE = auto()
            POLLRDHUP = auto()
        elif sys.platform == "darwin":
            POLLEXTEND = auto()
            POLLATTRIB = auto()
            POLLNLINK = auto()
            POLLWRITE = auto()
            POLLSTANDARD = auto()
        elif sys.platform.startswith("freebsd"):
            POLLRDHUP = auto()
            POLLINIGNEOF = auto()
            POLLSTANDARD = auto()
else:
    # `from pypoll.events import *` gives the package the constants of this system.
    __all__ = list(CONSTANTS)

    PollEvent = EventFlag("PollEvent", CONSTANTS, module="pypoll")
    PollEvent.__doc__ = """An event mask, or the events of a descriptor, shown by name.

    poll() returns plain ints; PollEvent(event) makes them readable. Bits without a name are kept
    and shown as a number.

    >>> PollEvent(17)
    <PollEvent.POLLIN|POLLHUP: 17>
    >>> str(PollEvent.POLLIN | PollEvent.POLLOUT)
    'POLLIN|POLLOUT'
    >>> PollEvent(17) & PollEvent.POLLHUP == 16
    True
    """
