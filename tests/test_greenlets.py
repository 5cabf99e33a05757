"""Objects stay usable under gevent, eventlet and plain greenlets, which switch in one thread.

Each program runs in its own process, because a monkey patch cannot be undone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support import PYPY, needs_package, ran

pytestmark = pytest.mark.skipif(PYPY, reason="gevent and eventlet are used on CPython")


@pytest.mark.parametrize("waiter", ["Poll", "PollSelector"])
@pytest.mark.parametrize(
    "patch", [pytest.param(name, marks=needs_package(name)) for name in ("gevent", "eventlet")]
)
def test_an_object_stays_usable_under_a_monkey_patch_after_a_handler_raised_in_its_wait(
    patch: str, waiter: str, tmp_path: Path
) -> None:
    # eventlet prints that it is deprecated.
    status, _, errors = ran("patched", tmp_path, patch, waiter)
    assert status == 0, errors


@needs_package("greenlet")
@pytest.mark.parametrize(
    "case",
    [
        *(f"a_greenlet_waits_in_the_same_set {timeout}" for timeout in (0, 20, 200)),
        "nobody_returns_to_an_interrupted_wait",
        "a_greenlet_polls_between_two_lines_of_a_wait",
    ],
)
def test_results_are_whole_and_waits_not_shortened_if(case: str, tmp_path: Path) -> None:
    assert ran("switching", tmp_path, *case.split()) == (0, "", "")
