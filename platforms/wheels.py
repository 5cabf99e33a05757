"""Repairs a wheel with auditwheel, checks it and copies it to DIST.

    python platforms/wheels.py DIST FIRST SECOND

FIRST and SECOND are directories with one wheel each, built by pip from the same source. The two
wheels must be identical.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MAX_BYTES = 100_000
# Before 2.17, glibc has clock_gettime() in another library.
STABLE_ABI = re.compile(r"pypoll-.+-cp39-abi3-.*(manylinux_2_17_\w+|musllinux_1_2_x86_64)[.]whl")


def run(*command: str | Path) -> None:
    """Run a tool of this Python's environment, with the environment first on PATH."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def repair(directory: Path) -> Path:
    """Return the directory's wheel, tagged with the oldest platform that it supports."""
    (built,) = directory.glob("*.whl")
    run("auditwheel", "repair", "-w", directory / "repaired", built)
    (wheel,) = (directory / "repaired").glob("*.whl")
    return wheel


def collect(dist: Path, first: Path, second: Path) -> None:
    """Check the two wheels, and copy one of them to *dist*."""
    wheel, again = repair(first), repair(second)
    if (wheel.name, wheel.read_bytes()) != (again.name, again.read_bytes()):
        sys.exit(f"two builds of the same commit differ: {wheel} and {again}")
    run("check-wheel-contents", wheel)
    run("twine", "check", "--strict", wheel)
    if "-cp39-" in wheel.name:
        run("abi3audit", "--strict", "--report", wheel)
        if not STABLE_ABI.fullmatch(wheel.name):
            sys.exit(f"unexpected file name {wheel.name}: expected {STABLE_ABI.pattern}")
        size = wheel.stat().st_size
        if size >= MAX_BYTES:
            sys.exit(f"{wheel.name} has {size:,} bytes, expected fewer than {MAX_BYTES:,}")
    shutil.copy(wheel, dist)


if __name__ == "__main__":
    collect(*map(Path, sys.argv[1:]))
