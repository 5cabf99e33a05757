"""`install()` puts pypoll in the place of select.poll for a whole process, and only then."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pypoll

PROGRAM = Path(__file__).parent / "programs" / "install.py"


@pytest.mark.parametrize(
    "guarantee",
    [
        "replaces_what_the_standard_library_uses",
        "works_from_many_threads",
        "leaves_what_others_have_replaced",
        "waits_as_long_as_it_is_asked_to",
        "reaches_subprocess",
        "reaches_multiprocessing",
        "reaches_socketserver",
    ],
)
def test_install(guarantee: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), guarantee],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_import_alone_replaces_nothing() -> None:
    module: Any = select
    assert module.poll is not pypoll.Poll
