"""The types in pypoll's signatures, for your own annotations.

Type checkers and ``typing.get_type_hints`` import this module. pypoll itself does not, because
importing typing takes 3 ms, half as long as importing everything else in pypoll.
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
    """An object with a file descriptor, such as a file, a socket or a selector."""

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


class SupportsIntegerRatio(Protocol):
    """A number that is an exact ratio of two integers: Fraction, Decimal, float, int."""

    def as_integer_ratio(self) -> tuple[int, int]:
        """Return the numerator and the denominator."""
        ...


FileDescriptorLike = Union[int, HasFileno]
RealNumber = Union[float, SupportsIndex, SupportsIntegerRatio]
Timeout = Optional[RealNumber]
SignalMask = Optional[Iterable[int]]
