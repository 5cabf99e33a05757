"""Run CPython's own test cases, named as for unittest, over pypoll.

The first argument says what pypoll replaces:

- `poll`: `select.poll`, and the standard PollSelector over it becomes the DefaultSelector.
- `selector`: `selectors.PollSelector` and `selectors.DefaultSelector`, also where the standard
  library has already imported them.
- `nothing`: to find out whether a failure is pypoll's.

test_cpython_suite.py runs this in a new process for each suite. The last line of the output is a
JSON object. The exit status is 0 if cases ran and none failed.
"""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import json
import mmap
import multiprocessing.connection
import re
import select
import selectors
import signal
import socketserver
import subprocess
import sys
import textwrap
import types
import unittest
from collections.abc import Iterator
from fnmatch import fnmatchcase
from os import getpid  # some cases mock os.getpid
from typing import Any

import pypoll

HANG_SECONDS = 600
C_INT_TIMEOUT = re.compile(
    r"\s*self\.assertRaises\(OverflowError, pollster\.poll, U?INT_MAX \+ 1\)\s*"
)
# Some Pythons lack test.test_multiprocessing_fork, but all have test._test_multiprocessing.
FORK = "fork_part_of_test_multiprocessing"

# The cases that say nothing about pypoll, and why.
LEFT_OUT = {
    "*.SelectEventLoop*": "selects by select()",
    "*.EPollEventLoop*": "selects by epoll",
    "*.ProcessTestCaseNoPoll.*": "selects by select()",
    "*_del_collect": "creates garbage for up to 20 s, and never polls",
    FORK + ".TestStartMethod.test_context": "spawns Pythons that would have to import FORK",
    FORK + ".TestStartMethod.test_set_get": "spawns Pythons that would have to import FORK",
}

# The polls of this process and of its forked children. Threads may lose some. A new Python that a
# case starts does not count: nothing is replaced there.
SLOTS = 1 << 16
polls = memoryview(mmap.mmap(-1, 8 * SLOTS)).cast("Q")


def count_calls(cls: type, name: str) -> None:
    """Count the calls of a method."""
    method = getattr(cls, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        polls[getpid() % SLOTS] += 1
        return method(*arguments, **named)

    setattr(cls, name, counted)


def replace(place: Any, name: str, ours: type, standard: type) -> None:
    """Replace a standard class with ours."""
    if getattr(place, name) is not standard:
        sys.exit(f"{name} of {place} is not {standard}")
    setattr(place, name, ours)


def replace_poll() -> None:
    standard: Any = select.poll
    replace(selectors.PollSelector, "_selector_cls", pypoll.poll, standard)
    replace(select, "poll", pypoll.poll, standard)
    replace(selectors, "DefaultSelector", selectors.PollSelector, selectors.DefaultSelector)
    count_calls(pypoll.Poll, "poll")


def replace_selector() -> None:
    standard = selectors.PollSelector
    bound: list[tuple[Any, str]] = [
        (multiprocessing.connection, "_WaitSelector"),
        (selectors, "PollSelector"),
        (socketserver, "_ServerSelector"),
        (subprocess, "_PopenSelector"),
    ]
    for place, name in bound:
        replace(place, name, pypoll.PollSelector, standard)
    replace(selectors, "DefaultSelector", pypoll.PollSelector, selectors.DefaultSelector)
    count_calls(pypoll.PollSelector, "select")


def allow_timeouts_beyond_c_int() -> None:
    """Remove the two lines of test_poll_c_limits that hold only before CPython 3.15.

    They expect an OverflowError for timeouts that pypoll accepts, as CPython 3.15 does.
    """
    module = importlib.import_module("test.test_poll")
    lines = textwrap.dedent(inspect.getsource(module.PollTests.test_poll_c_limits)).splitlines()
    kept = [line for line in lines if not C_INT_TIMEOUT.fullmatch(line)]
    if len(lines) - len(kept) != 2:
        sys.exit("test_poll_c_limits has changed:\n" + "\n".join(lines))
    made: dict[str, object] = {}
    exec("\n".join(kept), vars(module), made)
    module.PollTests.test_poll_c_limits = made["test_poll_c_limits"]


def make_fork_part() -> None:
    module = sys.modules[FORK] = types.ModuleType(FORK)
    parts = importlib.import_module("test._test_multiprocessing")
    parts.install_tests_in_module_dict(vars(module), "fork")


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from cases(test)
        elif not any(fnmatchcase(test.id(), pattern) for pattern in LEFT_OUT):
            yield test


def main(replaced: str, *names: str) -> int:
    if replaced == "poll":
        replace_poll()
    elif replaced == "selector":
        replace_selector()
    elif replaced != "nothing":
        sys.exit(f"cannot replace {replaced!r}: expected poll, selector or nothing")
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    # A shell has its background jobs ignore SIGINT, which some cases send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "test.test_poll" in names and sys.version_info < (3, 15):
        allow_timeouts_beyond_c_int()
    if FORK in names:
        make_fork_part()
    suite = unittest.TestSuite(cases(unittest.defaultTestLoader.loadTestsFromNames(names)))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    ran = result.testsRun - len(result.skipped)
    own = polls[getpid() % SLOTS]
    report = {
        "pypoll": pypoll.__file__,
        "ran": ran,
        "failed": len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses),
        "skipped": {test.id(): reason for test, reason in result.skipped},
        "polls": own,
        "polls of forked children": sum(polls) - own,
    }
    print(json.dumps(report))
    return 0 if result.wasSuccessful() and ran > 0 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
