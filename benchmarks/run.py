"""pypoll beside select.poll, a bare C loop over poll(2), and the selectors of the standard library.

    python benchmarks/run.py                       prints tables in Markdown; takes 6 minutes
    python benchmarks/run.py --json result.json    writes all figures to a file too

README.md here says how it measures. It needs pypoll with an extra: pip install '.[bench]'
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import random
import resource
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Callable

import cffi
from report import report
from subjects import (
    C_LOOP,
    FULL,
    MISSING,
    OTHERS,
    POLLERS,
    QUICK,
    SMOKE,
    Effort,
    Workload,
    compiled_c_loop,
    load_c_loop,
    subjects_of,
    workloads,
)
from timing import Turns, figures, ratio, take_turns

import pypoll

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = 100_000
_OBJECTS = 5
_EMPTY_OBJECTS = 100_000
# CPython has ready-made ints for smaller ones. Whether they are open does not matter.
_FIRST = 1000

_IMPORTS = {"cffi": "import _cffi_backend", "cffi and pypoll": "import _cffi_backend, pypoll"}


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what the function returns in an interpreter with its own memory and hash seed."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def of_each_poller(function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    """Return what the function returns for each poller, in a process of its own."""
    return {poller: in_fresh_process(function, poller, *arguments) for poller in POLLERS}


# Rows: times of subjects that take turns.


def turns_of(wanted: list[Workload], effort: Effort, compiled: str) -> list[Turns]:
    """Return the turns for each workload, all in this process."""
    load_c_loop(compiled)
    taken = []
    for number, workload in enumerate(wanted, 1):
        if sys.stderr.isatty():
            end = "\n" if number == len(wanted) else ""
            print(f"\rrow {number} of {len(wanted)}", end=end, file=sys.stderr, flush=True)
        # asyncio is a lot of code to compile, and a round trip of all clients takes its time.
        longer = 5 if workload.section == "asyncio" else 1
        with subjects_of(workload) as subjects:
            taken.append(take_turns(subjects, longer * effort.seconds, longer * effort.warm_up))
    return taken


def row(workload: Workload, turns: Turns) -> dict[str, Any]:
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


def rows(wanted: list[Workload], effort: Effort, compiled: str) -> list[dict[str, Any]]:
    """Measure all in each of several processes, each time in another order, and return the rows."""
    turns: dict[Workload, Turns] = {workload: {} for workload in wanted}
    for _ in range(effort.processes):
        order = random.sample(wanted, len(wanted))
        for workload, taken in zip(order, in_fresh_process(turns_of, order, effort, compiled)):
            for subject, seconds in taken.items():
                turns[workload].setdefault(subject, []).extend(seconds)
    return [row(workload, turns[workload]) for workload in wanted]


# How the cost of a poll grows with the number of descriptors.


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


def growth(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the microseconds of a call and of each descriptor, idle and with all ready."""
    lines = []
    for kind in ("pipes", "sockets"):
        # Of one, all are ready when one is.
        for state, names in ("idle", ("idle",)), ("all ready", ("all ready", "one ready")):
            chosen = [
                row
                for row in measured
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


# What objects take, each function once in a process.


def cost_of_an_object(poller: str, objects: int) -> tuple[float, float]:
    """Return the microseconds and the page faults of each of so many objects.

    There are so many that the collector has its share of the work. The time is that of the process,
    its system calls and page faults included.
    """
    new = POLLERS[poller]
    fd, _ = os.pipe()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(objects):
        p = new()
        p.register(fd, pypoll.POLLIN)
        p.poll(0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds * 1e6 / objects, (after.ru_minflt - before.ru_minflt) / objects


def many_objects(effort: Effort) -> dict[str, Any]:
    """Return what an object costs among many; the medians of several processes."""
    costs = [of_each_poller(cost_of_an_object, effort.objects) for _ in range(effort.processes)]
    return {
        "number": effort.objects,
        **{
            cost: {name: round(median(each[name][i] for each in costs), 4) for name in POLLERS}
            for i, cost in enumerate(("microseconds", "page faults"))
        },
    }


def resident() -> int:
    """Return the bytes of this process's resident memory."""
    gc.collect()
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_a_descriptor(poller: str) -> float:
    """Return the bytes for each descriptor of this poller."""
    # Beyond the limit poll(2) refuses, after select.poll has made its array: so no result, of
    # 100,000 that are not open, adds to the memory.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    fds = list(range(_FIRST, _FIRST + _DESCRIPTORS))
    new = POLLERS[poller]
    kept = []
    before = resident()
    for _ in range(_OBJECTS):
        made = new()
        for fd in fds:
            made.register(fd, 1)
        with contextlib.suppress(OSError):
            made.poll(0)
        kept.append(made)
    return round((resident() - before) / (len(kept) * _DESCRIPTORS), 1)


def bytes_an_empty_object(poller: str) -> float:
    """Return the bytes for each object of this poller."""
    new = POLLERS[poller]
    kept: list[Any] = [None] * _EMPTY_OBJECTS
    before = resident()
    for number in range(_EMPTY_OBJECTS):
        kept[number] = new()
    return round((resident() - before) / _EMPTY_OBJECTS, 1)


def memory() -> dict[str, Any]:
    """Return the bytes that descriptors and objects take."""
    return {
        "method": f"growth of a fresh process's resident memory by {_OBJECTS} objects of "
        f"{_DESCRIPTORS:,} descriptors each, after one poll(), and by {_EMPTY_OBJECTS:,} empty "
        "objects",
        "bytes a descriptor": of_each_poller(bytes_a_descriptor),
        "bytes an empty object": of_each_poller(bytes_an_empty_object),
    }


# The import.


def import_milliseconds(program: str, directory: str) -> float:
    """Return the processor time of a new interpreter that runs the program."""
    process = subprocess.Popen([sys.executable, "-I", "-c", program], cwd=directory)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program!r} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000


def imports(effort: Effort, directory: str) -> dict[str, float]:
    """Return the milliseconds that imports take, and what pypoll adds, as medians of turns."""
    taken = [
        [import_milliseconds(program, directory) for program in _IMPORTS.values()]
        for _ in range(effort.imports + 1)
    ][1:]  # the first one compiles what has not been
    medians = {name: median(times) for name, times in zip(_IMPORTS, zip(*taken))}
    added = median(both - cffi_alone for cffi_alone, both in taken)
    return {name: round(value, 1) for name, value in {**medians, "pypoll adds": added}.items()}


# When and where it was measured.


def raised_limit(wanted: int) -> int:
    """Return how many descriptors may be open, as many as are wanted if the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted
    raised = wanted if hard == unlimited else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised


def processor() -> str:
    """Return the model of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def interpreter() -> str:
    """Return its name and version."""
    name, python = platform.python_implementation(), platform.python_version()
    if name != "PyPy":
        return f"{name} {python}"
    own = ".".join(map(str, sys.implementation.version[:3]))
    return f"{name} {own}, Python {python}"


def circumstances() -> dict[str, Any]:
    """Return when, on what and of what the figures are."""
    versions = {"pypoll": pypoll.__version__, "cffi": cffi.__version__}
    for distribution, poller in ("gevent", "gevent.select.poll"), ("pyzmq", "zmq.Poller"):
        if poller in OTHERS:
            versions[distribution] = version(distribution)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "load before": round(os.getloadavg()[0], 2),
        },
        "interpreter": interpreter(),
        "versions": versions,
    }


def run(effort: Effort) -> dict[str, Any]:
    """Return all results."""
    results = circumstances()
    wanted = workloads(effort)
    limit = raised_limit(max(workload.descriptors for workload in wanted))
    possible = [workload for workload in wanted if workload.descriptors <= limit]
    sizes = dict.fromkeys(each.size for each in wanted if each not in possible)
    left_out = [f"{size}: only {limit:,} descriptors may be open" for size in sizes]
    left_out += [f"{name}: it is not installed" for name in MISSING]
    if _STATM.exists():
        results["memory"] = memory()
    else:
        left_out.append("memory: the system has no /proc/self/statm")
    results["many objects"] = many_objects(effort)
    with TemporaryDirectory() as directory:
        results["import"] = imports(effort, directory)
        results["rows"] = rows(possible, effort, compiled_c_loop(directory))
    results["growth"] = growth(results["rows"])
    results["left out"] = left_out
    return results


def as_json(results: dict[str, Any]) -> str:
    """Return the results as JSON, a line to a row, so that two of them can be compared."""
    parts = []
    for name, part in results.items():
        text = json.dumps(part)
        if isinstance(part, list):
            text = "[\n" + ",\n".join(map(json.dumps, part)) + "\n]"
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="pypoll beside select.poll and others")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument(
        "--quick", dest="effort", action="store_const", const=QUICK, help="a minute, less exact"
    )
    effort.add_argument(
        "--smoke", dest="effort", action="store_const", const=SMOKE, help="seconds, says nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to a file too")
    parser.set_defaults(effort=FULL)
    arguments = parser.parse_args()
    results = run(arguments.effort)
    print(report(results))
    if arguments.json is not None:
        arguments.json.write_text(as_json(results), "utf-8")


if __name__ == "__main__":
    main()
