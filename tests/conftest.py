"""Fixtures that several test files use."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from descriptors import Descriptors, SocketPair
from pypoll import EVENT_WRITE, PollSelector
from support import Pipe


@pytest.fixture(scope="session")
def long_profile() -> bool:
    """True if PYPOLL_TESTS=long: random tests then run for minutes instead of seconds."""
    return os.environ.get("PYPOLL_TESTS") == "long"


@pytest.fixture(scope="session")
def system_calls() -> str:
    """The system calls of poll() and ppoll(), for strace.

    The question marks make strace ignore those that the processor lacks.
    """
    return "?poll,?ppoll,?ppoll_time64"


@pytest.fixture(scope="session")
def strace(system_calls: str) -> list[str]:
    """The strace command that a program's command goes after. It traces only poll and ppoll."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    command = [program, "-f", "--seccomp-bpf", "-e", f"trace={system_calls}"]
    ran = subprocess.run([*command, "true"], check=False, capture_output=True, text=True)
    if ran.returncode != 0:
        pytest.skip(f"strace is not allowed to trace: {ran.stderr}")
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
def pair(descriptors: Descriptors) -> SocketPair:
    return descriptors.socket_pair()


@pytest.fixture
def selector() -> Iterator[PollSelector]:
    with PollSelector() as made:
        yield made


@pytest.fixture(params=[0, 10], ids=["few ready", "many ready"])
def beside(request: pytest.FixtureRequest, selector: PollSelector, descriptors: Descriptors) -> int:
    """How many other file objects are ready. select() has different code for few and for many."""
    writing = descriptors.pipe().writing
    for _ in range(request.param):
        selector.register(descriptors.own(os.dup(writing)), EVENT_WRITE, "beside")
    for _ in range(3):
        assert len(selector.select(0)) == request.param
    count: int = request.param
    return count


@pytest.fixture
def ready(pipe: Pipe) -> int:
    """The reading end of a pipe that holds one byte."""
    os.write(pipe.writing, b"x")
    return pipe.reading


@pytest.fixture
def many(pipe: Pipe) -> Iterator[list[int]]:
    """300 writable descriptors, more than the memory that poll() reuses for results holds."""
    fds = [os.dup(pipe.writing) for _ in range(300)]
    yield fds
    for fd in fds:
        os.close(fd)
