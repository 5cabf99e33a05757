"""Type checkers accept what users write and refuse mistakes; the stub matches the module."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pypoll import _shim
from pypoll.library import ffi, lib
from support import needs_package

STUB = Path(str(_shim.__file__)).parent / "_shim.pyi"
USER_CODE = Path(__file__).parent / "user_code.py"


def check(directory: Path, *command: str) -> None:
    # To verify types, pyright looks for the interpreter in PATH, and for the package with it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_package("mypy")
@pytest.mark.parametrize("system", ["linux", "darwin", "freebsd14"])
def test_users_code_passes_a_strict_check_by_mypy(system: str, tmp_path: Path) -> None:
    check(tmp_path, "mypy", "--strict", "--platform", system, str(USER_CODE))


@needs_package("basedpyright")
@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_users_code_passes_a_strict_check_by_pyright(system: str, tmp_path: Path) -> None:
    settings = {
        "include": [str(USER_CODE)],
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "pythonVersion": "3.9",
        "pythonPlatform": system,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    check(tmp_path, "basedpyright", "--pythonpath", sys.executable, "--warnings")


@needs_package("basedpyright")
def test_the_types_of_all_public_names_are_known(tmp_path: Path) -> None:
    check(tmp_path, "basedpyright", "--verifytypes", "pypoll", "--ignoreexternal")


# mypy's stubtest checks the variables ffi and lib, but not their attributes.
def test_the_stub_names_exactly_what_the_module_has_and_the_package_uses() -> None:
    stub = STUB.read_text("utf-8")
    sources = "".join(path.read_text("utf-8") for path in STUB.parent.glob("*.py"))
    functions = set(re.findall(r"\b(?:pypoll|PYPOLL)_\w+", stub))
    assert functions == set(dir(lib))
    assert functions <= set(re.findall(r"\blib\.(\w+)", sources))
    ffi_stub = stub.split("class _Ffi")[1].split("class _Lib")[0]
    for name in re.findall(r"def (\w+)\(self", ffi_stub):
        assert callable(getattr(ffi, name))
        assert re.search(rf"\bffi\.{name}\b", sources), name


def test_functions_of_the_stub_take_as_many_arguments_as_those_of_the_module() -> None:
    typeof: Any = getattr(ffi, "typeof")  # noqa: B009 - the stub lacks it
    declared = re.findall(r"def (pypoll_\w+)\(\s*self(.*?)\)", STUB.read_text("utf-8"), re.DOTALL)
    for name, parameters in declared:
        assert parameters.count(":") == len(typeof(getattr(lib, name)).args), name
    assert len(declared) >= 20
