"""Run test cases of CPython's own, named as for unittest, with `select.poll` replaced.

With `--selector` before the names, `selectors.PollSelector` is replaced too.
test_cpython_suite.py runs this in a process of its own for each suite. The last line that it
prints is a JSON object; the exit status is 0 if cases ran and none failed.
"""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import json
import re
import select
import selectors
import sys
import textwrap
import unittest
from typing import Any

import pypoll

HANG_SECONDS = 240
C_INT_TIMEOUT = re.compile(
    r"\s*self\.assertRaises\(OverflowError, pollster\.poll, U?INT_MAX \+ 1\)\s*"
)


def allow_timeouts_beyond_c_int() -> None:
    """Take the two lines out of test_poll_c_limits that hold only before CPython 3.15.

    They want an OverflowError for timeouts that pypoll accepts, as 3.15 does, and waits for.
    """
    module = importlib.import_module("test.test_poll")
    lines = textwrap.dedent(inspect.getsource(module.PollTests.test_poll_c_limits)).splitlines()
    kept = [line for line in lines if not C_INT_TIMEOUT.fullmatch(line)]
    if len(lines) - len(kept) != 2:
        sys.exit("test_poll_c_limits is not as known:\n" + "\n".join(lines))
    made: dict[str, object] = {}
    exec("\n".join(kept), vars(module), made)
    module.PollTests.test_poll_c_limits = made["test_poll_c_limits"]


def replace_poll() -> None:
    """Put pypoll.poll into the modules that have select.poll."""
    having: list[tuple[Any, str]] = [(select, "poll"), (selectors.PollSelector, "_selector_cls")]
    for place, name in having:
        if vars(place)[name].__module__ != "select":
            sys.exit(f"{name} of {place} is not select.poll")
        setattr(place, name, pypoll.poll)


def main(names: list[str]) -> int:
    replace_poll()
    if names[:1] == ["--selector"]:
        del names[0]
        selectors.PollSelector = pypoll.PollSelector  # type: ignore[misc, assignment]
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    if "test.test_poll" in names and sys.version_info < (3, 15):
        allow_timeouts_beyond_c_int()
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    ran = result.testsRun - len(result.skipped)
    report = {
        "pypoll": pypoll.__file__,
        "ran": ran,
        "failed": len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses),
        "skipped": {test.id(): reason for test, reason in result.skipped},
    }
    print(json.dumps(report))
    return 0 if result.wasSuccessful() and ran > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
