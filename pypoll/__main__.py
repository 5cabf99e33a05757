"""``python -m pypoll`` prints what a bug report needs: versions, system and constants."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import Union

import _cffi_backend

from pypoll import _shim
from pypoll.events import CONSTANTS
from pypoll.library import __version__, lib

Report = dict[str, Union[str, bool, dict[str, int]]]


def c_library() -> str:
    """Return the name and version of the C library, or "unknown"."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    except (ValueError, OSError):  # not glibc
        return " ".join(platform.libc_ver()).strip() or "unknown"


def report() -> Report:
    """Return the versions, the system and the constants, by name."""
    return {
        "pypoll": __version__,
        "python": f"{platform.python_implementation()} {' '.join(sys.version.split())}",
        "cffi": _cffi_backend.__version__,
        "system": platform.platform(),
        "C library": c_library(),
        "ppoll": bool(lib.pypoll_has_ppoll()),
        "stable ABI": ".abi3" in str(_shim.__file__),
        "constants": CONSTANTS,
    }


def as_text(facts: Report) -> str:
    """Return the report as text, one fact per line."""
    lines = []
    for name, fact in facts.items():
        if isinstance(fact, dict):
            lines.append(f"{name}:")
            lines += [f"  {constant:<12} {value:#06x}" for constant, value in fact.items()]
        else:
            shown = fact if isinstance(fact, str) else ("yes" if fact else "no")
            lines.append(f"{name + ':':<14} {shown}")
    return "\n".join(lines)


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(
        prog="python -m pypoll", description="Print facts to include in a bug report about pypoll."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    facts = report()
    print(json.dumps(facts, indent=2) if parser.parse_args().json else as_text(facts))


if __name__ == "__main__":
    main()
