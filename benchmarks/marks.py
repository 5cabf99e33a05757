"""The ratios that pypoll is to reach, beside those that were measured."""

from __future__ import annotations

from typing import Any, NamedTuple

from subjects import C_LOOP, POLLERS


class Mark(NamedTuple):
    """The highest ratio that is asked for in some rows."""

    section: str
    name: str
    number: int  # of descriptors
    asked: float
    other: str = "select.poll"


_AGAINST_C = Mark("poll", "idle", 1_000, 1.03, C_LOOP)
_CPYTHON = (
    Mark("poll", "idle", 1, 1.2),
    Mark("poll", "one ready", 1, 1.35),
    Mark("poll", "idle", 100, 1.04),
    Mark("poll", "one ready", 100, 1.05),
    Mark("poll", "idle", 1_000, 1.01),
    Mark("poll", "all ready", 100, 1.25),
    Mark("poll", "all ready", 1_000, 1.2),
    Mark("change", "one by unregister and register", 100, 0.95),
    Mark("change", "one by unregister and register", 1_000, 0.8),
    Mark("change", "one by modify", 1_000, 0.8),
    Mark("one descriptor", "idle", 1, 0.85),
    Mark("one descriptor", "one ready", 1, 0.85),
    Mark("call", "register a known one", 100, 1.6),
    _AGAINST_C,
)
_PYPY = (
    Mark("poll", "idle", 1, 0.6),
    Mark("poll", "one ready", 1, 0.65),
    Mark("poll", "one ready", 10, 0.8),
    Mark("poll", "all ready", 10, 0.8),
    Mark("poll", "all ready", 100, 0.8),
    Mark("poll", "all ready", 1_000, 0.8),
    Mark("poll", "idle", 1_000, 0.97),
    Mark("one descriptor", "idle", 1, 0.5),
    Mark("one descriptor", "one ready", 1, 0.5),
    _AGAINST_C,
)
_PYPY_ELSEWHERE = 1.0
_MEMORY = 1.6

HEADINGS = ("mark", "ratio to", "asked", "measured", "quartiles", "")


def _compared(name: str, other: str, asked: float, measured: float, spread: str = "") -> list[str]:
    verdict = "met" if measured <= asked else "MISSED"
    return [name, other, f"{asked:.2f}", f"{measured:.3f}", spread, verdict]


def _of_row(row: dict[str, Any], other: str, asked: float) -> list[str]:
    found = row["ratios"][other]
    name = ", ".join(filter(None, (row["section"], row["name"], row["kind"], f"{row['count']:,}")))
    spread = f"{found['lower quartile']:.3f} to {found['upper quartile']:.3f}"
    return _compared(name, other, asked, found["median"], spread)


def _to_select_poll(row: dict[str, Any]) -> float:
    median: float = row["ratios"]["select.poll"]["median"]
    return median


def marks(results: dict[str, Any]) -> list[list[str]]:
    """Return a line for each row that has a mark."""
    on_pypy = results["interpreter"].startswith("PyPy")
    lines = []
    unmarked = [row for row in results["rows"] if "select.poll" in row["ratios"]]
    for mark in _PYPY if on_pypy else _CPYTHON:
        for row in results["rows"]:
            if (row["section"], row["name"], row["count"]) == mark[:3]:
                lines.append(_of_row(row, mark.other, mark.asked))
                if mark.other != C_LOOP:
                    unmarked.remove(row)
    if on_pypy:
        # Those that miss it, or else the one that comes closest to that.
        unmarked.sort(key=_to_select_poll, reverse=True)
        missed = [row for row in unmarked if _to_select_poll(row) > _PYPY_ELSEWHERE]
        for row in missed or unmarked[:1]:
            lines.append(_of_row(row, "select.poll", _PYPY_ELSEWHERE))
    if "memory" in results:
        ours, other = (results["memory"]["bytes a descriptor"][poller] for poller in POLLERS)
        lines.append(_compared("bytes a descriptor", "select.poll", _MEMORY, ours / other))
    return lines
