"""Type checkers accept what users write and refuse mistakes; the stub matches the module."""

from __future__ import annotations

import importlib.util
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

STUB = Path(str(_shim.__file__)).parent / "_shim.pyi"
USER_CODE = Path(__file__).parent / "user_code.py"


needs_mypy = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="mypy is not installed here"
)
needs_pyright = pytest.mark.skipif(
    importlib.util.find_spec("basedpyright") is None, reason="basedpyright is not installed here"
)


def checked(directory: Path, *command: str) -> None:
    # pyright finds the interpreter, and by that the package, there, if it verifies types.
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


@needs_mypy
@pytest.mark.parametrize("system", ["linux", "darwin", "freebsd14"])
def test_users_code_passes_a_strict_check_by_mypy(system: str, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    checked(
        tmp_path, "mypy", "--strict", "--platform", system, "--cache-dir", cache, str(USER_CODE)
    )


@needs_pyright
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
    checked(tmp_path, "basedpyright", "--pythonpath", sys.executable, "--warnings")


@needs_pyright
def test_the_type_of_everything_that_users_can_reach_is_known(tmp_path: Path) -> None:
    checked(tmp_path, "basedpyright", "--verifytypes", "pypoll", "--ignoreexternal")


# mypy's stubtest sees two variables, ffi and lib, and nothing of what is in them.
def test_the_stub_names_just_what_the_compiled_module_has() -> None:
    stub = STUB.read_text("utf-8")
    named = set(re.findall(r"\b(?:pypoll|PYPOLL)_\w+", stub))
    assert named == set(dir(lib))
    for name in re.findall(r"def (\w+)\(self", stub.split("class _Ffi")[1].split("class _Lib")[0]):
        assert callable(getattr(ffi, name))


def test_the_stub_names_just_what_the_package_uses() -> None:
    sources = "".join(path.read_text("utf-8") for path in STUB.parent.glob("*.py"))
    stub = STUB.read_text("utf-8")
    for name in re.findall(r"\b(?:pypoll|PYPOLL)_\w+", stub):
        assert f"lib.{name}" in sources, name
    for name in re.findall(r"def (\w+)\(self", stub.split("class _Ffi")[1].split("class _Lib")[0]):
        assert re.search(rf"\bffi\.{name}\b", sources), name


def test_functions_of_the_stub_take_as_many_arguments_as_those_of_the_module() -> None:
    introspecting: Any = ffi
    declared = re.findall(r"def (pypoll_\w+)\(\s*self(.*?)\)", STUB.read_text("utf-8"), re.DOTALL)
    for name, parameters in declared:
        function = introspecting.typeof(getattr(lib, name))
        assert parameters.count(":") == len(function.args), name
    assert len(declared) >= 20
