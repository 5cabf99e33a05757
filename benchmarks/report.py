"""The results as text: tables in Markdown, and the figures that pypoll is to reach."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
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

_MARK_HEADINGS = ("mark", "ratio to", "asked", "measured", "quartiles", "")


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


def _marks(results: dict[str, Any]) -> list[list[str]]:
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


_TITLES = {
    "poll": "poll(0)",
    "change": "Changes, and then poll(0)",
    "register": "A new object, and n descriptors registered",
    "call": "Single calls, 100 registered",
    "timeout": "poll() with timeouts of several types, one ready",
    "object once": "A new object, one descriptor registered, and poll(0)",
    "one descriptor": "One descriptor, once",
    "selector": "select(0) of selectors, after a change where one is named",
    "selector call": "Calls of selectors, 100 registered",
    "selector once": "with a new selector: register(), select(0), close()",
    "asyncio": "Round trips of 1 KiB a second by asyncio, clients and server in one loop",
}


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; what begins with a digit goes to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(cells, widths)
        )
        return f"| {' | '.join(padded)} |"

    return [line(headings), line(["-" * width for width in widths]), *map(line, rows)]


def _time(row: dict[str, Any], subject: str) -> str:
    microseconds = row["microseconds"][subject]["median"]
    if row["section"] == "asyncio":
        return f"{row['count'] * 1e6 / microseconds:,.0f}"
    return f"{microseconds:,.3f}" if microseconds < 100 else f"{microseconds:,.1f}"


def _ratio(row: dict[str, Any], other: str) -> str:
    found = row["ratios"][other]
    return (
        "{median:.3f} ({lower quartile:.3f} to {upper quartile:.3f}; {of the minima:.3f})".format(
            **found
        )
    )


def _section(title: str, rows: list[dict[str, Any]], subjects: Sequence[str]) -> list[str]:
    """Return the table of some rows, with the first subject's ratios to the others."""
    unit = "1/s" if rows[0]["section"] == "asyncio" else "us"
    others = subjects[1:]
    headings = [
        "",
        "n",
        *(f"{each}, {unit}" for each in subjects),
        *(f"to {each}" for each in others),
    ]
    cells = [
        [
            ", ".join(filter(None, (row["name"], row["kind"]))),
            f"{row['count']:,}",
            *(_time(row, subject) for subject in subjects),
            *(_ratio(row, other) for other in others),
        ]
        for row in rows
    ]
    return [f"## {title}", "", *_table(headings, cells), ""]


def _sections(rows: list[dict[str, Any]]) -> list[str]:
    """Return the tables of all rows, with one more for those subjects that not all of them have."""
    lines = []
    for section, grouped in groupby(rows, key=lambda row: str(row["section"])):
        group = list(grouped)
        subjects = list(group[0]["microseconds"])
        lines += _section(_TITLES[section], group, subjects)
        wider = [row for row in group if len(row["microseconds"]) > len(subjects)]
        if wider:
            others = [each for each in wider[0]["microseconds"] if each not in subjects]
            title = f"{_TITLES[section]}, for orientation"
            lines += _section(title, wider, [subjects[0], *others])
    return lines


def _growth_table(lines: list[dict[str, Any]]) -> list[str]:
    slopes = {
        (line["name"], line["kind"], line["subject"]): line["microseconds a descriptor"]
        for line in lines
    }
    cells = [
        [
            f"{line['name']}, {line['kind']}",
            line["subject"],
            f"{line['microseconds a call']:.3f}",
            f"{line['microseconds a descriptor']:.5f}",
            f"{line['microseconds a descriptor'] / slopes[line['name'], line['kind'], C_LOOP]:.3f}",
        ]
        for line in lines
    ]
    headings = ["", "", "us a call", "us a descriptor", "slope to that of the C loop"]
    return ["## How a poll(0) grows with the descriptors", "", *_table(headings, cells), ""]


def _by_poller(results: dict[str, Any], *names: str) -> list[str]:
    """Return the table of some figures that each poller has."""
    cells = [[poller, *(f"{results[name][poller]:,.3f}" for name in names)] for poller in POLLERS]
    return [*_table(["", *names], cells), ""]


def report(results: dict[str, Any]) -> str:
    """Return all of it."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        f"# {results['interpreter']}, {versions}",
        "",
        f"{results['date']}, {machine['processor']} ({machine['cores']} cores), "
        f"{machine['system']}, load {machine['load before']} before.",
        "",
        "Ratios are times of pypoll to those of others: the median over all rounds in which both "
        "had a turn (the quartiles; the ratio of the best turns).",
        "",
    ]
    lines += _sections(results["rows"])
    lines += _growth_table(results["growth"])
    many = results["many objects"]
    lines += [f"## {many['number']:,} new objects, one after the other", ""]
    lines += ["Costs of each, which registers a descriptor and polls once; processor time.", ""]
    lines += _by_poller(many, "microseconds", "page faults")
    lines += ["## The import", "", "Processor time of a new interpreter.", ""]
    times = [[name, f"{value:.1f}"] for name, value in results["import"].items()]
    lines += [*_table(["", "ms"], times), ""]
    if "memory" in results:
        lines += ["## Memory", "", f"By the {results['memory']['method']}.", ""]
        lines += _by_poller(results["memory"], "bytes a descriptor", "bytes an empty object")
    if results["left out"]:
        lines += ["## Left out", "", *(f"- {what}" for what in results["left out"]), ""]
    return "\n".join([*lines, "## Marks", "", *_table(_MARK_HEADINGS, _marks(results))])
