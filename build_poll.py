"""Tells cffi what the shim's header declares, and setuptools how to build it.

pyproject.toml names the two classes below as the build_ext and bdist_wheel commands.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel as _bdist_wheel  # type: ignore[no-redef]

ROOT = Path(__file__).parent
MODULE = "pypoll._shim"
HEADER = ROOT / "pypoll" / "shim.h"

# The stable ABI is CPython's; its debug builds have it too, but import what they build
# under a name of their own, and cffi has none for free-threaded builds.
STABLE_ABI = (
    sys.implementation.name == "cpython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and not sysconfig.get_config_var("Py_DEBUG")
)

# Builds the form for systems without ppoll(2), which is how their path is tested on others.
POLL_ONLY = os.environ.get("PYPOLL_POLL_ONLY", "") not in ("", "0")


def declarations(header: str) -> str:
    """Return what the header declares, without its preprocessor lines."""
    return "\n".join(line for line in header.splitlines() if not line.startswith("#"))


def ffi_builder() -> FFI:
    """Return the description of the compiled module."""
    builder = FFI()
    builder.cdef(declarations(HEADER.read_text(encoding="utf-8")))
    builder.set_source(MODULE, '#include "shim.h"')
    return builder


class build_ext(_build_ext):  # noqa: N801 - setuptools names its commands so
    """Builds the module from the source that cffi writes and from shim.c."""

    def build_extension(self, ext: Extension) -> None:
        """Write the source, settle how to compile it, and do so."""
        compiler = getattr(self.compiler, "compiler_so", ["cc"])[0]
        if shutil.which(compiler) is None:
            raise SystemExit(
                f"pypoll is built from C, and there is no C compiler here: {compiler!r} was not "
                "found. Install one (Debian: gcc and python3-dev, Fedora: gcc and python3-devel, "
                "Alpine: gcc, musl-dev and python3-dev, macOS: xcode-select --install), or name "
                "yours in the environment variable CC."
            )
        generated = Path(self.build_temp, "_shim.c")
        generated.parent.mkdir(parents=True, exist_ok=True)
        ffi_builder().emit_c_code(str(generated))
        ext.sources = [str(generated), "pypoll/shim.c"]
        ext.include_dirs = ["pypoll"]
        ext.py_limited_api = STABLE_ABI
        ext.define_macros = [("PYPOLL_VERSION", f'"{self.distribution.get_version()}"')]
        if not STABLE_ABI:
            ext.define_macros.append(("_CFFI_NO_LIMITED_API", "1"))
        if POLL_ONLY:
            ext.define_macros.append(("PYPOLL_POLL_ONLY", "1"))
        # Nothing but the module's init function is for others to see.
        ext.extra_compile_args = ["-pthread", "-fvisibility=hidden"]
        ext.extra_link_args = ["-pthread"]
        # A changed setting does not show in the dates of the files.
        self.force = True
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file's name, which says whether it keeps to the stable ABI."""
        for ext in self.extensions:
            ext.py_limited_api = STABLE_ABI
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]


class bdist_wheel(_bdist_wheel):  # noqa: N801 - setuptools names its commands so
    """Tags the wheel for every CPython from 3.9 on, where the stable ABI is used."""

    def finalize_options(self) -> None:
        """Settle the tag."""
        if STABLE_ABI:
            self.py_limited_api = "cp39"
        super().finalize_options()
