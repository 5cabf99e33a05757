"""``from pypoll import select`` in the place of ``import select``."""

from __future__ import annotations

import ast
import importlib.util
import os
import select as standard
import subprocess
import sys
from pathlib import Path

import pytest

import pypoll
from pypoll import select

# Programs that import select. Those that are installed are looked at.
PROGRAMS = [
    *("gevent", "paramiko", "pexpect", "pika", "psutil", "psycopg2", "serial", "sh"),
    *("supervisor", "tornado", "twisted", "urllib3", "waitress", "watchdog", "zmq"),
]


def test_select_has_all_that_the_interpreters_module_has() -> None:
    names = {name for name in dir(standard) if not name.startswith("_")}
    assert names - {*dir(select)} == set()
    for name in names - {"poll"}:
        assert getattr(select, name) == getattr(standard, name), name


def test_select_has_pypolls_poll_and_all_its_constants() -> None:
    assert select.poll is pypoll.Poll
    constants = [name for name in pypoll.__all__ if name.startswith("POLL")]
    assert len(constants) >= 10
    for name in constants:
        assert getattr(select, name) == getattr(pypoll, name), name


def test_select_waits_with_the_other_calls_too(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    assert select.select([reading], [writing], [], 0) == ([], [writing], [])
    closed = os.dup(reading)
    os.close(closed)
    with pytest.raises(select.error):
        select.select([closed], [], [], 0)


def test_error_is_os_error() -> None:
    assert pypoll.error is select.error is OSError


def test_submodules_are_imported_when_they_are_used(tmp_path: Path) -> None:
    program = (
        "import sys, pypoll\n"
        "assert not {'pypoll.select', 'pypoll.types'} & {*sys.modules}\n"
        "assert pypoll.select.poll is pypoll.Poll\n"
        "assert pypoll.types.FileDescriptorLike is not None\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'pypoll' has no attribute 'nothing'"):
        pypoll.nothing  # type: ignore[attr-defined]  # noqa: B018


def names_used(module: Path) -> set[str]:
    """Return the names of the select module that a module uses."""
    tree = ast.parse(module.read_text("utf-8"))
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "select"
    }
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "select" and not node.level:
            names |= {alias.name for alias in node.names}
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
        ):
            names.add(node.attr)
    return names


@pytest.mark.parametrize("program", PROGRAMS)
def test_known_programs_find_all_that_they_use(program: str) -> None:
    spec = importlib.util.find_spec(program)
    if spec is None or spec.origin is None:
        pytest.skip(f"{program} is not installed here")
    modules = [*Path(spec.origin).parent.rglob("*.py")]
    used = set().union(*map(names_used, modules))
    assert used, "it does not use the select module"
    assert used & {*dir(standard)} <= {*dir(select)}
