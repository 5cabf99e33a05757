"""Signatures, type hints and help() of everything public."""

from __future__ import annotations

import inspect
import pydoc
import re
import sys
import typing
from typing import Any

import pytest

import pypoll

CLASSES = [pypoll.Poll, pypoll.PollSelector]
CALLS = [pypoll.poll_fd, pypoll.install]
CALLS += [
    getattr(cls, name)
    for cls in CLASSES
    for name in dir(cls)
    if not name.startswith("_") and callable(getattr(cls, name))
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call.__qualname__))
def test_type_hints_can_be_evaluated(call: Any) -> None:
    hints = typing.get_type_hints(call)
    parameters = {*inspect.signature(call).parameters} - {"self"}
    # Methods that PollSelector inherits from the standard library have none.
    assert {*hints} == {*parameters, "return"} or "selectors" in call.__module__


@pytest.mark.parametrize("cls", CLASSES)
def test_type_hints_of_a_class_can_be_evaluated(cls: type) -> None:
    assert typing.get_type_hints(cls) == {}


def test_arguments_of_poll_and_poll_fd_are_positional_only() -> None:
    mask = pypoll.POLLIN | pypoll.POLLPRI | pypoll.POLLOUT
    expected = {
        "register": f"(self, fd, eventmask={mask}, /)",
        "modify": "(self, fd, eventmask, /)",
        "unregister": "(self, fd, /)",
        "poll": "(self, timeout=None, /)",
        "ppoll": "(self, timeout=None, sigmask=None, /)",
        "poll_fd": f"(fd, eventmask={mask}, timeout=None, /)",
    }
    for name, signature in expected.items():
        found = inspect.signature(getattr(pypoll.Poll, name, None) or getattr(pypoll, name))
        parameters = [
            parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in found.parameters.values()
        ]
        assert str(inspect.Signature(parameters)) == signature


def test_the_constructor_of_poll_takes_no_arguments() -> None:
    assert str(inspect.signature(pypoll.Poll)) == "()"
    with pytest.raises(TypeError):
        pypoll.Poll(1)  # type: ignore[call-arg]


@pytest.mark.skipif(sys.version_info < (3, 9, 5), reason="early 3.9 shows that of __new__()")
def test_a_subclass_has_the_signature_of_its_own_constructor() -> None:
    class Named(pypoll.Poll):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    assert Named("x").name == "x"
    assert "name" in str(inspect.signature(Named))


def test_help_describes_every_public_name_and_no_private_one() -> None:
    shown = pydoc.plain(pydoc.render_doc(pypoll))
    described = shown[shown.index("\nCLASSES") :]
    # The two arguments are those of Poll.__new__().
    assert {*re.findall(r"\b_[a-z]\w*", described)} <= {"_args", "_kwargs"}
    for name in ("Poll(", "PollSelector(", "poll_fd(", "install("):
        assert name in described
    for name in pypoll.__all__:
        value = getattr(pypoll, name)
        assert not callable(value) or inspect.getdoc(value), name
