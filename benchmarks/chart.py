"""Draws the ratios of a result as an SVG chart, by the number of descriptors.

python benchmarks/chart.py result.json chart.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# For light and dark pages: the contrast to white and to GitHub's #0d1117 is at least 3, and that of
# text is at least 4.
_TEXT = "#7b7f87"
_LINES = {
    ("poll", "idle"): ("idle", "#3b82f6", "-"),
    ("poll", "one ready"): ("one ready", "#0d9488", "-"),
    ("poll", "a tenth ready"): ("a tenth ready", "#65a30d", "-"),
    ("poll", "all ready"): ("all ready", "#16a34a", "-"),
    ("change", "one by modify"): ("modify one, then poll(0)", "#a855f7", "--"),
    ("change", "a tenth by modify"): ("modify a tenth", "#c026d3", "--"),
    ("change", "all by modify"): ("modify all", "#db2777", "--"),
    ("register", "from nothing"): ("register all, without poll(0)", _TEXT, "-."),
    ("change", "one by unregister and register"): ("re-register one, then poll(0)", "#b88004", ":"),
    ("change", "a tenth by unregister and register"): ("re-register a tenth", "#ea580c", ":"),
    ("change", "all by unregister and register"): ("re-register all", "#dc2626", ":"),
}
_TICKS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50)


def _draw(axes: Axes, rows: list[dict[str, Any]], other: str, title: str) -> None:
    """Draw the ratios of pypoll to another subject, with one line for each workload."""
    for workload, (label, color, style) in _LINES.items():
        points = [
            (row["count"], row["ratios"][other]["median"])
            for row in rows
            if (row["section"], row["name"]) == workload
            and row["kind"] != "sockets"
            and other in row["ratios"]
        ]
        if points:
            axes.plot(*zip(*points), color=color, linestyle=style, marker="o", label=label)
    axes.set_title(title, color=_TEXT)
    axes.set_xlabel("descriptors")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for axis in axes.xaxis, axes.yaxis:
        axis.set_minor_locator(NullLocator())
    axes.axhline(1, color=_TEXT, linewidth=1.5)
    axes.grid(color=_TEXT, alpha=0.25)


def chart(results: dict[str, Any]) -> Figure:
    """Return the chart of a result."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    machine, versions = results["machine"], results["versions"]
    figure.suptitle(
        f"pypoll {versions['pypoll']} on {results['interpreter']}: poll(0) of pipes\n"
        f"{results['date'][:10]}, {machine['processor']}, {machine['system']}, "
        f"cffi {versions['cffi']}",
        color=_TEXT,
    )
    left, right = figure.subplots(1, 2)
    _draw(left, results["rows"], "select.poll", "time of pypoll.Poll / time of select.poll")
    _draw(right, results["rows"], "C loop", "time of pypoll.Poll / time of a C loop")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=_TEXT
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the ratios of a result.")
    parser.add_argument("result", type=Path, help="output of benchmarks/run.py --json")
    parser.add_argument("svg", type=Path, help="file to write")
    arguments = parser.parse_args()
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "pypoll",
        "axes.edgecolor": _TEXT,
        "axes.labelcolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        "font.size": 11,
        "lines.markersize": 4,
    }
    with matplotlib.rc_context(settings):
        figure = chart(json.loads(arguments.result.read_text("utf-8")))
        figure.savefig(arguments.svg, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
