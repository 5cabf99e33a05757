"""Fixtures of several test files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from descriptors import Descriptors
from support import Pipe


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
def pipe() -> Iterator[Pipe]:
    ends = Pipe(*os.pipe())
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    with Descriptors() as opened:
        yield opened


@pytest.fixture
def ready(pipe: Pipe) -> int:
    """The reading end of a pipe in which one byte waits."""
    os.write(pipe.writing, b"x")
    return pipe.reading


@pytest.fixture
def many(pipe: Pipe) -> Iterator[list[int]]:
    """So many descriptors ready for writing that several results have to be read from C."""
    fds = [os.dup(pipe.writing) for _ in range(300)]
    yield fds
    for fd in fds:
        os.close(fd)
