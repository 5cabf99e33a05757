"""The examples in docstrings and in the README do what they say."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pypoll
from pypoll.library import lib

README = Path(__file__).parent.parent / "README.md"
# The package itself has what belongs to no module of it: PollEvent, which is made by a call.
MODULES = ("", ".descriptors", ".events", ".messages", ".poller", ".selector", ".timeouts")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_hold(name: str) -> None:
    module = importlib.import_module(f"pypoll{name}")
    names = {**vars(module), **vars(pypoll)}
    results = doctest.testmod(module, extraglobs=names)
    assert results.attempted > 0
    assert results.failed == 0


def fenced(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_examples_in_the_readme_hold() -> None:
    examples = [block for block in fenced("python") if ">>>" in block]
    assert examples
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner()
    names: dict[str, object] = {}
    for block in examples:
        test = parser.get_doctest(block, names, "README.md", "README.md", 0)
        runner.run(test, clear_globs=False)
        names = test.globs
    assert runner.summarize().failed == 0


def test_the_programs_in_the_readme_run(tmp_path: Path) -> None:
    programs = [block for block in fenced("python") if ">>>" not in block]
    assert programs
    for program in programs:
        if ".ppoll(" in program and not lib.pypoll_has_ppoll():
            continue  # this build refuses the signal mask that the program shows
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            check=False,
            timeout=60,
            capture_output=True,
            text=True,
        )
        assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("heading", ["Try it", "Run the tests"])
def test_each_command_of_the_readme_stands_alone_in_one_line(heading: str) -> None:
    section = README.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    language, command = blocks[0]
    assert language == "sh"
    assert len(command.strip().splitlines()) == 1


def test_every_public_name_says_what_it_is() -> None:
    for name in pypoll.__all__:
        value = getattr(pypoll, name)
        if callable(value):
            assert value.__doc__, name
    for name, value in vars(pypoll.Poll).items():
        if not name.startswith("_"):
            assert value.__doc__, name
