"""Run test cases of CPython's own, named as for unittest, with `select.poll` replaced.

test_cpython_suite.py runs this in a process of its own for each suite. The last line that it
prints is a JSON object; the exit status is 0 if cases ran and none failed.
"""

from __future__ import annotations

import select

import pypoll

# selectors reads select.poll once, when it is imported, and unittest or asyncio may import it.
select.poll = pypoll.poll  # type: ignore[assignment, misc]

import faulthandler  # noqa: E402
import importlib  # noqa: E402
import inspect  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import selectors  # noqa: E402
import sys  # noqa: E402
import textwrap  # noqa: E402
import unittest  # noqa: E402

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


def main(names: list[str]) -> int:
    if vars(selectors.PollSelector)["_selector_cls"] is not pypoll.poll:
        sys.exit("selectors was imported before select.poll was replaced")
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
