"""The benchmark measures every section, and its chart can be drawn."""

from __future__ import annotations

import importlib.util
import itertools
import json
import selectors
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
HAS_HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()

POLLERS = {"pypoll.Poll", "select.poll"}
SELECTORS = {"pypoll.PollSelector", "selectors.PollSelector"}
if hasattr(selectors, "EpollSelector"):
    SELECTORS.add("selectors.EpollSelector")

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(
        not any(map(importlib.util.find_spec, ("setuptools", "distutils"))),
        reason="needs setuptools to compile the benchmark's C loop",
    ),
    pytest.mark.skipif(
        shutil.which(COMPILER) is None or not HAS_HEADERS,
        reason="needs a C compiler and Python.h for the benchmark's C loop",
    ),
]


def run(script: str, *arguments: str | Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-B", str(BENCHMARKS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file of the results, and what was printed."""
    file = tmp_path_factory.mktemp("benchmark") / "result.json"
    return file, run("run.py", "--smoke", "--json", file)


@pytest.fixture(scope="module")
def results(measured: tuple[Path, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(measured[0].read_text("utf-8"))
    return found


@pytest.mark.parametrize(
    ("section", "count", "subjects"),
    [
        ("poll", 10, {*POLLERS, "C loop"}),
        ("change", 6, {*POLLERS, "C loop"}),
        ("register", 2, POLLERS),
        ("call", 3, POLLERS),
        ("timeout", 3, {*POLLERS, "C loop"}),
        ("object once", 1, POLLERS),
        ("one descriptor", 2, {"pypoll.poll_fd", "select.poll", "select.select", "C loop"}),
        ("selector", 9, SELECTORS),
        ("selector call", 3, SELECTORS),
        ("selector once", 1, SELECTORS),
        ("asyncio", 3, SELECTORS),
    ],
)
def test_each_section_has_its_rows_and_each_row_its_figures(
    results: dict[str, Any], section: str, count: int, subjects: set[str]
) -> None:
    rows = [row for row in results["rows"] if row["section"] == section]
    assert len({(row["name"], row["kind"], row["count"]) for row in rows}) == len(rows) == count
    for row in rows:
        ours, *others = row["microseconds"]
        assert ours.startswith("pypoll.")
        assert set(row["microseconds"]) >= subjects
        assert list(row["ratios"]) == others
        for figures in [*row["microseconds"].values(), *row["ratios"].values()]:
            assert 0 < figures["lower quartile"] <= figures["median"] <= figures["upper quartile"]


def test_the_figures_outside_the_sections_are_measured(results: dict[str, Any]) -> None:
    growth = {(line["name"], line["kind"], line["subject"]) for line in results["growth"]}
    subjects = [*POLLERS, "C loop"]
    assert growth == {*itertools.product(("idle", "all ready"), ("pipes", "sockets"), subjects)}
    assert all(results["many objects"]["microseconds"][poller] > 0 for poller in POLLERS)
    assert results["import"]["cffi and pypoll"] > 0
    if sys.platform == "linux":  # memory is read from /proc
        memory = results["memory"]
        assert all(8 <= memory["bytes a descriptor"][poller] < 1000 for poller in POLLERS)
        assert all(16 <= memory["bytes an empty object"][poller] < 10_000 for poller in POLLERS)


def test_the_tables_name_every_row_and_the_marks(
    measured: tuple[Path, str], results: dict[str, Any]
) -> None:
    printed = measured[1]
    for row in results["rows"]:
        assert f"| {', '.join(filter(None, (row['name'], row['kind'])))} " in printed
    assert "\n## Marks\n" in printed
    assert f"# {results['interpreter']}, pypoll {results['versions']['pypoll']}" in printed


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_chart_is_always_the_same(measured: tuple[Path, str], tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for chart in first, second:
        run("chart.py", measured[0], chart)
    assert first.read_bytes() == second.read_bytes()
    ElementTree.fromstring(first.read_bytes())
