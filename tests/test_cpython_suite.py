from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import pypoll

RUNNER = Path(__file__).with_name("cpython_suite.py")
CPYTHON_TESTS = Path(sysconfig.get_path("stdlib"), "test")
SECONDS = 300

pytestmark = [
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


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["test.test_poll"], id="test_poll"),
        pytest.param(["test.test_selectors.PollSelectorTestCase"], id="selectors"),
        pytest.param([eintr_module()], id="eintr"),
        pytest.param(poll_event_loop_classes(), id="asyncio"),
    ],
)
def test_cpythons_own_cases_pass_with_select_poll_replaced(
    names: list[str], tmp_path: Path
) -> None:
    run(names, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["test.test_selectors.PollSelectorTestCase"], id="selectors"),
        pytest.param(poll_event_loop_classes(), id="asyncio"),
    ],
)
def test_cpythons_own_cases_pass_with_its_poll_selector_replaced(
    names: list[str], tmp_path: Path
) -> None:
    run(["--selector", *names], tmp_path)


def run(arguments: list[str], directory: Path) -> None:
    completed = subprocess.run(
        [sys.executable, str(RUNNER), *arguments],
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
    report = json.loads(completed.stdout.splitlines()[-1])
    assert report["pypoll"] == pypoll.__file__, "another pypoll was tested"
    assert report["failed"] == 0
    assert report["ran"] > 0
