"""Builds the compiled module: cffi generates its source from shim.h, and setuptools compiles it.

pyproject.toml registers the two classes below as the build_ext and bdist_wheel commands.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import cffi
import setuptools
from cffi import FFI
from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
from setuptools.command.build_ext import build_ext as _build_ext

ROOT = Path(__file__).parent
MODULE = "pypoll._shim"
HEADER = ROOT / "pypoll" / "shim.h"

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# The stable ABI of free-threaded builds (PEP 803) needs CPython 3.15, cffi 2.1 and setuptools 84.
FREE_THREADED_STABLE_ABI = (
    FREE_THREADED
    and sys.version_info >= (3, 15)
    and cffi.__version_info__ >= (2, 1)
    and int(setuptools.__version__.split(".")[0]) >= 84
)

# Only CPython has a stable ABI. Debug builds support it too, but look for other file names.
STABLE_ABI = (
    sys.implementation.name == "cpython"
    and (not FREE_THREADED or FREE_THREADED_STABLE_ABI)
    and not sysconfig.get_config_var("Py_DEBUG")
)

# If set, compile the code for systems without ppoll(2), so that it can be tested on any system.
POLL_ONLY = os.environ.get("PYPOLL_POLL_ONLY", "") not in ("", "0")


def declarations(header: str) -> str:
    """Return the declarations of a header, without its preprocessor lines."""
    return "\n".join(line for line in header.splitlines() if not line.startswith("#"))


def ffi_builder() -> FFI:
    """Return the cffi builder of the compiled module."""
    builder = FFI()
    builder.cdef(declarations(HEADER.read_text(encoding="utf-8")))
    builder.set_source(MODULE, '#include "shim.h"')
    return builder


class build_ext(_build_ext):  # noqa: N801 - the name of the setuptools command
    """Builds the module from shim.c and the source that cffi generates."""

    def build_extension(self, ext: Extension) -> None:
        """Generate the source, choose the compiler options, and compile it."""
        compiler = getattr(self.compiler, "compiler_so", ["cc"])[0]
        if shutil.which(compiler) is None:
            raise SystemExit(
                f"pypoll needs a C compiler, but {compiler!r} was not found. Install one (Debian: "
                "gcc and python3-dev, Fedora: gcc and python3-devel, Alpine: gcc, musl-dev and "
                "python3-dev, macOS: xcode-select --install), or set the environment variable CC "
                "to yours."
            )
        generated = Path(self.build_temp, "_shim.c")
        generated.parent.mkdir(parents=True, exist_ok=True)
        ffi_builder().emit_c_code(str(generated))
        ext.sources = [str(generated), "pypoll/shim.c"]
        ext.include_dirs = ["pypoll"]
        ext.define_macros = [("PYPOLL_VERSION", f'"{self.distribution.get_version()}"')]
        if not STABLE_ABI:
            ext.define_macros.append(("_CFFI_NO_LIMITED_API", "1"))
        elif FREE_THREADED:
            ext.define_macros.append(("Py_TARGET_ABI3T", "0x030f0000"))
        if POLL_ONLY:
            ext.define_macros.append(("PYPOLL_POLL_ONLY", "1"))
        # Export only the module's init function.
        ext.extra_compile_args = ["-pthread", "-fvisibility=hidden"]
        ext.extra_link_args = ["-pthread"]
        # Always compile. setuptools compares file dates, which do not show a changed setting.
        self.force = True
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file name, with the suffix of the stable ABI if the module uses it.

        On CPython 3.15, setuptools would add the platform, and older versions would not find it.
        """
        if STABLE_ABI:
            suffix = ".abi3t.so" if FREE_THREADED else ".abi3.so"
            return os.path.join(*fullname.split(".")) + suffix
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]


class bdist_wheel(_bdist_wheel):  # noqa: N801 - the name of the setuptools command
    """Tags the wheel for CPython 3.9 and later, or 3.15 and later for free-threaded builds.

    A wheel without the stable ABI gets the tag of its interpreter.
    """

    def finalize_options(self) -> None:
        """Choose the oldest CPython that the wheel supports."""
        if STABLE_ABI:
            self.py_limited_api = "cp315" if FREE_THREADED else "cp39"
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag with one ABI only.

        For free-threaded builds, setuptools also adds the stable ABI of builds with the GIL, which
        can load the module too. On those, pip would then prefer this wheel to the one for 3.9.
        """
        python, abi, platform = super().get_tag()
        return python, "abi3t" if FREE_THREADED and STABLE_ABI else abi, platform
