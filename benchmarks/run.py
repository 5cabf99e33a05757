"""Compares pypoll with select.poll, a C loop over poll(2), and the standard library's selectors.

    python benchmarks/run.py                       prints tables in Markdown; takes 5 minutes
    python benchmarks/run.py --json result.json    also writes all figures to a file

benchmarks/README.md describes the method. Needs the extra "bench": pip install '.[bench]'
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
    compile_c_loop,
    load_c_loop,
    subjects_of,
    workloads_of,
)
from timing import Times, figures, ratio, take_turns

import pypoll

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = 100_000
_OBJECTS = 5
_EMPTY_OBJECTS = 100_000
# Above the ints that CPython caches. The descriptors need not be open.
_FIRST = 1000

_IMPORTS = {"cffi": "import _cffi_backend", "cffi and pypoll": "import _cffi_backend, pypoll"}


def call_in_new_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of the function in a new interpreter, which has another hash seed."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def call_for_each_poller(function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    """Call the function in a new process for each poller, and return the results by poller."""
    return {poller: call_in_new_process(function, poller, *arguments) for poller in POLLERS}


# The rows, in which subjects take turns.


def measure(workloads: list[Workload], effort: Effort, c_loop: str) -> list[Times]:
    """Return the times of each workload, measured in this process."""
    load_c_loop(c_loop)
    measured = []
    for number, workload in enumerate(workloads, 1):
        if sys.stderr.isatty():
            end = "\n" if number == len(workloads) else ""
            print(f"\rrow {number} of {len(workloads)}", end=end, file=sys.stderr, flush=True)
        # asyncio needs a longer warm-up, and a round trip of all clients takes long.
        factor = 5 if workload.section == "asyncio" else 1
        with subjects_of(workload) as subjects:
            measured.append(take_turns(subjects, factor * effort.seconds, factor * effort.warm_up))
    return measured


def row(workload: Workload, times: Times) -> dict[str, Any]:
    """Return the figures of each subject, and the ratios of the first one to each other."""
    ours, *others = times
    return {
        "section": workload.section,
        "name": workload.name,
        "kind": workload.kind,
        "count": workload.count,
        "rounds": len(times[ours]),
        "microseconds": {
            subject: figures([second * 1e6 for second in seconds])
            for subject, seconds in times.items()
        },
        "ratios": {other: ratio(times[ours], times[other]) for other in others},
    }


def rows(workloads: list[Workload], effort: Effort, c_loop: str) -> list[dict[str, Any]]:
    """Measure all workloads in each of several processes, in random order, and return the rows."""
    times: dict[Workload, Times] = {workload: {} for workload in workloads}
    for _ in range(effort.processes):
        order = random.sample(workloads, len(workloads))
        measured = call_in_new_process(measure, order, effort, c_loop)
        for workload, of_subjects in zip(order, measured):
            for subject, seconds in of_subjects.items():
                times[workload].setdefault(subject, []).extend(seconds)
    return [row(workload, times[workload]) for workload in workloads]


# The time of a poll by the number of descriptors.


def fitted_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope and the intercept with the least squares of relative errors.

    With absolute errors, only the largest set would count.
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
    """Return the microseconds per call and per descriptor, with all descriptors idle or ready."""
    lines = []
    for kind in ("pipes", "sockets"):
        # In a set of one descriptor, "one ready" means that all are.
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


# The time and memory that objects take. Each function runs only once in a process.


def cost_of_an_object(poller: str, objects: int) -> tuple[float, float]:
    """Return the microseconds and the page faults per object.

    With many objects, this includes the work of the garbage collector. The time is the processor
    time of the process, including the kernel.
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
    """Return the cost of an object among many, as medians of several processes."""
    costs = [
        call_for_each_poller(cost_of_an_object, effort.objects) for _ in range(effort.processes)
    ]
    return {
        "number": effort.objects,
        **{
            cost: {name: round(median(each[name][i] for each in costs), 4) for name in POLLERS}
            for i, cost in enumerate(("microseconds", "page faults"))
        },
    }


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_a_descriptor(poller: str) -> float:
    """Return the bytes of memory per descriptor."""
    # Above the limit, poll(2) fails, but only after select.poll has created its array. So this
    # includes the array, and no list of 100,000 results.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    fds = list(range(_FIRST, _FIRST + _DESCRIPTORS))
    new = POLLERS[poller]
    kept = []
    before = resident()
    for _ in range(_OBJECTS):
        p = new()
        for fd in fds:
            p.register(fd, 1)
        with contextlib.suppress(OSError):
            p.poll(0)
        kept.append(p)
    return round((resident() - before) / (len(kept) * _DESCRIPTORS), 1)


def bytes_an_empty_object(poller: str) -> float:
    """Return the bytes of memory per empty object."""
    new = POLLERS[poller]
    kept: list[Any] = [None] * _EMPTY_OBJECTS
    before = resident()
    for number in range(_EMPTY_OBJECTS):
        kept[number] = new()
    return round((resident() - before) / _EMPTY_OBJECTS, 1)


def memory() -> dict[str, Any]:
    """Return the bytes per descriptor and per object."""
    return {
        "method": f"growth of a new process's resident memory after creating {_OBJECTS} objects "
        f"with {_DESCRIPTORS:,} descriptors each, and one poll() in each; or {_EMPTY_OBJECTS:,} "
        "empty objects",
        "bytes a descriptor": call_for_each_poller(bytes_a_descriptor),
        "bytes an empty object": call_for_each_poller(bytes_an_empty_object),
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
    """Return the median milliseconds of imports, and what pypoll adds to that of cffi."""
    rounds = [
        [import_milliseconds(program, directory) for program in _IMPORTS.values()]
        for _ in range(effort.imports + 1)
    ][1:]  # the first one may compile modules to bytecode
    medians = {name: median(times) for name, times in zip(_IMPORTS, zip(*rounds))}
    added = median(both - cffi_alone for cffi_alone, both in rounds)
    return {name: round(value, 1) for name, value in {**medians, "pypoll adds": added}.items()}


# The conditions of the measurement.


def raise_limit(needed: int) -> int:
    """Raise the limit of open descriptors if needed, and return how many of these can be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return needed
    raised = needed if hard == unlimited else min(needed, hard)
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
    """Return the name and version of the interpreter."""
    name, python = platform.python_implementation(), platform.python_version()
    if name != "PyPy":
        return f"{name} {python}"
    own = ".".join(map(str, sys.implementation.version[:3]))
    return f"{name} {own}, Python {python}"


def conditions() -> dict[str, Any]:
    """Return the date, the machine, the interpreter and the versions."""
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
    results = conditions()
    planned = workloads_of(effort)
    limit = raise_limit(max(workload.descriptors for workload in planned))
    possible = [workload for workload in planned if workload.descriptors <= limit]
    sizes = dict.fromkeys(workload.size for workload in planned if workload not in possible)
    left_out = [f"{size}: only {limit:,} descriptors can be open" for size in sizes]
    left_out += [f"{name}: not installed" for name in MISSING]
    if _STATM.exists():
        results["memory"] = memory()
    else:
        left_out.append("memory: this system has no /proc/self/statm")
    results["many objects"] = many_objects(effort)
    with TemporaryDirectory() as directory:
        results["import"] = imports(effort, directory)
        results["rows"] = rows(possible, effort, compile_c_loop(directory))
    results["growth"] = growth(results["rows"])
    results["left out"] = left_out
    return results


def as_json(results: dict[str, Any]) -> str:
    """Return the results as JSON, with one line for each row, so that diffs are readable."""
    parts = []
    for name, part in results.items():
        text = json.dumps(part)
        if isinstance(part, list):
            text = "[\n" + ",\n".join(map(json.dumps, part)) + "\n]"
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare pypoll with select.poll and others.")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument(
        "--quick",
        dest="effort",
        action="store_const",
        const=QUICK,
        help="take one minute, and be less exact",
    )
    effort.add_argument(
        "--smoke",
        dest="effort",
        action="store_const",
        const=SMOKE,
        help="only test the benchmark itself, in seconds",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the results to a file"
    )
    parser.set_defaults(effort=FULL)
    arguments = parser.parse_args()
    results = run(arguments.effort)
    print(report(results))
    if arguments.json is not None:
        arguments.json.write_text(as_json(results), "utf-8")


if __name__ == "__main__":
    main()
