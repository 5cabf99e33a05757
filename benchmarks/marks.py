"""The figures that pypoll is to reach, beside those that were measured."""

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
    Mark("poll", "idle", 1, 1.24),
    Mark("poll", "one ready", 1, 1.34),
    Mark("poll", "idle", 100, 1.04),
    Mark("poll", "idle", 1_000, 1.01),
    Mark("poll", "all ready", 10, 1.77),
    Mark("poll", "all ready", 100, 1.28),
    Mark("poll", "all ready", 1_000, 1.22),
    Mark("change", "one by modify", 100, 0.8),
    Mark("change", "one by modify", 1_000, 0.74),
    Mark("change", "one by unregister and register", 100, 0.8),
    Mark("change", "one by unregister and register", 1_000, 0.74),
    Mark("call", "register a known one", 100, 3.2),
    Mark("object once", "idle", 1, 2.8),
    Mark("one descriptor", "idle", 1, 0.92),
    Mark("one descriptor", "one ready", 1, 0.84),
    _AGAINST_C,
)
# The highest ratios to selectors.PollSelector, by section, name and number, on these interpreters.
_SELECTOR_INTERPRETERS = ("CPython 3.11.", "CPython 3.13.", "PyPy ")
_SELECTORS = {
    ("selector call", "register and unregister", 100): (1.05, 1.1, 1.1),
    ("selector call", "modify to READ|WRITE and back", 100): (1.1, 1.1, 1.1),
    ("selector call", "get_map().get(absent)", 100): (1.2, 1.3, 1.0),
    ("selector once", "idle", 1): (2.0, 2.0, 2.0),
    ("asyncio", "sock_sendall and sock_recv", 1): (1.05, 1.08, 1.0),
    ("asyncio", "new connection", 1): (1.05, 1.05, 1.05),
    ("asyncio", "echo", 200): (1.0, 1.0, 1.0),
    ("selector", "all ready", 100): (0.55, 0.6, 0.9),
    ("selector", "all ready", 1_000): (0.55, 0.6, 0.9),
    ("selector", "idle", 1): (1.15, 1.15, 1.0),
    ("selector", "one ready", 1): (1.0, 1.0, 1.0),
}
# On PyPy all rows of these sections have the same mark.
_PYPY = 1.0
_PYPY_SECTIONS = ("poll", "change", "timeout", "one descriptor")
_PYPY_MANY_OBJECTS = 3.0
# Of pypoll itself.
_BYTES = {"bytes an empty object": 700, "bytes a descriptor": 40}

HEADINGS = ("mark", "ratio to", "asked", "measured", "quartiles", "")


def _compared(name: str, other: str, asked: float, measured: float, spread: str = "") -> list[str]:
    verdict = "met" if measured <= asked else "MISSED"
    return [name, other, f"{asked:g}", f"{measured:.4g}", spread, verdict]


def _of_row(row: dict[str, Any], other: str, asked: float) -> list[str]:
    found = row["ratios"][other]
    name = ", ".join(filter(None, (row["section"], row["name"], row["kind"], f"{row['count']:,}")))
    spread = f"{found['lower quartile']:.3f} to {found['upper quartile']:.3f}"
    return _compared(name, other, asked, found["median"], spread)


def _to_select_poll(row: dict[str, Any]) -> float:
    median: float = row["ratios"]["select.poll"]["median"]
    return median


def _of_pypy(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the rows that miss the mark, or else the one that comes closest to that."""
    marked = [row for row in rows if row["section"] in _PYPY_SECTIONS]
    marked.sort(key=_to_select_poll, reverse=True)
    missed = [row for row in marked if _to_select_poll(row) > _PYPY]
    return [_of_row(row, "select.poll", _PYPY) for row in missed or marked[:1]]


def _of_selectors(results: dict[str, Any]) -> list[list[str]]:
    """Return the rows of selectors that have a mark on this interpreter."""
    rows = {(row["section"], row["name"], row["count"]): row for row in results["rows"]}
    return [
        _of_row(rows[key], "selectors.PollSelector", asked)
        for key, all_asked in _SELECTORS.items()
        for interpreter, asked in zip(_SELECTOR_INTERPRETERS, all_asked)
        if key in rows and results["interpreter"].startswith(interpreter)
    ]


def marks(results: dict[str, Any]) -> list[list[str]]:
    """Return a line for each figure that has a mark."""
    on_pypy = results["interpreter"].startswith("PyPy")
    lines = [
        _of_row(row, mark.other, mark.asked)
        for mark in ((_AGAINST_C,) if on_pypy else _CPYTHON)
        for row in results["rows"]
        if (row["section"], row["name"], row["count"]) == mark[:3]
    ]
    if on_pypy:
        lines += _of_pypy(results["rows"])
        ours, other = (results["many objects"]["microseconds"][poller] for poller in POLLERS)
        lines.append(_compared("many objects", "select.poll", _PYPY_MANY_OBJECTS, ours / other))
    lines += _of_selectors(results)
    for name, asked in _BYTES.items():
        if "memory" in results:
            ours = results["memory"][name]["pypoll.Poll"]
            lines.append(_compared(name, "", asked, ours))
    return lines
