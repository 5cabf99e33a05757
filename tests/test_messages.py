"""How error messages show the refused value, even if its repr fails."""

from __future__ import annotations

import re
from typing import Any, Callable

import pytest

from descriptors import SocketPair
from pypoll import EVENT_READ, POLLOUT, Poll, PollSelector
from support import FileLike, Pipe, error_of, nothing_changes, rows, set_of


class LyingStr(str):
    """Claims another length than its own, and cannot be formatted."""

    __slots__ = ()

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, _index: object) -> LyingStr:
        return self

    def __format__(self, spec: str) -> str:
        raise LookupError


class NamelessMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__repr__"):
            raise LookupError
        return super().__getattribute__(name)


class Nameless(metaclass=NamelessMeta):
    pass


class Misnamed:
    pass


Misnamed.__name__ = LyingStr("Misnamed")


class ReprLies:
    def __repr__(self) -> str:
        return LyingStr("lies")


class ReprRecurses:
    def __repr__(self) -> str:
        return repr(self)


class Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise LookupError

    __repr__ = __str__


HARD_TO_SHOW: dict[str, Callable[[], Any]] = {
    "its class does not tell its name": Nameless,
    "the name of its class is not a plain str": Misnamed,
    "its repr raises": Unprintable,
    "its repr is not a plain str": ReprLies,
    "its repr never ends": ReprRecurses,
    "its repr is long": lambda: Exception("x" * 10_000),
    "int refuses to print it": lambda: 10**5000,
    "int refuses to print what it contains": lambda: [10**5000],
}


@pytest.mark.parametrize("make", rows(HARD_TO_SHOW))
def test_a_value_that_is_hard_to_show_is_refused_like_any_other(
    pipe: Pipe, selector: PollSelector, make: Callable[[], Any]
) -> None:
    p = set_of({pipe.writing: POLLOUT})
    calls: list[Callable[[], object]] = [
        lambda: p.register(make()),
        lambda: p.register(FileLike([make()])),
        lambda: p.register(0, make()),
        lambda: p.poll(make()),
        lambda: p.ppoll(0, [make()]),
        lambda: selector.register(make(), EVENT_READ),
        lambda: selector.register(FileLike(make()), EVENT_READ),
    ]
    with nothing_changes(p):
        for call in calls:
            # Not pytest.raises(): pytest itself fails to show such objects.
            try:
                call()
            except Exception as error:
                kind, message = type(error), str(error)
            else:
                pytest.fail("not refused")
            assert kind in (TypeError, ValueError, OverflowError)
            assert re.match("[a-z ]+ (must|of) |file|event mask|signal|Invalid file obj", message)
            assert len(message) < 450


@pytest.mark.parametrize("length", [198, 199])
def test_messages_show_up_to_200_characters_of_a_value(selector: PollSelector, length: int) -> None:
    shown = "a " + "L" * length
    cut = shown if len(shown) <= 200 else shown[:200] + "..."
    refused = error_of(Poll().register, 0, type("L" * length, (), {})())
    assert str(refused) == f"event mask must be an int, not {cut}"

    class File(FileLike):
        def __repr__(self) -> str:
            return shown

    assert error_of(selector.get_key, File(0)).args == (f"{cut} is not registered",)


def test_a_socket_is_shown_in_full(selector: PollSelector, pair: SocketPair) -> None:
    client = pair[0]
    assert error_of(selector.unregister, client).args == (f"{client!r} is not registered",)
    selector.register(client.fileno(), EVENT_READ)
    twice = error_of(selector.register, client, EVENT_READ)
    assert twice.args == (f"{client!r} (FD {client.fileno()}) is already registered",)
