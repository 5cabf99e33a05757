"""The results as tables in Markdown, and the target ratios."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from subjects import C_LOOP, POLLERS


class Target(NamedTuple):
    """The highest acceptable ratio of some rows."""

    section: str
    name: str
    descriptors: int
    highest: float
    other: str = "select.poll"


_AGAINST_C = Target("poll", "idle", 1_000, 1.03, C_LOOP)
_CPYTHON = (
    Target("poll", "idle", 1, 1.24),
    Target("poll", "one ready", 1, 1.34),
    Target("poll", "idle", 100, 1.04),
    Target("poll", "idle", 1_000, 1.01),
    Target("poll", "all ready", 10, 1.77),
    Target("poll", "all ready", 100, 1.28),
    Target("poll", "all ready", 1_000, 1.22),
    Target("change", "one by modify", 100, 0.8),
    Target("change", "one by modify", 1_000, 0.74),
    Target("change", "one by unregister and register", 100, 0.8),
    Target("change", "one by unregister and register", 1_000, 0.74),
    Target("call", "register a known one", 100, 3.2),
    Target("object once", "idle", 1, 2.8),
    Target("one descriptor", "idle", 1, 0.92),
    Target("one descriptor", "one ready", 1, 0.84),
    _AGAINST_C,
)
# The highest ratios to selectors.PollSelector, by section, name and count, on these interpreters.
_SELECTOR_INTERPRETERS = ("CPython 3.11.", "CPython 3.13.", "PyPy ")
_SELECTORS = {
    ("selector call", "register and unregister", 100): (1.05, 1.1, 1.1),
    ("selector call", "modify to READ and WRITE, and back", 100): (1.1, 1.1, 1.1),
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
# On PyPy, all rows of these sections have the same target.
_PYPY = 1.0
_PYPY_SECTIONS = ("poll", "change", "timeout", "one descriptor")
_PYPY_MANY_OBJECTS = 3.0
# The most bytes that pypoll may take.
_BYTES = {"bytes an empty object": 700, "bytes a descriptor": 40}

_TARGET_HEADINGS = ("figure", "ratio to", "target", "measured", "quartiles", "")


def _compared(
    name: str, other: str, highest: float, measured: float, spread: str = ""
) -> list[str]:
    outcome = "met" if measured <= highest else "MISSED"
    return [name, other, f"{highest:g}", f"{measured:.4g}", spread, outcome]


def _compared_row(row: dict[str, Any], other: str, highest: float) -> list[str]:
    ratios = row["ratios"][other]
    name = ", ".join(filter(None, (row["section"], row["name"], row["kind"], f"{row['count']:,}")))
    spread = f"{ratios['lower quartile']:.3f} to {ratios['upper quartile']:.3f}"
    return _compared(name, other, highest, ratios["median"], spread)


def _to_select_poll(row: dict[str, Any]) -> float:
    median: float = row["ratios"]["select.poll"]["median"]
    return median


def _pypy_targets(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the rows that miss the target of PyPy or, if none does, the one closest to it."""
    with_target = [row for row in rows if row["section"] in _PYPY_SECTIONS]
    with_target.sort(key=_to_select_poll, reverse=True)
    missed = [row for row in with_target if _to_select_poll(row) > _PYPY]
    return [_compared_row(row, "select.poll", _PYPY) for row in missed or with_target[:1]]


def _selector_targets(results: dict[str, Any]) -> list[list[str]]:
    """Return the rows of selectors that have a target on this interpreter."""
    rows = {(row["section"], row["name"], row["count"]): row for row in results["rows"]}
    return [
        _compared_row(rows[key], "selectors.PollSelector", highest)
        for key, targets in _SELECTORS.items()
        for interpreter, highest in zip(_SELECTOR_INTERPRETERS, targets)
        if key in rows and results["interpreter"].startswith(interpreter)
    ]


def _targets(results: dict[str, Any]) -> list[list[str]]:
    """Return a line for each figure that has a target."""
    on_pypy = results["interpreter"].startswith("PyPy")
    lines = [
        _compared_row(row, target.other, target.highest)
        for target in ((_AGAINST_C,) if on_pypy else _CPYTHON)
        for row in results["rows"]
        if (row["section"], row["name"], row["count"]) == target[:3]
    ]
    if on_pypy:
        lines += _pypy_targets(results["rows"])
        ours, other = (results["many objects"]["microseconds"][poller] for poller in POLLERS)
        lines.append(_compared("many objects", "select.poll", _PYPY_MANY_OBJECTS, ours / other))
    lines += _selector_targets(results)
    if "memory" in results:
        lines += [
            _compared(name, "", most, results["memory"][name]["pypoll.Poll"])
            for name, most in _BYTES.items()
        ]
    return lines


_TITLES = {
    "poll": "poll(0)",
    "change": "poll(0) after changes",
    "register": "A new object with n registered descriptors",
    "call": "Single calls, with 100 descriptors registered",
    "timeout": "poll() with timeouts of several types, with one descriptor ready",
    "object once": "A new object, one register() and one poll(0)",
    "one descriptor": "One poll of one descriptor",
    "selector": "select(0) of selectors, in some rows after changes",
    "selector call": "Calls of selectors, with 100 descriptors registered",
    "selector once": "A new selector: register(), select(0) and close()",
    "asyncio": "Round trips of 1 KiB per second with asyncio, clients and server in one loop",
}


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. Cells that begin with a digit are aligned to the right."""
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
    form = "{median:.3f} ({lower quartile:.3f} to {upper quartile:.3f}; {of the minima:.3f})"
    return form.format(**row["ratios"][other])


def _section(title: str, rows: list[dict[str, Any]], subjects: Sequence[str]) -> list[str]:
    """Return the table of some rows, with the ratios of the first subject to the others."""
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
    """Return a table for each section, and a second one for subjects that only some rows have."""
    lines = []
    for section, grouped in groupby(rows, key=lambda row: str(row["section"])):
        group = list(grouped)
        subjects = list(group[0]["microseconds"])
        lines += _section(_TITLES[section], group, subjects)
        wider = [row for row in group if len(row["microseconds"]) > len(subjects)]
        if wider:
            others = [each for each in wider[0]["microseconds"] if each not in subjects]
            title = f"{_TITLES[section]}, compared with other packages"
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
    headings = ["", "", "us per call", "us per descriptor", "ratio to the C loop"]
    return ["## Time of poll(0) by the number of descriptors", "", *_table(headings, cells), ""]


def _by_poller(results: dict[str, Any], *names: str) -> list[str]:
    """Return a table with one row for each poller, and one column for each figure."""
    cells = [[poller, *(f"{results[name][poller]:,.3f}" for name in names)] for poller in POLLERS]
    return [*_table(["", *names], cells), ""]


def report(results: dict[str, Any]) -> str:
    """Return the whole report."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        f"# {results['interpreter']}, {versions}",
        "",
        f"{results['date']}, {machine['processor']} ({machine['cores']} cores), "
        f"{machine['system']}, load average before the run: {machine['load before']}.",
        "",
        "A ratio is the time of pypoll divided by that of the other subject: the median of all "
        "rounds (the quartiles; the ratio of the best turns).",
        "",
    ]
    lines += _sections(results["rows"])
    lines += _growth_table(results["growth"])
    many = results["many objects"]
    lines += [f"## {many['number']:,} new objects, one after the other", ""]
    lines += ["Each registers a descriptor and polls once. Processor time per object.", ""]
    lines += _by_poller(many, "microseconds", "page faults")
    lines += ["## Import", "", "Processor time of a new interpreter.", ""]
    times = [[name, f"{value:.1f}"] for name, value in results["import"].items()]
    lines += [*_table(["", "ms"], times), ""]
    if "memory" in results:
        lines += ["## Memory", "", f"Measured as {results['memory']['method']}.", ""]
        lines += _by_poller(results["memory"], "bytes a descriptor", "bytes an empty object")
    if results["left out"]:
        lines += ["## Left out", "", *(f"- {reason}" for reason in results["left out"]), ""]
    return "\n".join([*lines, "## Targets", "", *_table(_TARGET_HEADINGS, _targets(results))])
