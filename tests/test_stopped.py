"""A wait keeps its deadline if the process is stopped and continued, as by Ctrl-Z and fg."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import PROGRAMS, needs_ppoll

pytestmark = pytest.mark.native  # qemu makes ppoll(2) of poll(2)


@pytest.mark.parametrize(
    "call",
    [
        "poll(800)",
        "poll(800.5)",
        pytest.param("ppoll(800.5, [])", marks=needs_ppoll),
        "poll_fd(..., 800.5)",
        "select(0.8005)",
    ],
)
def test_a_wait_whose_deadline_has_passed_ends_when_the_process_continues(
    call: str, tmp_path: Path
) -> None:
    """It does not wait for another 0.7 seconds, the time that was left."""
    times: list[float] = []
    # On a slow machine the wait may begin or end too late to tell.
    while not any(1.0 <= took < 1.45 for took in times):
        assert len(times) < 5, times
        times.append(time_of_a_stopped_wait(call, tmp_path))
    assert min(times) >= 0.8


def time_of_a_stopped_wait(call: str, directory: Path) -> float:
    """Return how long a wait took in a process that was stopped after 0.1 s for one second."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS / "timed_wait.py"), call],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.1)
            os.kill(process.pid, signal.SIGSTOP)
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            time.sleep(1)
            os.kill(process.pid, signal.SIGCONT)
            took, answer = process.stdout.read().split(maxsplit=1)
        finally:
            process.kill()
    assert answer.strip() in ("[]", "0")
    return float(took)
