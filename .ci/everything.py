"""Runs the README's commands and every session of nox, each from a clone of the commit.

    python .ci/everything.py DIRECTORY

The clones and the logs go into the directory. Ends with a table, one row a command or session.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# The machines have two cores, and the tests wait for half of their time.
AT_A_TIME = 3
SECONDS = 2400
README_COMMANDS = ("Run the tests", "Try it")
# What the others test is built by these.
FIRST = ("sdist", "wheels")
# The longest sessions begin first, so that none is left alone at the end.
LONGEST = (
    "platforms(sid)", "platforms(arm64)", "platforms(s390x)", "platforms(mips64el)",
    "platforms(trixie)", "suites-3.13", "suites-3.11",
)  # fmt: skip
# The first runs others; platforms(sid) and platforms(trixie) have the interpreters of the others.
LEFT_OUT = re.compile(r"release|tests-3\.1[45]t?|tests-pypy3\.1.")
SUMMARY = re.compile(r"\d+ (?:passed|failed).* in \d[^=]*")


class Row(NamedTuple):
    """A line of the table."""

    name: str
    outcome: str
    seconds: float
    remark: str


class Runner:
    """Runs commands, and keeps what came of them."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.rows: list[Row] = []
        self.printing = Lock()
        self.clone = self.cloned("clone")
        self.nox = [sys.executable, "-m", "nox", "-f", str(self.clone / "noxfile.py")]

    def cloned(self, name: str) -> Path:
        """Return a new clone of the commit."""
        subprocess.run(["git", "clone", "-q", ROOT, self.work / name], check=True)
        return self.work / name

    def sessions(self) -> list[str]:
        """Return the names of the sessions, the longest first."""
        # Without -k, nox lists those that it runs by default.
        listed = subprocess.check_output([*self.nox, "--list", "--json", "-k", "not nothing"])
        names = [session["session"] for session in json.loads(listed)]
        kept = [name for name in names if not LEFT_OUT.fullmatch(name) and name not in FIRST]
        return [*LONGEST, *(name for name in kept if name not in LONGEST)]

    def run(self, name: str, command: list[str], directory: Path) -> None:
        """Run a command, print its outcome and, if it failed, the end of what it printed."""
        log = self.work / f"{name}.log"
        # nox makes missing interpreters a failure if it finds this variable.
        environment = {key: value for key, value in os.environ.items() if key != "CI"}
        environment["PYPOLL_DIST"] = str(self.clone / "dist")
        begun = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
        text = log.read_text("utf-8", "replace")
        skipped = re.findall(r"(?m)^nox > Session \S+ skipped: (.*)", text)
        figures = SUMMARY.findall(text)
        outcome = "FAILED" if status else "SKIPPED" if skipped else "passed"
        remark = (skipped or figures or [""])[-1]
        row = Row(name, outcome, time.monotonic() - begun, remark)
        with self.printing:
            self.rows.append(row)
            if outcome == "FAILED":
                print(f"--- {name}: exit status {status}", *text.splitlines()[-150:], sep="\n")
            print_row(row)

    def session(self, name: str) -> None:
        """Run a session of nox."""
        self.run(name, [*self.nox, "-s", name], self.clone)

    def readme(self, heading: str) -> None:
        """Run the command below a heading of the README, from a clone of its own."""
        clone = self.cloned(heading)
        section = (clone / "README.md").read_text("utf-8").split(f"\n## {heading}\n")[1]
        command = section.split("```sh\n")[1].splitlines()[0]
        self.run(f"README: {heading}", ["sh", "-xc", command], clone)


def print_row(row: Row) -> None:
    """Print a row of the table."""
    print(f"{row.name:<24} {row.outcome:<8}{row.seconds:>5.0f} s  {row.remark}", flush=True)


def main(work: Path) -> int:
    """Run everything, and return the exit status."""
    runner = Runner(work)
    for name in FIRST:
        runner.session(name)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        names = runner.sessions()
        longest = [name for name in names if name in LONGEST]
        futures = [pool.submit(runner.session, name) for name in longest]
        futures += [pool.submit(runner.readme, heading) for heading in README_COMMANDS]
        futures += [pool.submit(runner.session, name) for name in names[len(longest) :]]
    for future in futures:
        future.result()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=runner.clone)
    print(f"\nWhat was tested, at {commit.decode().strip()}:")
    for row in sorted(runner.rows):
        print_row(row)
    counts = {
        outcome: sum(row.outcome == outcome for row in runner.rows)
        for outcome in ("passed", "FAILED", "SKIPPED")
    }
    print("{passed} passed, {FAILED} failed, {SKIPPED} skipped".format(**counts))
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
