"""What an installation holds, and what a broken one says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pypoll
from pypoll import _shim

PACKAGE = Path(pypoll.__file__).parent


def imported_from(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import pypoll; print(pypoll.__file__)"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def copied_to(directory: Path) -> Path:
    shutil.copytree(PACKAGE, directory / "pypoll", ignore=shutil.ignore_patterns("__pycache__"))
    return directory / "pypoll"


def test_a_compiled_module_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    library = copied_to(tmp_path) / "library.py"
    assert str(tmp_path) in imported_from(tmp_path).stdout
    source = library.read_text("utf-8")
    library.write_text(source.replace(f'"{pypoll.__version__}"', '"99.9"'), "utf-8")
    ran = imported_from(tmp_path)
    assert ran.returncode == 1
    assert "ImportError: this is pypoll 99.9, but its compiled module is of version" in ran.stderr
    assert pypoll.__version__ in ran.stderr


def test_importing_opens_no_descriptor_and_starts_no_thread(tmp_path: Path) -> None:
    program = (
        "import os, threading, _cffi_backend\n"
        "before = os.listdir('/proc/self/fd'), os.listdir('/proc/self/task')\n"
        "import pypoll\n"
        "assert (os.listdir('/proc/self/fd'), os.listdir('/proc/self/task')) == before\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)


def test_types_and_stub_are_installed_and_c_sources_are_not() -> None:
    names = {path.name for path in PACKAGE.iterdir()}
    assert {"py.typed", "_shim.pyi"} <= names
    assert not {name for name in names if name.endswith((".c", ".h"))}


def test_the_tests_use_an_installed_package_and_no_source_tree() -> None:
    assert not (PACKAGE / "shim.c").exists()
    assert Path(str(_shim.__file__)).parent == PACKAGE
