"""Counts the instructions and system calls of pypoll, and compares them with a record.

    python benchmarks/instructions.py            # exit status 1 if a count exceeds the record
    python benchmarks/instructions.py --renew    # writes a new benchmarks/instructions.json

Times on a shared machine cannot show a change of a few per cent. Counts of instructions can: they
are nearly the same in every run. callgrind counts no instructions of the kernel, so system calls
are counted too. Under valgrind, reading the clock is one.

Counts depend on the build of CPython: with and without profile-guided optimization, those of 3.11
differ by up to 20 %. Ratios to the select module differ by up to 13 %, which is too much to find a
regression. So the record has counts of the standard library too. If those differ from the record,
the record is of another build.

If the record is of another build or Python version, or valgrind is missing, the exit status is 77,
and the last line of the output is "skipped:" and the reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import _cffi_backend

import pypoll

RECORD = Path(__file__).with_suffix(".json")
SKIPPED = 77

# Runs differ by 0.01 %. On machines with longer directory names, or with other instructions for
# copying memory, they differ by up to 0.9 %.
MARGIN = 0.02


class Scenario(NamedTuple):
    """A statement, executed with a number of registered descriptors, all ready or all idle."""

    statement: str
    descriptors: int
    ready: bool
    calls: int

    def __str__(self) -> str:
        return f"{self.statement}: {self.descriptors} {'ready' if self.ready else 'idle'}"


SCENARIOS = [
    Scenario("poll(0)", 1, ready=False, calls=500),
    Scenario("poll(0)", 1, ready=True, calls=500),
    Scenario("poll(0)", 10, ready=True, calls=200),
    Scenario("poll(0)", 100, ready=True, calls=100),
    Scenario("poll(0)", 1000, ready=True, calls=20),
    Scenario("poll()", 1, ready=True, calls=500),
    Scenario("poll(60000)", 1, ready=True, calls=500),
    Scenario("poll(0.5)", 1, ready=True, calls=500),
    # The timeout expires before the system call, so the number of system calls is always the same.
    Scenario("poll(0.000001)", 1, ready=False, calls=500),
    Scenario("ppoll(0, {SIGINT, SIGTERM})", 1, ready=False, calls=200),
    Scenario("register(fd, POLLIN)", 100, ready=False, calls=500),
    Scenario("modify(fd, POLLIN)", 100, ready=False, calls=500),
    # Often enough to include compactions of the array, which unregister() leaves holes in.
    Scenario("unregister(fd); register(fd, POLLIN); poll(0)", 1000, ready=False, calls=2000),
    Scenario("p = Poll(); p.register(fd, POLLIN); p.poll(0)", 1, ready=False, calls=200),
    Scenario("poll_fd(fd, POLLIN, 0)", 1, ready=True, calls=500),
    Scenario("select(0)", 1, ready=True, calls=500),
    Scenario("select(0)", 100, ready=True, calls=100),
    Scenario("select(60.5)", 1, ready=True, calls=500),
]

REFERENCES = [
    Scenario("standard_poll(0)", 1, ready=True, calls=500),
    Scenario("standard_poll(0)", 100, ready=True, calls=100),
    Scenario("standard_select(0)", 100, ready=True, calls=100),
]

ALL = [*SCENARIOS, *REFERENCES]


class Cost(NamedTuple):
    """The cost of one call."""

    instructions: float
    system_calls: int


@contextmanager
def namespace(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """Yield the names that the statement uses."""
    reading, writing = os.pipe()
    if scenario.ready:
        os.write(writing, b"x")
    fds = [os.dup(reading) for _ in range(scenario.descriptors)]
    poller, standard_poller = pypoll.Poll(), select.poll()
    selector, standard_selector = pypoll.PollSelector(), selectors.PollSelector()
    for fd in fds:
        poller.register(fd, pypoll.POLLIN)
        standard_poller.register(fd, pypoll.POLLIN)
        selector.register(fd, selectors.EVENT_READ)
        standard_selector.register(fd, selectors.EVENT_READ)
    yield {
        "Poll": pypoll.Poll,
        "poll": poller.poll,
        "ppoll": poller.ppoll,
        "register": poller.register,
        "modify": poller.modify,
        "unregister": poller.unregister,
        "poll_fd": pypoll.poll_fd,
        "select": selector.select,
        "standard_poll": standard_poller.poll,
        "standard_select": standard_selector.select,
        "fd": fds[len(fds) // 2],
        "POLLIN": pypoll.POLLIN,
        "SIGINT": signal.SIGINT,
        "SIGTERM": signal.SIGTERM,
    }
    for fd in (*fds, reading, writing):
        os.close(fd)


def run_all() -> None:
    """Run each scenario twice, the first time to warm up.

    callgrind writes its counts at each call of getppid(). As the timer of timeit, it is called
    right before and after the loop.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for scenario in ALL:
        with namespace(scenario) as names:
            work = timeit.Timer(scenario.statement, timer=os.getppid, globals=names)
            work.timeit(scenario.calls)
            work.timeit(scenario.calls)


def costs(valgrind: str) -> dict[str, Cost]:
    """Return the cost of one call in each scenario."""
    with tempfile.TemporaryDirectory() as directory:
        command = [valgrind, "-q", "--tool=callgrind", f"--callgrind-out-file={directory}/counts"]
        command += ["--dump-before=getppid*", "--collect-systime=yes"]
        command += [sys.executable, str(Path(__file__).resolve()), "--run-all"]
        subprocess.run(command, env={"PYTHONHASHSEED": "0"}, cwd=directory, check=True)
        dumps = sorted(Path(directory).glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        # Four dumps for each scenario: before and after each of the two runs.
        assert len(dumps) == 4 * len(ALL), "callgrind did not see every call of getppid()"
        return {
            str(scenario): cost(dump, scenario.calls)
            for scenario, dump in zip(ALL, itertools.islice(dumps, 3, None, 4))
        }


def cost(dump: Path, calls: int) -> Cost:
    """Return the cost of one call from a dump of callgrind, which has the totals of all calls."""
    for line in dump.read_text().splitlines():
        if line.startswith("totals: "):
            instructions, system_calls = map(int, line.split()[1:3])
            return Cost(round(instructions / calls, 1), round(system_calls / calls))
    raise ValueError(f"no totals in {dump}")


def skip(reason: str) -> int:
    print(f"skipped: {reason}")
    return SKIPPED


def check(counted: dict[str, Cost], recorded: dict[str, Cost]) -> int:
    """Print a row for each scenario, and return the exit status."""
    change = {name: cost.instructions / recorded[name][0] - 1 for name, cost in counted.items()}
    calls = {name: cost.system_calls - recorded[name][1] for name, cost in counted.items()}
    different = [name for name in map(str, REFERENCES) if abs(change[name]) > MARGIN or calls[name]]
    over = [name for name in map(str, SCENARIOS) if change[name] > MARGIN or calls[name] > 0]
    print(f"{'one call':<58}{'instructions':>22}{'':>9}  system calls")
    for name, cost in counted.items():
        before = recorded[name]
        remark = ""
        if not different:
            if name in over:
                remark = "  more"
            elif change[name] < -MARGIN or calls[name] < 0:
                remark = "  less: renew the record"
        print(
            f"{name:<58}{before[0]:>10} ->{cost.instructions:>9}{change[name]:>+9.2%}"
            f"{before[1]:>5} ->{cost.system_calls:>2}{remark}"
        )
    if different:
        return skip(f"the record is of another build or machine: {different[0]} differs from it")
    print(f"{len(over)} of {len(SCENARIOS)} exceed the record by over {MARGIN:.0%}")
    return 1 if over else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--renew", action="store_true", help="write a new record")
    parser.add_argument("--run-all", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_all:
        run_all()
        return 0
    if platform.python_implementation() != "CPython":
        return skip(
            "instructions are counted only on CPython: callgrind cannot follow a JIT compiler"
        )
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return skip("valgrind is not installed")
    version = "CPython {}.{}".format(*sys.version_info)
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if not arguments.renew and version not in record:
        return skip(f"there is no record of {version}: --renew creates one")
    counted = costs(valgrind)
    if arguments.renew:
        record[version] = {"cffi": _cffi_backend.__version__, "costs": counted}
        RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    print(f"{pypoll.__file__}, with cffi {_cffi_backend.__version__}")
    print(f"recorded with cffi {record[version]['cffi']}")
    return check(counted, {name: Cost(*cost) for name, cost in record[version]["costs"].items()})


if __name__ == "__main__":
    sys.exit(main())
