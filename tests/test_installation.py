"""An installation is complete, and a broken one says why it cannot be imported."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Callable

import pytest

import pypoll
from support import PYPY, linux_only

PACKAGE = Path(pypoll.__file__).parent


def ran(directory: Path, program: str) -> tuple[int, str]:
    """Run a program in the directory, and return the exit status and the errors."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


def copied_to(directory: Path) -> Path:
    shutil.copytree(PACKAGE, directory / "pypoll", ignore=shutil.ignore_patterns("__pycache__"))
    return directory / "pypoll"


def change_version(package: Path) -> None:
    library = package / "library.py"
    source = library.read_text("utf-8")
    library.write_text(source.replace(f'"{pypoll.__version__}"', '"99.9"'), "utf-8")


def remove_module(package: Path) -> None:
    for compiled in package.glob("_shim.*so"):
        compiled.unlink()


def leave_sources(package: Path) -> None:
    remove_module(package)
    (package.parent / "build_poll.py").touch()


def rename_module(package: Path) -> None:
    for compiled in package.glob("_shim.*so"):
        compiled.rename(package / "_shim.cpython-20-z80.so")


def archive(package: Path) -> None:
    shutil.make_archive(str(package.parent / "archive"), "zip", package.parent, "pypoll")
    shutil.rmtree(package)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (
            change_version,
            ["this is pypoll 99.9, but its compiled module is of version", pypoll.__version__],
        ),
        (remove_module, ["pypoll has no compiled module, and this interpreter", "pip"]),
        (leave_sources, ["importing pypoll from its source directory", "pip install -e ."]),
        (rename_module, ["has _shim.cpython-20-z80.so, and this", *EXTENSION_SUFFIXES]),
        (archive, ["is in an archive", "install pypoll beside it"]),
    ],
)
def test_a_broken_installation_says_what_is_wrong(
    break_it: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    package = copied_to(tmp_path)
    program = "import os, sys; sys.path.insert(1, os.path.abspath('archive.zip')); import pypoll"
    assert ran(tmp_path, program) == (0, "")
    break_it(package)
    status, errors = ran(tmp_path, program)
    assert status == 1
    assert "ImportError: " in errors
    assert "During handling" not in errors
    assert [word for word in [str(tmp_path), *words] if word not in errors] == []


@pytest.mark.skipif(PYPY, reason="PyPy has cffi built in")
def test_without_cffi_the_import_says_how_to_install_it(tmp_path: Path) -> None:
    status, errors = ran(tmp_path, "import sys; sys.modules['_cffi_backend'] = None; import pypoll")
    assert status == 1
    assert "ImportError: pypoll needs cffi, which is not installed here: pip install cffi" in errors


def test_a_copy_under_another_name_is_refused(tmp_path: Path) -> None:
    copied_to(tmp_path).rename(tmp_path / "vendored")
    copied_to(tmp_path / "application")
    for name in "vendored", "application.pypoll":
        assert f"ImportError: pypoll was imported as {name}" in ran(tmp_path, f"import {name}")[1]
    with pytest.raises(ImportError, match=r"imported as pypoll[.]pypoll, but"):
        runpy.run_path(str(PACKAGE / "__init__.py"), run_name="pypoll.pypoll")
    # On sys.path, a copy works, even if pypoll is installed as well.
    program = "import sys; sys.path.insert(0, 'application'); import pypoll; pypoll.Poll()"
    assert ran(tmp_path, program) == (0, "")


@linux_only
def test_the_import_writes_no_file_opens_no_descriptor_and_starts_no_thread(tmp_path: Path) -> None:
    copied_to(tmp_path)
    program = (
        "import os, pathlib, sys, threading, _cffi_backend\n"
        "sys.dont_write_bytecode = True\n"
        "def state():\n"
        "    files = {str(path) for path in pathlib.Path().rglob('*')}\n"
        "    return files, os.listdir('/proc/self/fd'), os.listdir('/proc/self/task')\n"
        "before = state()\n"
        "import pypoll\n"
        "assert state() == before\n"
    )
    assert ran(tmp_path, program) == (0, "")


def test_types_are_installed_and_c_sources_are_not() -> None:
    """The second also shows that the tests use an installed package and no source tree."""
    names = {path.name for path in PACKAGE.iterdir()}
    assert {"py.typed", "_shim.pyi"} <= names
    assert not {name for name in names if name.endswith((".c", ".h"))}
