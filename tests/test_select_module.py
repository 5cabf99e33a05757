"""``from pypoll import select`` instead of ``import select``."""

from __future__ import annotations

import os
import select as standard
import subprocess
import sys
from pathlib import Path

import pytest

import pypoll
from pypoll import select


def test_select_has_everything_that_the_interpreters_module_has() -> None:
    for name in dir(standard):
        if not name.startswith("_") and name != "poll":
            assert getattr(select, name) == getattr(standard, name), name


def test_select_has_pypolls_poll_and_all_its_constants() -> None:
    assert select.poll is pypoll.Poll
    constants = [name for name in pypoll.__all__ if name.startswith("POLL")]
    assert len(constants) >= 10
    for name in constants:
        assert getattr(select, name) == getattr(pypoll, name), name


def test_error_is_os_error(pipe: tuple[int, int]) -> None:
    assert pypoll.error is select.error is OSError
    closed = os.dup(pipe[0])
    os.close(closed)
    with pytest.raises(select.error):
        select.select([closed], [], [], 0)


def test_submodules_are_imported_on_first_use(tmp_path: Path) -> None:
    program = (
        "import sys, pypoll\n"
        "assert not {'pypoll.select', 'pypoll.types'} & {*sys.modules}\n"
        "assert pypoll.select.poll is pypoll.Poll\n"
        "assert pypoll.types.FileDescriptorLike is not None\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)


def test_an_unknown_attribute_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'pypoll' has no attribute 'nothing'"):
        pypoll.nothing  # type: ignore[attr-defined]  # noqa: B018
