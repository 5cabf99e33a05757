"""A failed system call is tried again or raises its OSError, and loses nothing.

Faults are injected by strace, and by a lowered limit of descriptors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import ran

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux", reason="strace, and a limit that poll() looks at, are Linux's"
    ),
    pytest.mark.native,
]

FAULTS = [(e, w) for e in ("EINTR", "EAGAIN", "ENOMEM", "EINVAL") for w in ("1", "1..3", "1+")]


@pytest.mark.parametrize(("error", "when"), [*FAULTS, ("EPERM", "1")])
def test_a_failed_system_call_is_tried_again_or_raised_and_loses_nothing(
    strace: list[str], system_calls: str, error: str, when: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    inject = f"inject={system_calls}:error={error}:when={when}"
    under = (*strace, "-e", inject, "-o", str(trace))
    status, _, errors = ran("faults", tmp_path, "injected", error, when, under=under)
    assert status == 0, errors
    assert f"{error} " in trace.read_text()


@pytest.mark.parametrize("case", ["too_many", "during_a_wait"])
def test_the_limit_of_descriptors_counts_those_of_the_set_and_refuses_without_loss(
    case: str, tmp_path: Path
) -> None:
    assert ran("faults", tmp_path, case) == (0, "", "")
