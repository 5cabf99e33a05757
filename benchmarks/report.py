"""The results as text: tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from marks import HEADINGS, marks
from subjects import C_LOOP, POLLERS

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


def _growth(lines: list[dict[str, Any]]) -> list[str]:
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
    lines += _growth(results["growth"])
    many = results["many objects"]
    lines += [f"## {many['number']:,} new objects, one after the other", ""]
    lines += ["Costs of each, which registers a descriptor and polls once; processor time.", ""]
    lines += _by_poller(many, "microseconds", "page faults")
    if "memory" in results:
        lines += ["## Memory", "", f"By the {results['memory']['method']}.", ""]
        lines += _by_poller(results["memory"], "bytes a descriptor", "bytes an empty object")
    if results["left out"]:
        lines += ["## Left out", "", *(f"- {what}" for what in results["left out"]), ""]
    return "\n".join([*lines, "## Marks", "", *_table(HEADINGS, marks(results))])
