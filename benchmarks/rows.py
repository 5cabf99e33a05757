"""The rows of the results: what the subjects' turns in several processes come to."""

from __future__ import annotations

import random
import sys
from typing import Any

import c_loop
from fresh import in_fresh_process
from measuring import Turns, figures, ratio, take_turns
from subjects import subjects_of
from workloads import Effort, Workload


def _turns(workloads: list[Workload], effort: Effort, compiled: str) -> list[Turns]:
    """Return the turns for each workload, all in this process."""
    c_loop.load(compiled)
    taken = []
    for number, workload in enumerate(workloads, 1):
        if sys.stderr.isatty():
            end = "\n" if number == len(workloads) else ""
            print(f"\rrow {number} of {len(workloads)}", end=end, file=sys.stderr, flush=True)
        # asyncio is a lot of code to compile, and a round trip of all clients takes its time.
        longer = 5 if workload.section == "asyncio" else 1
        with subjects_of(workload) as subjects:
            taken.append(take_turns(subjects, longer * effort.seconds, longer * effort.warm_up))
    return taken


def _row(workload: Workload, turns: Turns) -> dict[str, Any]:
    """Return the figures of a workload: of each subject, and of the first one to each other."""
    ours, *others = turns
    return {
        "section": workload.section,
        "name": workload.name,
        "kind": workload.kind,
        "count": workload.count,
        "rounds": len(turns[ours]),
        "microseconds": {
            subject: figures([second * 1e6 for second in seconds])
            for subject, seconds in turns.items()
        },
        "ratios": {other: ratio(turns[ours], turns[other]) for other in others},
    }


def measured(workloads: list[Workload], effort: Effort, compiled: str) -> list[dict[str, Any]]:
    """Measure all in each of several processes, each time in another order, and return the rows."""
    turns: dict[Workload, Turns] = {workload: {} for workload in workloads}
    for _ in range(effort.processes):
        order = random.sample(workloads, len(workloads))
        for workload, taken in zip(order, in_fresh_process(_turns, order, effort, compiled)):
            for subject, seconds in taken.items():
                turns[workload].setdefault(subject, []).extend(seconds)
    return [_row(workload, turns[workload]) for workload in workloads]
