"""A failed system call is retried, or raises its OSError, and loses nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import ran

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux", reason="only Linux has strace, and a limit that poll(2) checks"
    ),
    pytest.mark.native,
]


@pytest.mark.parametrize(
    ("error", "when"),
    [
        *[("EINTR", "1..3"), ("EINTR", "1+"), ("ENOMEM", "1..3")],
        *[("EAGAIN", "1"), ("EAGAIN", "1..3"), ("EAGAIN", "1+")],
    ],
)
def test_a_failed_system_call_is_retried_or_raises_and_loses_nothing(
    strace: list[str], system_calls: str, error: str, when: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    inject = f"inject={system_calls}:error={error}:when={when}"
    under = (*strace, "-e", inject, "-o", str(trace))
    status, _, errors = ran("faults", tmp_path, error, when, under=under)
    assert status == 0, errors
    assert f"{error} " in trace.read_text()


def test_a_limit_of_descriptors_lowered_during_a_wait_raises_einval_and_loses_nothing(
    tmp_path: Path,
) -> None:
    assert ran("faults", tmp_path, "EINVAL", "limit") == (0, "", "")
