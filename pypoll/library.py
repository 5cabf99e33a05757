"""The one door to the compiled module."""

from __future__ import annotations

try:
    # The compiled module imports it too; by name, for freezers do not look into that.
    import _cffi_backend  # noqa: F401

    from pypoll._shim import ffi, lib
except ModuleNotFoundError as _error:
    import os
    import re
    from importlib.machinery import EXTENSION_SUFFIXES

    _directory = os.path.dirname(__file__)
    if not os.path.isdir(_directory):
        _reason = (
            f"{_directory} is in an archive, out of which no compiled module can be imported: "
            "install pypoll beside it, or make one that unpacks itself, as those of shiv and pex do"
        )
    elif _error.name == "_cffi_backend":
        _reason = "pypoll needs cffi, which is not installed here: pip install cffi"
    else:
        _found = [name for name in os.listdir(_directory) if re.match(r"_shim\.(?!pyi$)", name)]
        _reason = (
            f"{_directory} has {', '.join(_found) or 'no compiled module'}, and this interpreter "
            f"looks for {' or '.join('_shim' + suffix for suffix in EXTENSION_SUFFIXES)}: it is a "
            "source tree or a copy of one, or was installed for another interpreter; install "
            "pypoll by pip, and import that"
        )
    raise ImportError(_reason, name=_error.name, path=_directory) from None

__all__ = ["__version__", "ffi", "lib"]

__version__ = "0.1.0"
# Before anything else of the library is touched: a compiled part that an older install left
# behind, or a newer one put here, may lack what this one calls, or lay it out differently.
_compiled_version = ffi.string(lib.pypoll_version()).decode()
if _compiled_version != __version__:
    raise ImportError(
        f"this is pypoll {__version__}, but its compiled module is of version "
        f"{_compiled_version}: two installations are mixed up; uninstall pypoll and install it anew"
    )

lib.pypoll_watch_forks()
