"""A process that is stopped and continued, as by Ctrl-Z and fg, in the middle of a wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pypoll.library import lib

pytestmark = pytest.mark.native  # qemu makes ppoll(2) of poll(2)

needs_ppoll = pytest.mark.skipif(
    not lib.pypoll_has_ppoll(), reason="this build has no ppoll, so sigmask is refused"
)

WAITS = """
import os, sys, time
import pypoll

reading, writing = os.pipe()
p = pypoll.Poll()
p.register(reading, pypoll.POLLIN)
selector = pypoll.PollSelector()
selector.register(reading, pypoll.EVENT_READ)
wait = eval("lambda: " + sys.argv[1])
print("ready", flush=True)
begun = time.monotonic()
answer = wait()
print(time.monotonic() - begun, answer)
"""


@pytest.mark.parametrize(
    "call",
    [
        "p.poll(800)",
        "p.poll(800.5)",
        "p.ppoll(800.5)",
        pytest.param("p.ppoll(800.5, [])", marks=needs_ppoll),
        "pypoll.poll_fd(reading, 1, 800.5)",
        "selector.select(0.8005)",
    ],
)
def test_a_wait_whose_time_is_over_ends_when_the_process_is_continued(
    call: str, tmp_path: Path
) -> None:
    """It does not start again with the time that was left, 0.7 seconds."""
    times: list[float] = []
    # On a slow machine the wait may begin, or end, too late to tell.
    while not any(1.0 <= took < 1.45 for took in times):
        assert len(times) < 5, times
        times.append(time_of_a_stopped_wait(call, tmp_path))
    assert min(times) >= 0.8


def time_of_a_stopped_wait(call: str, directory: Path) -> float:
    """Return how long the wait took in a process that was stopped from 0.1 to 1.1 seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS, call], cwd=directory, stdout=subprocess.PIPE, text=True
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
