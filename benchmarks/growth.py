"""How the cost of a poll grows with the number of descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from subjects import C_LOOP, POLLERS


def fitted_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope and the intercept that fit best, by least squares of relative errors.

    Of relative ones, for those of the largest set alone would count otherwise.
    """
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points)) / total
    products = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points))
    squares = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points))
    slope = products / squares
    return slope, mean_y - slope * mean_x


def growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the microseconds of a call and of each descriptor, idle and with all ready."""
    lines = []
    for kind in ("pipes", "sockets"):
        # Of one, all are ready when one is.
        for state, names in ("idle", ("idle",)), ("all ready", ("all ready", "one ready")):
            chosen = [
                row
                for row in rows
                if (row["section"], row["kind"]) == ("poll", kind)
                and row["name"] in names
                and (row["name"] == state or row["count"] == 1)
            ]
            for subject in (*POLLERS, C_LOOP):
                points = [(row["count"], row["microseconds"][subject]["median"]) for row in chosen]
                slope, intercept = fitted_line(points)
                lines.append(
                    {
                        "name": state,
                        "kind": kind,
                        "subject": subject,
                        "microseconds a descriptor": round(slope, 5),
                        "microseconds a call": round(intercept, 3),
                    }
                )
    return lines
