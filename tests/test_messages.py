"""What error messages say of the value that was refused, however hard it is to show."""

from __future__ import annotations

import re
import socket
from typing import Any, Callable

import pytest

from pypoll import EVENT_READ, POLLOUT, Poll, PollSelector
from support import EqualToAll, FileLike, Pipe, error_of, nothing_changes, rows, set_of


class LyingStr(str, metaclass=EqualToAll):
    """Is not as long as it says, and cannot be formatted."""

    __slots__ = ()

    def __len__(self) -> int:
        return 10**9

    def _itself(self, _other: object) -> LyingStr:
        return self

    __getitem__ = __add__ = __radd__ = _itself

    def __format__(self, spec: str) -> str:
        raise LookupError


class LyingMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__repr__"):
            raise LookupError
        return super().__getattribute__(name)


class Untold(metaclass=LyingMeta):
    pass


class Misnamed:
    pass


Misnamed.__name__ = LyingStr("Misnamed")


class ShownByLies:
    def __repr__(self) -> str:
        return LyingStr("lies")


class ShownWithoutEnd:
    def __repr__(self) -> str:
        return repr(self)


def nested(depth: int) -> object:
    return [nested(depth - 1)] * 6 if depth else "0123456789" * 3


UNSHOWABLE: dict[str, Callable[[], Any]] = {
    "its class does not tell its name": Untold,
    "its class has a name that lies": Misnamed,
    "its class has a long name": type("L" * 10_000, (), {}),
    "its repr is a str that lies": ShownByLies,
    "its repr never ends": ShownWithoutEnd,
    "its repr is long all over": lambda: nested(4),
}


@pytest.mark.parametrize("make", rows(UNSHOWABLE))
def test_a_value_that_is_hard_to_show_is_refused_like_any_other(
    pipe: Pipe, selector: PollSelector, make: Callable[[], Any]
) -> None:
    p = set_of({pipe.writing: POLLOUT})
    calls: list[Callable[[], object]] = [
        lambda: p.register(make()),
        lambda: p.register(FileLike(make())),
        lambda: p.register(0, make()),
        lambda: p.poll(make()),
        lambda: p.ppoll(0, [make()]),
        lambda: selector.register(make(), EVENT_READ),
    ]
    with nothing_changes(p):
        for call in calls:
            # Not by pytest.raises(): pytest fails itself where it shows such objects.
            try:
                call()
            except Exception as error:
                kind, message = type(error), str(error)
            assert kind in (TypeError, ValueError)
            assert re.match("[a-z ]+ must |fileno|Invalid file object: ", message)
            assert len(message) < 450


def message_about(value: Any) -> str:
    return str(error_of(Poll().register, 0, value))


@pytest.mark.parametrize("length", [197, 198, 199, 10_000])
def test_messages_show_up_to_200_characters_of_a_value(selector: PollSelector, length: int) -> None:
    shown = "a " + "L" * length
    cut = shown if len(shown) <= 200 else shown[:200] + "..."
    assert message_about(type("L" * length, (), {})()) == f"event mask must be an int, not {cut}"

    class File(FileLike):
        def __repr__(self) -> str:
            return shown[:201]

    assert error_of(selector.get_key, File(0)).args == (f"{cut} is not registered",)


class EqualMethod(metaclass=EqualToAll):
    """Is equal to the repr that every object has."""

    def __eq__(self, other: object) -> bool:
        return True

    def __call__(self) -> str:
        return "shown all the same"

    __hash__ = object.__hash__


def test_an_object_with_a_repr_of_its_own_is_shown_by_it() -> None:
    value = type("Shown", (), {"__repr__": EqualMethod()})()
    assert message_about(value) == "event mask must be an int, not shown all the same"


class MuteError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


@pytest.mark.parametrize("error", [MuteError(), RuntimeError("x" * 10_000)])
def test_exceptions_of_fileno_are_shown_if_they_can_be(
    selector: PollSelector, error: Exception
) -> None:
    refused = error_of(selector.register, FileLike(error), EVENT_READ)
    assert type(refused) is ValueError
    assert str(refused).startswith("Invalid file object: ")
    assert len(str(refused)) < 500


def test_a_socket_is_shown_whole(selector: PollSelector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
    with client:
        selector.register(client.fileno(), EVENT_READ)
        twice = error_of(selector.register, client, EVENT_READ)
        assert twice.args == (f"{client!r} (FD {client.fileno()}) is already registered",)
        selector.unregister(client)
        assert error_of(selector.unregister, client).args == (f"{client!r} is not registered",)
