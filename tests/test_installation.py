"""What an installation holds, and what a broken one says."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import zipapp
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import pypoll
from pypoll import _shim

PACKAGE = Path(pypoll.__file__).parent


def imported_from(
    directory: Path, program: str = "import pypoll; print(pypoll.__file__)"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def copied_to(directory: Path) -> Path:
    shutil.copytree(PACKAGE, directory / "pypoll", ignore=shutil.ignore_patterns("__pycache__"))
    return directory / "pypoll"


@pytest.mark.parametrize("version", ["99.9", "0.0.1"], ids=["older", "newer"])
def test_a_compiled_module_of_another_version_is_refused_by_name(
    version: str, tmp_path: Path
) -> None:
    library = copied_to(tmp_path) / "library.py"
    assert str(tmp_path) in imported_from(tmp_path).stdout
    source = library.read_text("utf-8")
    library.write_text(source.replace(f'"{pypoll.__version__}"', f'"{version}"'), "utf-8")
    ran = imported_from(tmp_path)
    assert ran.returncode == 1
    assert f"this is pypoll {version}, but its compiled module is of version" in ran.stderr
    assert pypoll.__version__ in ran.stderr


def test_a_compiled_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    package = copied_to(tmp_path)
    for compiled in package.glob("_shim.*so"):
        compiled.unlink()
    ran = imported_from(tmp_path)
    assert ran.returncode == 1
    assert f"ImportError: {package} has no compiled module, and this interpreter" in ran.stderr
    assert "install pypoll with this interpreter's pip" in ran.stderr
    assert "During handling" not in ran.stderr


def test_a_source_tree_that_is_not_compiled_says_what_to_do(tmp_path: Path) -> None:
    for compiled in copied_to(tmp_path).glob("_shim.*so"):
        compiled.unlink()
    (tmp_path / "build_poll.py").touch()
    ran = imported_from(tmp_path)
    assert ran.returncode == 1
    assert f"importing pypoll from its source directory {tmp_path}, where" in ran.stderr
    assert "run Python from another directory, or pip install -e ." in ran.stderr


def test_a_compiled_module_for_another_interpreter_is_named(tmp_path: Path) -> None:
    package = copied_to(tmp_path)
    for compiled in package.glob("_shim.*so"):
        compiled.rename(package / "_shim.cpython-20-z80.so")
    ran = imported_from(tmp_path)
    assert ran.returncode == 1
    assert f"ImportError: {package} has _shim.cpython-20-z80.so, and this" in ran.stderr
    assert all(f"_shim{suffix}" in ran.stderr for suffix in EXTENSION_SUFFIXES)


def test_a_compiled_module_in_an_archive_is_refused_with_a_way_out(tmp_path: Path) -> None:
    application = tmp_path / "application"
    application.mkdir()
    copied_to(application)
    (application / "__main__.py").write_text("import pypoll\n", "utf-8")
    archive = tmp_path / "application.pyz"
    zipapp.create_archive(application, archive)
    ran = subprocess.run(
        [sys.executable, archive],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    assert f"ImportError: {archive / 'pypoll'} is in an archive" in ran.stderr
    assert "install pypoll beside it" in ran.stderr


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy has cffi built in")
def test_a_compiled_module_without_cffi_says_how_to_get_it(tmp_path: Path) -> None:
    copied_to(tmp_path)
    program = "import sys; sys.modules['_cffi_backend'] = None; import pypoll"
    ran = imported_from(tmp_path, program)
    assert ran.returncode == 1
    assert "ImportError: pypoll needs cffi, which is not installed here" in ran.stderr
    assert "pip install cffi" in ran.stderr


def test_a_copy_under_another_name_is_refused(tmp_path: Path) -> None:
    copied_to(tmp_path).rename(tmp_path / "vendored")
    assert "ImportError: pypoll was imported as vendored" in (
        imported_from(tmp_path, "import vendored").stderr
    )
    inner = tmp_path / "application"
    copied_to(inner)
    assert "ImportError: pypoll was imported as application.pypoll" in (
        imported_from(tmp_path, "import application.pypoll").stderr
    )
    with pytest.raises(ImportError, match=r"imported as pypoll[.]pypoll, but"):
        runpy.run_path(str(PACKAGE / "__init__.py"), run_name="pypoll.pypoll")
    # That the program has one installed too makes no difference, but on sys.path the copy works.
    ran = imported_from(
        tmp_path, "import sys; sys.path.insert(0, 'application'); import pypoll; pypoll.Poll()"
    )
    assert ran.returncode == 0, ran.stderr


def test_importing_writes_no_file_but_what_python_caches(tmp_path: Path) -> None:
    package = copied_to(tmp_path)
    before = set(tmp_path.rglob("*"))
    ran = imported_from(tmp_path, "import sys; sys.dont_write_bytecode = True; import pypoll")
    assert ran.returncode == 0, ran.stderr
    assert set(tmp_path.rglob("*")) == before
    assert imported_from(tmp_path).returncode == 0
    assert {path.relative_to(package).parts[0] for path in set(tmp_path.rglob("*")) - before} <= {
        "__pycache__"
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads descriptors and threads from /proc")
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
