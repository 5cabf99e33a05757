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
        reason="the suite is CPython's, and this is another implementation",
    ),
    pytest.mark.skipif(
        not (CPYTHON_TESTS / "test_poll.py").is_file(),
        reason=f"this interpreter comes without its own tests: no test_poll.py in {CPYTHON_TESTS}",
    ),
]


def eintr_module() -> str:
    # CPython 3.10 moved it.
    moved = (CPYTHON_TESTS / "_test_eintr.py").is_file()
    return "test._test_eintr" if moved else "test.eintrdata.eintr_tester"


def poll_event_loop_classes() -> list[str]:
    # The modules that have one differ between versions, and none may be missed.
    definition = re.compile(r"^ *class (PollEventLoop\w*)", re.MULTILINE)
    return [
        f"test.test_asyncio.{path.stem}.{name}"
        for path in sorted((CPYTHON_TESTS / "test_asyncio").glob("*.py"))
        for name in definition.findall(path.read_text("utf-8"))
    ]


SELECTORS = [f"test.test_selectors.{name}SelectorTestCase" for name in ("Poll", "Default")]
# Whole suites take minutes, so only two versions run them.
WHOLE = sys.version_info[:2] in {(3, 11), (3, 13)}
ASYNCIO = ["test.test_asyncio"] if WHOLE else poll_event_loop_classes()
whole = pytest.mark.skipif(not WHOLE, reason="takes minutes: run on CPython 3.11 and 3.13 only")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["test.test_poll"], id="test_poll"),
        pytest.param([f"{eintr_module()}.SelectEINTRTest"], id="eintr"),
        pytest.param(SELECTORS, id="selectors"),
        pytest.param(ASYNCIO, id="asyncio"),
    ],
)
def test_cpythons_own_cases_pass_with_select_poll_replaced(
    names: list[str], tmp_path: Path
) -> None:
    run("poll", names, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(SELECTORS, id="selectors"),
        pytest.param(ASYNCIO, id="asyncio"),
        pytest.param(["test.test_subprocess"], id="subprocess", marks=whole),
        pytest.param(["test.test_socketserver"], id="socketserver", marks=whole),
    ],
)
def test_cpythons_own_cases_pass_with_its_selectors_replaced(
    names: list[str], tmp_path: Path
) -> None:
    run("selector", names, tmp_path)


@whole
def test_cpythons_own_cases_of_forking_pass_with_its_selectors_replaced(tmp_path: Path) -> None:
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
