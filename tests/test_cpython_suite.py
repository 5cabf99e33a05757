"""CPython's own tests pass with pypoll in place of its poll() or its selectors."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import pypoll

RUNNER = Path(__file__).with_name("cpython_suite.py")
CPYTHON_TESTS = Path(sysconfig.get_path("stdlib"), "test")
SECONDS = 900

pytestmark = [
    pytest.mark.suites,
    pytest.mark.native,
    pytest.mark.skipif(
        platform.python_implementation() != "CPython",
        reason="needs CPython",
    ),
    pytest.mark.skipif(
        not (CPYTHON_TESTS / "test_poll.py").is_file(),
        reason=f"this interpreter lacks its own tests: {CPYTHON_TESTS} has no test_poll.py",
    ),
]


def eintr_module() -> str:
    # CPython 3.10 moved it.
    moved = (CPYTHON_TESTS / "_test_eintr.py").is_file()
    return "test._test_eintr" if moved else "test.eintrdata.eintr_tester"


def poll_event_loop_classes() -> list[str]:
    # Which modules have one varies by version.
    definition = re.compile(r"^ *class (PollEventLoop\w*)", re.MULTILINE)
    return [
        f"test.test_asyncio.{path.stem}.{name}"
        for path in sorted((CPYTHON_TESTS / "test_asyncio").glob("*.py"))
        for name in definition.findall(path.read_text("utf-8"))
    ]


SELECTORS = [f"test.test_selectors.{name}SelectorTestCase" for name in ("Poll", "Default")]
# Whole suites take minutes, so they run on two versions only.
WHOLE = sys.version_info[:2] in {(3, 11), (3, 13)}
ASYNCIO = ["test.test_asyncio"] if WHOLE else poll_event_loop_classes()
whole = pytest.mark.skipif(not WHOLE, reason="takes minutes: run on CPython 3.11 and 3.13 only")


SUITES = [
    pytest.param("poll", ["test.test_poll"], id="poll: test_poll"),
    pytest.param("poll", [f"{eintr_module()}.SelectEINTRTest"], id="poll: eintr"),
    pytest.param("poll", SELECTORS, id="poll: selectors"),
    pytest.param("poll", ASYNCIO, id="poll: asyncio"),
    pytest.param("selector", SELECTORS, id="selector: selectors"),
    pytest.param("selector", ASYNCIO, id="selector: asyncio"),
    pytest.param("selector", ["test.test_subprocess"], id="selector: subprocess", marks=whole),
    pytest.param("selector", ["test.test_socketserver"], id="selector: socketserver", marks=whole),
]


@pytest.mark.parametrize(("replaced", "names"), SUITES)
def test_cpythons_own_tests_pass(replaced: str, names: list[str], tmp_path: Path) -> None:
    run(replaced, names, tmp_path)


@whole
def test_cpythons_own_tests_of_forking_pass(tmp_path: Path) -> None:
    report = run("selector", ["fork_part_of_test_multiprocessing"], tmp_path)
    assert report["polls of forked children"] > 0


def run(replaced: str, names: list[str], directory: Path) -> dict[str, Any]:
    completed = subprocess.run(
        [sys.executable, str(RUNNER), replaced, *names],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=SECONDS,
    )
    print(completed.stderr)
    print(completed.stdout)
    assert completed.returncode == 0
    report: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    assert report["pypoll"] == pypoll.__file__, "another pypoll was tested"
    assert report["failed"] == 0
    assert report["ran"] > 0
    assert report["polls"] > 0, "the replacement was not reached"
    return report
