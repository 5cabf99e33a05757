"""The benchmark measures every section, and its chart can be drawn."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from support import needs_package

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
HAS_HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()

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


def test_every_row_has_its_figures_and_a_line_in_a_table(
    measured: tuple[Path, str], results: dict[str, Any]
) -> None:
    printed = measured[1]
    assert f"# {results['interpreter']}, pypoll {results['versions']['pypoll']}" in printed
    assert "\n## Targets\n" in printed
    for row in results["rows"]:
        assert f"| {', '.join(filter(None, (row['name'], row['kind'])))} " in printed
        ours, *others = row["microseconds"]
        assert ours.startswith("pypoll.")
        assert list(row["ratios"]) == others
        for figures in [*row["microseconds"].values(), *row["ratios"].values()]:
            assert 0 < figures["lower quartile"] <= figures["median"] <= figures["upper quartile"]
    if sys.platform == "linux":  # memory is read from /proc
        assert 8 <= results["memory"]["bytes a descriptor"]["pypoll.Poll"] < 1000


@needs_package("matplotlib")
def test_the_chart_is_always_the_same(measured: tuple[Path, str], tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for chart in first, second:
        run("chart.py", measured[0], chart)
    assert first.read_bytes() == second.read_bytes()
    ElementTree.fromstring(first.read_bytes())
