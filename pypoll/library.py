"""Imports the compiled module, and checks that its version matches the Python code."""

from __future__ import annotations

try:
    # The compiled module imports this too, but freezers such as PyInstaller cannot see that.
    import _cffi_backend  # noqa: F401

    from pypoll._shim import ffi, lib
except ModuleNotFoundError as _error:
    import os
    import re
    from importlib.machinery import EXTENSION_SUFFIXES

    _directory = os.path.dirname(__file__)
    if not os.path.isdir(_directory):
        _reason = (
            f"{_directory} is in an archive, from which Python cannot import a compiled module: "
            "install pypoll beside it, or make an archive that unpacks itself, with shiv or pex"
        )
    elif _error.name == "_cffi_backend":
        _reason = "pypoll needs cffi, which is not installed here: pip install cffi"
    elif os.path.exists(os.path.join(os.path.dirname(_directory), "build_poll.py")):
        _reason = (
            f"You are importing pypoll from its source directory {os.path.dirname(_directory)}, "
            "where it is not compiled: run Python from another directory, or pip install -e ."
        )
    else:
        _found = [name for name in os.listdir(_directory) if re.match(r"_shim\.(?!pyi$)", name)]
        _reason = (
            f"{_directory} has {', '.join(_found) or 'no compiled module'}, and this interpreter "
            f"looks for {' or '.join('_shim' + suffix for suffix in EXTENSION_SUFFIXES)}: it was "
            "installed for another interpreter, or copied without its compiled module; install "
            "pypoll with this interpreter's pip"
        )
    raise ImportError(_reason, name=_error.name, path=_directory) from None

__all__ = ["__version__", "ffi", "lib"]

__version__ = "0.2.0"
# Check this first: a compiled module of another version may lack functions, or have structures of
# another layout.
_compiled_version = ffi.string(lib.pypoll_version()).decode()
if _compiled_version != __version__:
    raise ImportError(
        f"this is pypoll {__version__}, but its compiled module is of version "
        f"{_compiled_version}: two installations are mixed up; "
        "uninstall pypoll and install it again"
    )

lib.pypoll_watch_forks()
