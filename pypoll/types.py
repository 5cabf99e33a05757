"""The types in the signatures of pypoll, for your own annotations.

pypoll itself does not import this module: importing typing takes 3 ms, half as long as the rest of
pypoll. Type checkers and ``typing.get_type_hints`` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional, Protocol, SupportsIndex, Union

__all__ = [
    "Any",
    "FileDescriptorLike",
    "HasFileno",
    "RealNumber",
    "SignalMask",
    "SupportsIndex",
    "SupportsIntegerRatio",
    "Timeout",
]


class HasFileno(Protocol):
    """An object that knows its file descriptor: a file, a socket, a selector."""

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


class SupportsIntegerRatio(Protocol):
    """A number that is exactly one integer over another: Fraction, Decimal, float, int."""

    def as_integer_ratio(self) -> tuple[int, int]:
        """Return numerator and denominator."""
        ...


FileDescriptorLike = Union[int, HasFileno]
RealNumber = Union[float, SupportsIndex, SupportsIntegerRatio]
Timeout = Optional[RealNumber]
SignalMask = Optional[Iterable[int]]
