"""``python -m pypoll`` prints the facts that a bug report needs, as text or as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

import pypoll
from pypoll.__main__ import c_library
from pypoll.library import lib


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pypoll", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        # `-m` looks in the working directory first, which may be a source tree.
        cwd=tempfile.gettempdir(),
    )


def test_the_report_names_versions_and_constants() -> None:
    ran = report()
    assert (ran.returncode, ran.stderr) == (0, "")
    for name in ("pypoll:", "python:", "cffi:", "system:", "C library:", "ppoll:", "stable ABI:"):
        assert name in ran.stdout
    assert pypoll.__version__ in ran.stdout
    assert f"POLLIN       {pypoll.POLLIN:#06x}" in ran.stdout


def test_the_json_report_has_the_same_facts() -> None:
    ran = report("--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    facts = json.loads(ran.stdout)
    assert facts["pypoll"] == pypoll.__version__
    assert facts["ppoll"] is bool(lib.pypoll_has_ppoll())
    assert facts["constants"] == {
        name: getattr(pypoll, name) for name in pypoll.__all__ if name.startswith("POLL")
    }
    text = report().stdout
    assert all(f"{name}:" in text for name in facts)
    assert f"ppoll:         {'yes' if facts['ppoll'] else 'no'}\n" in text
    assert ran.stdout == json.dumps(facts, indent=2) + "\n"
    if sys.implementation.name == "pypy":
        assert facts["stable ABI"] is False


def test_an_unknown_argument_is_a_usage_error() -> None:
    ran = report("--frobnicate")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "usage: python -m pypoll" in ran.stderr


def test_a_c_library_that_does_not_tell_its_version_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def confstr(name: str) -> str:
        raise ValueError(f"unrecognized configuration name {name}")

    told = c_library()
    monkeypatch.setattr(os, "confstr", confstr)
    # What the interpreter was linked with: of another version, it may be.
    assert c_library().split()[0] == told.split()[0]
