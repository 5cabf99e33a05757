"""What several test modules need, as fixtures: in importlib mode they cannot import each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Callable

import pytest

import pypoll

PATIENCE = 30.0


@pytest.fixture(scope="session")
def long_profile() -> bool:
    """True where PYPOLL_TESTS=long asks for minutes of what takes seconds otherwise."""
    return os.environ.get("PYPOLL_TESTS") == "long"


@pytest.fixture(scope="session")
def system_calls() -> str:
    """What poll() and ppoll() are to the kernel, as strace's expressions name them.

    A question mark passes over what the processor does not have.
    """
    return "?poll,?ppoll,?ppoll_time64"


@pytest.fixture(scope="session")
def strace(system_calls: str) -> list[str]:
    """The beginning of a command under strace, which stops it at poll() and ppoll() alone."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    command = [program, "-f", "--seccomp-bpf", "-e", f"trace={system_calls}"]
    ran = subprocess.run([*command, "true"], check=False, capture_output=True, text=True)
    if ran.returncode != 0:
        pytest.skip(f"strace may not trace here: {ran.stderr}")
    return command


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def until_waiting() -> Callable[[pypoll.Poll], None]:
    """A function that returns once another thread waits in the object."""

    def until_waiting(p: pypoll.Poll) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                p.poll(0)
            except RuntimeError:
                return
            time.sleep(0.001)
        raise AssertionError("nobody came to wait")

    return until_waiting
