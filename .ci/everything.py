"""Runs the commands of the README and every nox session on a clone of the current commit.

    python .ci/everything.py DIRECTORY

Writes clones and logs to the directory. Prints a table with one row for each command or session.
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
# For a machine with two cores: the tests spend half of their time waiting.
JOBS = 3
TIMEOUT = 2400  # seconds, for each session
README_COMMANDS = ("Run the tests", "Try it")
# These build the files that the other sessions test.
BUILD_SESSIONS = ("sdist", "wheels")
# The longest sessions start first, so that none of them runs alone at the end.
LONGEST = (
    "platforms(sid)", "platforms(arm64)", "platforms(s390x)", "platforms(mips64el)",
    "platforms(trixie)", "suites-3.13", "suites-3.11",
)  # fmt: skip
# release only runs other sessions. platforms(sid) and platforms(trixie) test the interpreters of
# the rest.
LEFT_OUT = re.compile(r"release|tests-3\.1[45]t?|tests-pypy3\.1.")
SUMMARY = re.compile(r"\d+ (?:passed|failed).* in \d[^=]*")


class Row(NamedTuple):
    """A row of the table."""

    name: str
    outcome: str
    seconds: float
    remark: str


class Runner:
    """Runs commands and records their outcomes."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.rows: list[Row] = []
        self.printing = Lock()
        self.clone = self.new_clone("clone")
        self.nox = [sys.executable, "-m", "nox", "-f", str(self.clone / "noxfile.py")]

    def new_clone(self, name: str) -> Path:
        """Create a clone of the current commit."""
        subprocess.run(["git", "clone", "-q", ROOT, self.work / name], check=True)
        return self.work / name

    def sessions(self) -> list[str]:
        """Return the names of the remaining sessions, the longest first."""
        # Without -k, nox lists only the sessions that it runs by default.
        output = subprocess.check_output([*self.nox, "--list", "--json", "-k", "not nothing"])
        names = [session["session"] for session in json.loads(output)]
        first = [*BUILD_SESSIONS, *LONGEST]
        others = [name for name in names if name not in first and not LEFT_OUT.fullmatch(name)]
        return [*LONGEST, *others]

    def run(self, name: str, command: list[str], directory: Path) -> None:
        """Run a command, and print its outcome. If it failed, print the end of its output too."""
        log = self.work / f"{name}.log"
        # If CI is set, nox fails for a missing interpreter instead of skipping its session.
        environment = {key: value for key, value in os.environ.items() if key != "CI"}
        environment["PYPOLL_DIST"] = str(self.clone / "dist")
        start = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
        text = log.read_text("utf-8", "replace")
        skipped = re.findall(r"(?m)^nox > Session \S+ skipped: (.*)", text)
        outcome = "FAILED" if status else "SKIPPED" if skipped else "passed"
        remark = (skipped or SUMMARY.findall(text) or [""])[-1]
        row = Row(name, outcome, time.monotonic() - start, remark)
        with self.printing:
            self.rows.append(row)
            if outcome == "FAILED":
                print(f"--- {name}: exit status {status}", *text.splitlines()[-150:], sep="\n")
            print_row(row)

    def session(self, name: str) -> None:
        """Run a nox session."""
        self.run(name, [*self.nox, "-s", name], self.clone)

    def readme(self, heading: str) -> None:
        """Run the command below a heading of the README, in a new clone."""
        clone = self.new_clone(heading)
        section = (clone / "README.md").read_text("utf-8").split(f"\n## {heading}\n")[1]
        command = section.split("```sh\n")[1].splitlines()[0]
        self.run(f"README: {heading}", ["sh", "-xc", command], clone)


def print_row(row: Row) -> None:
    """Print a row of the table."""
    print(f"{row.name:<24} {row.outcome:<8}{row.seconds:>5.0f} s  {row.remark}", flush=True)


def main(work: Path) -> int:
    """Run everything, and return the exit status."""
    runner = Runner(work)
    for name in BUILD_SESSIONS:
        runner.session(name)
    with ThreadPoolExecutor(JOBS) as pool:
        futures = [pool.submit(runner.readme, heading) for heading in README_COMMANDS]
        futures += [pool.submit(runner.session, name) for name in runner.sessions()]
    for future in futures:
        future.result()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=runner.clone)
    print(f"\nResults of commit {commit.decode().strip()}:")
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
