"""``python -m pypoll`` prints what a bug report needs, as text or as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pypoll
from pypoll.__main__ import c_library
from pypoll.library import lib


def report(directory: Path, *arguments: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "pypoll", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        # `-m` searches the working directory first, which may be a source tree.
        cwd=directory,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_the_report_has_versions_and_constants_as_text_and_as_json(tmp_path: Path) -> None:
    status, printed, errors = report(tmp_path, "--json")
    assert (status, errors) == (0, "")
    facts = json.loads(printed)
    assert printed == json.dumps(facts, indent=2) + "\n"
    assert facts["pypoll"] == pypoll.__version__
    assert facts["ppoll"] is bool(lib.pypoll_has_ppoll())
    assert facts["constants"] == {
        name: getattr(pypoll, name) for name in pypoll.__all__ if name.startswith("POLL")
    }
    status, text, errors = report(tmp_path)
    assert (status, errors) == (0, "")
    names = "pypoll", "python", "cffi", "system", "C library", "ppoll", "stable ABI", "constants"
    assert tuple(facts) == names
    assert all(f"{name}:" in text for name in names)
    assert pypoll.__version__ in text
    assert f"ppoll:         {'yes' if facts['ppoll'] else 'no'}\n" in text
    assert f"POLLIN       {pypoll.POLLIN:#06x}" in text


def test_an_unknown_argument_is_a_usage_error(tmp_path: Path) -> None:
    status, printed, errors = report(tmp_path, "--frobnicate")
    assert (status, printed) == (2, "")
    assert "usage: python -m pypoll" in errors


def test_a_c_library_that_does_not_tell_its_version_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def confstr(name: str) -> str:
        raise ValueError(f"unrecognized configuration name {name}")

    expected = c_library()
    monkeypatch.setattr(os, "confstr", confstr)
    # The version that the interpreter was linked with, which may be another one.
    assert c_library().split()[0] == expected.split()[0]
