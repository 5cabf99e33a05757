"""pypoll beside select.poll, a bare C loop over poll(2), and the selectors of the standard library.

    python benchmarks/run.py                       prints tables in Markdown; takes 6 minutes
    python benchmarks/run.py --json result.json    writes all figures to a file too
    python benchmarks/chart.py result.json chart.svg

To be run where pypoll is installed with the extras that this needs: pip install '.[bench]'
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Callable

import c_loop
import cffi
import memory
from fresh import in_fresh_process
from growth import growth
from many_objects import costs_of_an_object
from report import report
from rows import measured
from subjects import MISSING, OTHERS, POLLERS
from workloads import FULL, QUICK, SMOKE, Effort, workloads

import pypoll


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


def of_each_poller(function: Callable[[str], float]) -> dict[str, float]:
    """Return what the function returns for each poller, in a process of its own."""
    return {poller: in_fresh_process(function, poller) for poller in POLLERS}


def many_objects(effort: Effort) -> dict[str, Any]:
    """Return what an object costs among many; the medians of several processes."""
    costs = [
        {name: in_fresh_process(costs_of_an_object, name, effort.objects) for name in POLLERS}
        for _ in range(effort.processes)
    ]
    return {
        "number": effort.objects,
        **{
            cost: {name: round(median(each[name][i] for each in costs), 4) for name in POLLERS}
            for i, cost in enumerate(("microseconds", "page faults"))
        },
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
    with TemporaryDirectory() as directory:
        compiled = c_loop.compile_to(directory)
        if memory.can_be_measured():
            results["memory"] = {
                "method": memory.METHOD,
                "bytes a descriptor": of_each_poller(memory.bytes_a_descriptor),
                "bytes an empty object": of_each_poller(memory.bytes_an_empty_object),
            }
        else:
            left_out.append("memory: the system has no /proc/self/statm")
        results["many objects"] = many_objects(effort)
        results["rows"] = measured(possible, effort, compiled)
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
