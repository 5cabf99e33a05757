"""The one door to the compiled module."""

from __future__ import annotations

from pypoll._shim import ffi, lib

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
