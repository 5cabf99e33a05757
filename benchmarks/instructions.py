"""Instructions and system calls that pypoll takes, counted by callgrind, against a record of them.

    python benchmarks/instructions.py            # exit status 1 if something takes more than it did
    python benchmarks/instructions.py --renew    # writes benchmarks/instructions.json anew

Times on a machine that others use too say nothing about some per cent; counts are the same in
every run, to the last digit or nearly. What the kernel does is not among the instructions, so its
calls are counted too; reading the clock is one under valgrind.

They are counts of one build of CPython, though. Between two builds of 3.11, with and without
optimization by profile, they differ by up to 20 %, and as that is not alike for all code, their
ratio to the same work of the select module by up to 13 %. With a margin that bears this, a ratio
would let through what is to be found. So the counts themselves are recorded, and beside them those
of the standard library, in which pypoll has no part, at work like its own: these say whether the
record is comparable, for another build shows in them. If it is not, and without valgrind or a
record for this version of Python, nothing can be told: exit status 77, and the last line of the
output says "skipped:" and why.
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

# Runs differ by 0.01 %, and by up to 0.9 % where directories have longer names, or the processor
# other instructions for copying memory. What poll() takes least is 2000, a call of an empty Python
# function 320 of them.
MARGIN = 0.02


class Scenario(NamedTuple):
    """A statement, repeated over so many descriptors that are all ready, or all idle."""

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
    # Over before the system call, so that no clock decides how often that one is made.
    Scenario("poll(0.000001)", 1, ready=False, calls=500),
    Scenario("ppoll(0, {SIGINT, SIGTERM})", 1, ready=False, calls=200),
    Scenario("register(fd, POLLIN)", 100, ready=False, calls=500),
    Scenario("modify(fd, POLLIN)", 100, ready=False, calls=500),
    # So often that holes are squeezed out some times.
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
    """What a call takes."""

    instructions: float
    system_calls: int


@contextmanager
def namespace(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """Give what the statement uses."""
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

    The timer is called right before and after the loop, and is where callgrind writes its counts.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for scenario in ALL:
        with namespace(scenario) as names:
            work = timeit.Timer(scenario.statement, timer=os.getppid, globals=names)
            work.timeit(scenario.calls)
            work.timeit(scenario.calls)


def costs(valgrind: str) -> dict[str, Cost]:
    """Return what each scenario takes for a call."""
    with tempfile.TemporaryDirectory() as directory:
        command = [valgrind, "-q", "--tool=callgrind", f"--callgrind-out-file={directory}/counts"]
        command += ["--dump-before=getppid*", "--collect-systime=yes"]
        command += [sys.executable, str(Path(__file__).resolve()), "--run-all"]
        subprocess.run(command, env={"PYTHONHASHSEED": "0"}, cwd=directory, check=True)
        dumps = sorted(Path(directory).glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        # Four times for each: before and after the first run, before and after the second.
        assert len(dumps) == 4 * len(ALL), "callgrind did not see every call of getppid()"
        return {
            str(scenario): cost(dump, scenario.calls)
            for scenario, dump in zip(ALL, itertools.islice(dumps, 3, None, 4))
        }


def cost(dump: Path, calls: int) -> Cost:
    """Return what a call takes by a file of callgrind's, whose totals are those of all calls."""
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
    strange = [name for name in map(str, REFERENCES) if abs(change[name]) > MARGIN or calls[name]]
    over = [name for name in map(str, SCENARIOS) if change[name] > MARGIN or calls[name] > 0]
    print(f"{'what one takes':<58}{'instructions':>22}{'':>9}  system calls")
    for name, cost in counted.items():
        before = recorded[name]
        remark = ""
        if strange:
            pass
        elif name in over:
            remark = "  more"
        elif change[name] < -MARGIN or calls[name] < 0:
            remark = "  less: renew the record"
        print(
            f"{name:<58}{before[0]:>10} ->{cost.instructions:>9}{change[name]:>+9.2%}"
            f"{before[1]:>5} ->{cost.system_calls:>2}{remark}"
        )
    if strange:
        return skip(f"the record is of another build or machine: {strange[0]} is not as recorded")
    print(f"{len(over)} of {len(SCENARIOS)} take over {MARGIN:.0%} more than recorded")
    return 1 if over else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--renew", action="store_true", help="write the record anew")
    parser.add_argument("--run-all", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_all:
        run_all()
        return 0
    if platform.python_implementation() != "CPython":
        return skip("instructions are counted on CPython alone: callgrind cannot follow a JIT")
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return skip("valgrind, which counts the instructions, is not installed")
    version = "CPython {}.{}".format(*sys.version_info)
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if not arguments.renew and version not in record:
        return skip(f"there is no record of {version}: --renew makes one")
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
