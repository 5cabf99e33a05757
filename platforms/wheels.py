"""Checks two builds of a wheel, which must be equal, and puts it where a release is collected.

    python platforms/wheels.py DIST FIRST SECOND

FIRST and SECOND are directories with one wheel each, as pip builds it. auditwheel gives it the tag
of the oldest system on which it runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MOST_BYTES = 100_000
# The oldest systems that clock_gettime() in the C library allows.
STABLE_ABI = re.compile(r"pypoll-.+-cp39-abi3-.*(manylinux_2_17_\w+|musllinux_1_2_x86_64)[.]whl")


def run(*command: str | Path) -> None:
    """Run a tool that is installed beside this Python, and which finds others there."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def repaired(directory: Path) -> Path:
    """Return the wheel of the directory with its tag."""
    (built,) = directory.glob("*.whl")
    run("auditwheel", "repair", "-w", directory / "repaired", built)
    (wheel,) = (directory / "repaired").glob("*.whl")
    return wheel


def collect(dist: Path, first: Path, second: Path) -> None:
    """Check the wheel, and copy it to the directory."""
    wheel, again = repaired(first), repaired(second)
    if (wheel.name, wheel.read_bytes()) != (again.name, again.read_bytes()):
        sys.exit(f"two builds differ: {wheel} and {again}")
    run("check-wheel-contents", wheel)
    run("twine", "check", "--strict", wheel)
    if "-cp39-" in wheel.name:
        run("abi3audit", "--strict", "--report", wheel)
        if not STABLE_ABI.fullmatch(wheel.name):
            sys.exit(f"{wheel.name} does not match {STABLE_ABI.pattern}")
        if wheel.stat().st_size >= MOST_BYTES:
            sys.exit(f"{wheel.name} has {wheel.stat().st_size} bytes")
    shutil.copy(wheel, dist)


if __name__ == "__main__":
    collect(*map(Path, sys.argv[1:]))
