"""pyproject.toml and release.yml build the wheels that docs/platforms.md promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pypoll import _shim
from support import needs_package

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = ROOT / "docs" / "platforms.md"
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
# The first words of the table's headings, and cibuildwheel's names of these interpreters.
INTERPRETERS = {"CPython": "cp", "free-threaded": "cp", "PyPy": "pp"}


def versions(heading: str) -> list[str]:
    """Return what a heading stands for: pp39, pp310 and pp311 for "PyPy 3.9 to 3.11"."""
    parsed = re.fullmatch(r"([\w-]+) 3\.(\d+t?) to 3\.(\d+t?)", heading)
    assert parsed, heading
    name, first, last = parsed.groups()
    threading = "t" if last.endswith("t") else ""
    minors = range(int(first.rstrip("t")), int(last.rstrip("t")) + 1)
    return [f"{INTERPRETERS[name]}3{minor}{threading}" for minor in minors]


def install_table() -> dict[str, dict[str, str]]:
    """Return the cells of the install table, by platform and heading."""
    if not PLATFORMS.exists():
        pytest.skip("docs/ is not here")
    section = PLATFORMS.read_text("utf-8").split("\n## Wheels\n")[1]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.split("\n\n")[1].splitlines()
    ]
    headings = lines[0][2:]
    return {row[1].strip("`"): dict(zip(headings, row[2:])) for row in lines[2:]}


def promised() -> set[str]:
    """Return cibuildwheel's identifiers of the wheels in the install table."""
    return {
        f"{version}-{platform}"
        for platform, cells in install_table().items()
        for heading, cell in cells.items()
        if cell.startswith("wheel")
        for version in versions(heading)
    }


def planned(system: str) -> set[str]:
    """Return the identifiers that cibuildwheel selects, also those that need another machine."""
    environment = {name: value for name, value in os.environ.items() if name[:5] != "CIBW_"}
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers"]
    ran = subprocess.run(
        [*command, "--platform", system, ROOT],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    note = re.search(r"Note: (.*) were selected, but can't be built on", ran.stderr)
    return {*ran.stdout.split(), *(note[1].split(", ") if note else ())}


def test_each_cell_of_the_install_table_is_a_wheel_or_source() -> None:
    cells = [cell for row in install_table().values() for cell in row.values()]
    assert {re.split(r"[, ]", cell)[0] for cell in cells} == {"wheel", "source"}


@needs_package("cibuildwheel")
def test_the_install_table_promises_what_cibuildwheel_would_build() -> None:
    assert planned("linux") | planned("macos") == promised()


@pytest.mark.skipif(not RELEASE.exists(), reason="the workflows are not here")
def test_the_release_workflow_has_a_job_for_each_platform_of_the_install_table() -> None:
    jobs = re.findall(r"^ +- \{ platform: (\w+), ", RELEASE.read_text("utf-8"), re.MULTILINE)
    assert sorted(jobs) == sorted({wheel.split("-")[1] for wheel in promised()})


def test_a_stable_abi_module_has_a_name_that_every_cpython_loads() -> None:
    name = Path(str(_shim.__file__)).name
    if ".abi3" not in name:
        pytest.skip("the module is for this interpreter alone")
    assert name in ("_shim.abi3.so", "_shim.abi3t.so")
