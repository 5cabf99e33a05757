"""The benchmark measures all that it is to measure, and its chart can be drawn."""

from __future__ import annotations

import importlib.util
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
        reason="setuptools, by which the benchmark compiles its C loop, is not installed",
    ),
    pytest.mark.skipif(
        shutil.which(COMPILER) is None or not HAS_HEADERS,
        reason="no C compiler, or no Python.h, for the benchmark's C loop",
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
    """What is in the file."""
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
        for times in row["microseconds"].values():
            assert 0 < times["minimum"] <= times["lower quartile"] <= times["median"]
            assert times["median"] <= times["upper quartile"]
        for other, ratios in row["ratios"].items():
            assert 0 < ratios["lower quartile"] <= ratios["median"] <= ratios["upper quartile"]
            least = row["microseconds"][ours]["minimum"] / row["microseconds"][other]["minimum"]
            assert ratios["of the minima"] == pytest.approx(least, rel=0.02, abs=1e-3)


def test_growth_is_fitted_for_each_poller(results: dict[str, Any]) -> None:
    fitted = {(line["name"], line["kind"], line["subject"]) for line in results["growth"]}
    assert fitted == {
        (state, kind, subject)
        for state in ("idle", "all ready")
        for kind in ("pipes", "sockets")
        for subject in (*POLLERS, "C loop")
    }


def test_many_objects_are_made_by_each_poller(results: dict[str, Any]) -> None:
    for figure in "microseconds", "page faults":
        assert set(results["many objects"][figure]) == POLLERS
    assert all(
        microseconds > 0 for microseconds in results["many objects"]["microseconds"].values()
    )


def test_the_import_takes_time_and_pypoll_adds_to_that_of_cffi(results: dict[str, Any]) -> None:
    taken = results["import"]
    assert set(taken) == {"cffi", "cffi and pypoll", "pypoll adds"}
    assert taken["cffi and pypoll"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_registered_descriptor_takes_no_less_than_a_struct_pollfd(
    results: dict[str, Any],
) -> None:
    sizes = results["memory"]["bytes a descriptor"]
    assert set(sizes) == POLLERS
    assert all(8 <= size < 1000 for size in sizes.values())


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_an_empty_object_takes_memory(results: dict[str, Any]) -> None:
    sizes = results["memory"]["bytes an empty object"]
    assert set(sizes) == POLLERS
    assert all(16 <= size < 10_000 for size in sizes.values())


def test_the_tables_name_every_row_and_the_marks(
    measured: tuple[Path, str], results: dict[str, Any]
) -> None:
    printed = measured[1]
    for row in results["rows"]:
        cells = ", ".join(filter(None, (row["name"], row["kind"])))
        assert f"| {cells} " in printed
    assert "\n## Marks\n" in printed
    assert f"# {results['interpreter']}, pypoll {results['versions']['pypoll']}" in printed


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="matplotlib, which draws the chart, is not installed",
)
def test_the_chart_is_small_and_always_the_same(
    measured: tuple[Path, str], results: dict[str, Any], tmp_path: Path
) -> None:
    drawn = []
    for name in "first.svg", "second.svg":
        run("chart.py", measured[0], tmp_path / name)
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) < 100_000
    texts = " ".join(ElementTree.fromstring(drawn[0]).itertext())
    assert results["interpreter"] in texts
    assert "all re-registered" in texts
