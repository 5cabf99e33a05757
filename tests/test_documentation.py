"""The README, docs/ and the docstrings: their examples run, and their sentences are short.

A comment before a block of Python says how the block is tested, if not by running it:

    <!-- test: server -->              it serves until it is killed; this connects to it
    <!-- test: server that stops -->   the same, and Ctrl-C ends it without a traceback
    <!-- test: needs NAME -->          it runs where that is present
    <!-- test: not run: REASON -->
"""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import pypoll
from pypoll.library import lib

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
# The last are the pages that docs/ includes. Where only an sdist was unpacked, some are missing.
PAGES = [
    page
    for page in (README, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("[CS]*.md")))
    if page.exists()
]
# The package itself has what belongs to no module of it: PollEvent, which is made by a call.
MODULES = ("", ".descriptors", ".events", ".messages", ".poller", ".selector", ".timeouts")
LONGEST_SENTENCE = 35  # words
LONGEST_PAGE = 200  # lines
LONGEST_README = 150
PATIENCE = 60


class Block(NamedTuple):
    """A block of Python, and where it is."""

    page: Path
    number: int
    code: str
    instruction: str

    def __str__(self) -> str:
        return f"{self.page.name}-{self.number}"


def blocks_of(page: Path) -> list[Block]:
    found = re.findall(
        r"(?:^<!-- test: ([^\n]*) -->\n)?^```python\n(.*?)^```$",
        page.read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return [Block(page, number, code, how) for number, (how, code) in enumerate(found, 1)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SESSIONS = [block for block in BLOCKS if ">>>" in block.code]
PROGRAMS = [block for block in BLOCKS if ">>>" not in block.code]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_hold(name: str) -> None:
    module = importlib.import_module(f"pypoll{name}")
    names = {**vars(module), **vars(pypoll)}
    results = doctest.testmod(module, extraglobs=names)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    "page", sorted({block.page for block in SESSIONS}), ids=lambda page: page.name
)
def test_the_sessions_of_a_page_show_what_they_print(page: Path) -> None:
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner()
    names: dict[str, object] = {}
    for block in SESSIONS:
        if block.page == page:
            test = parser.get_doctest(block.code, names, str(block), str(page), 0)
            runner.run(test, clear_globs=False)
            names = test.globs
    assert runner.summarize().failed == 0


def is_present(name: str) -> bool:
    if name == "ppoll":
        return bool(lib.pypoll_has_ppoll())
    if name.startswith("Python "):
        return sys.version_info >= tuple(map(int, name[7:].split(".")))
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def started(program: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Ctrl-C is ignored by what a shell runs in the background, and by its children.
        [
            *(sys.executable, "-W", "error", "-c"),
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + program,
        ],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_a_server(block: Block, directory: Path) -> None:
    with started(block.code, directory) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                for message in (b"hello", b"x" * 1000):
                    client.sendall(message)
                    received = b""
                    while len(received) < len(message):
                        received += client.recv(len(message))
                    assert received == message
            if block.instruction == "server that stops":
                server.send_signal(signal.SIGINT)
                output, errors = server.communicate(timeout=PATIENCE)
                assert (server.returncode, output, errors) == (0, "stopped\n", "")
        finally:
            server.kill()


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_a_program_of_a_page_runs(block: Block, tmp_path: Path) -> None:
    how, _, what = block.instruction.partition(" ")
    if how == "server":
        check_a_server(block, tmp_path)
        return
    if how == "not":
        pytest.skip(block.instruction)
    assert how in ("", "needs"), block.instruction
    if how and not is_present(what):
        pytest.skip(f"{what} is missing here")
    with started(block.code, tmp_path) as program:
        try:
            _, errors = program.communicate(timeout=PATIENCE)
        finally:
            program.kill()
    assert (program.returncode, errors) == (0, "")


def test_the_pages_have_programs_and_sessions() -> None:
    assert README in PAGES
    assert SESSIONS
    assert PROGRAMS


def sentences(text: str) -> list[str]:
    """Return the sentences of a page in Markdown, without code, tables, headings and addresses."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||#|<!--).*", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    parts = re.split(r"[.?!]\W*\s|\n\s*\n|\n\s*(?:-|\d+\.)\s", text)
    return [" ".join(part.split()) for part in parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_of_a_page_is_long(page: Path) -> None:
    found = sentences(page.read_text("utf-8"))
    assert [line for line in found if len(line.split()) > LONGEST_SENTENCE] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_is_long(page: Path) -> None:
    most = LONGEST_README if page == README else LONGEST_PAGE
    assert len(page.read_text("utf-8").splitlines()) <= most


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ is not beside these tests")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


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


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.uname().machine != "x86_64",
    reason="the table has the values of Linux on x86-64",
)
@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ is not beside these tests")
def test_the_table_of_constants_has_the_values_of_linux() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    table = dict(
        re.findall(r"^\| `(POLL\w+)` \| .* \| (0x\w+) \| \w+ \| \w+ \|$", text, re.MULTILINE)
    )
    shown = {name: int(value, 16) for name, value in table.items()}
    assert shown == {
        name: vars(pypoll)[name] for name in pypoll.__all__ if name[:4] == "POLL" and name.isupper()
    }
