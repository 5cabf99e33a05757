"""The README, docs/ and the docstrings: the examples work, and pages and sentences are short.

Each block of Python is run. A comment before it can say otherwise:

    <!-- test: server -->              connect to it, and then kill it
    <!-- test: server that stops -->   the same, and Ctrl-C ends it without a traceback
    <!-- test: needs NAME -->          run it only if that is available
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
from support import HAS_PPOLL, PATIENCE

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
# docs/ includes the last ones. A source distribution lacks some.
PAGES = [
    page
    for page in (README, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("[CS]*.md")))
    if page.exists()
]
# The package itself has PollEvent, which a call creates, so it belongs to no module.
MODULES = ("", ".descriptors", ".events", ".messages", ".poller", ".selector", ".timeouts")
LONGEST_SENTENCE = 35  # words
LONGEST_PAGE = 200  # lines
LONGEST_README = 150
has_docs = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ is not here")


class Block(NamedTuple):
    """A block of Python on a page."""

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
def test_the_examples_in_docstrings_work(name: str) -> None:
    module = importlib.import_module(f"pypoll{name}")
    names = {**vars(module), **vars(pypoll)}
    results = doctest.testmod(module, extraglobs=names)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    "page", sorted({block.page for block in SESSIONS}), ids=lambda page: page.name
)
def test_the_interactive_examples_of_a_page_work(page: Path) -> None:
    sessions = "\n".join(block.code for block in SESSIONS if block.page == page)
    test = doctest.DocTestParser().get_doctest(sessions, {}, page.name, str(page), 0)
    results = doctest.DocTestRunner().run(test)
    assert results.attempted > 0
    assert results.failed == 0


def is_present(name: str) -> bool:
    if name == "ppoll":
        return HAS_PPOLL
    if name.startswith("Python "):
        return sys.version_info >= tuple(map(int, name[7:].split(".")))
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def started(program: str, directory: Path) -> subprocess.Popen[str]:
    # A shell has its background jobs ignore SIGINT, and Python inherits that.
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{program}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
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
                for message in (b"hello", b"again"):
                    client.sendall(message)
                    assert client.recv(1000) == message
            if block.instruction == "server that stops":
                server.send_signal(signal.SIGINT)
                output, errors = server.communicate(timeout=PATIENCE)
                assert (server.returncode, output, errors) == (0, "stopped\n", "")
        finally:
            server.kill()


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_the_programs_of_a_page_run(block: Block, tmp_path: Path) -> None:
    how, _, what = block.instruction.partition(" ")
    if how == "server":
        check_a_server(block, tmp_path)
        return
    if how == "not":
        pytest.skip(block.instruction)
    assert how in ("", "needs"), block.instruction
    if how and not is_present(what):
        pytest.skip(f"needs {what}")
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
    """Return the sentences of a Markdown page, without code, tables, headings and addresses."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||#|<!--).*", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    parts = re.split(r"[.?!]\W*\s|\n\s*\n|\n\s*(?:-|\d+\.)\s", text)
    return [" ".join(part.split()) for part in parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_and_sentences_are_short(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(text.splitlines()) <= (LONGEST_README if page == README else LONGEST_PAGE)
    assert [line for line in sentences(text) if len(line.split()) > LONGEST_SENTENCE] == []


@has_docs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("heading", ["Try it", "Run the tests"])
def test_the_readme_has_a_single_command_to_try_and_to_test(heading: str) -> None:
    section = README.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    assert re.findall("^```.*", section, re.MULTILINE) == ["```sh", "```"]
    assert re.search(r"^```sh\n.+\n```$", section, re.MULTILINE)


@has_docs
@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64",
    reason="the table is for x86-64 Linux",
)
def test_the_table_of_constants_has_the_values_of_linux() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    table = dict(
        re.findall(r"^\| `(POLL\w+)` \| .* \| (0x\w+) \| \w+ \| \w+ \|$", text, re.MULTILINE)
    )
    shown = {name: int(value, 16) for name, value in table.items()}
    assert shown == {
        name: vars(pypoll)[name] for name in pypoll.__all__ if name[:4] == "POLL" and name.isupper()
    }
