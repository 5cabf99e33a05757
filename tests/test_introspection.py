"""Signatures, type hints and help() of everything public."""

from __future__ import annotations

import inspect
import pydoc
import re
import typing
from typing import Any

import pytest

import pypoll

FUNCTIONS = [pypoll.poll_fd, pypoll.install]
CLASSES = [pypoll.Poll, pypoll.PollSelector]
METHODS = [
    getattr(cls, name)
    for cls in CLASSES
    for name in dir(cls)
    if not name.startswith("_") and callable(getattr(cls, name))
]


@pytest.mark.parametrize("call", FUNCTIONS + METHODS, ids=lambda call: str(call.__qualname__))
def test_type_hints_can_be_evaluated(call: Any) -> None:
    hints = typing.get_type_hints(call)
    parameters = {*inspect.signature(call).parameters} - {"self"}
    # Those that PollSelector inherits from the standard library have none.
    assert {*hints} == {*parameters, "return"} or "selectors" in call.__module__


@pytest.mark.parametrize("cls", CLASSES)
def test_type_hints_of_a_class_can_be_evaluated(cls: type) -> None:
    assert typing.get_type_hints(cls) == {}


def test_poll_takes_no_arguments_and_says_so() -> None:
    assert str(inspect.signature(pypoll.Poll)) == "()"
    with pytest.raises(TypeError):
        pypoll.Poll(1)  # type: ignore[call-arg]


def test_a_subclass_has_the_signature_of_its_own_constructor() -> None:
    class Named(pypoll.Poll):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    assert Named("x").name == "x"
    assert str(inspect.signature(Named)) != "()"


def test_help_shows_no_private_names() -> None:
    shown = pydoc.plain(pydoc.render_doc(pypoll))
    described = shown[shown.index("\nCLASSES") :]
    # The two arguments are those of Poll.__new__().
    private = {*re.findall(r"\b_[a-z]\w*", described)} - {"_args", "_kwargs"}
    assert private == set()
    for name in ("Poll(", "PollSelector(", "poll_fd(", "install("):
        assert name in described


@pytest.mark.parametrize("name", [name for name in pypoll.__all__ if not name.startswith("POLL")])
def test_every_public_name_is_described(name: str) -> None:
    value = getattr(pypoll, name)
    if callable(value):
        assert inspect.getdoc(value)
