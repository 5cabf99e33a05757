"""Fixtures of several test files."""

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
def pair(descriptors: Descriptors) -> SocketPair:
    return descriptors.socket_pair()


@pytest.fixture
def selector() -> Iterator[PollSelector]:
    with PollSelector() as made:
        yield made


@pytest.fixture(params=[0, 10], ids=["few ready", "many ready"])
def beside(request: pytest.FixtureRequest, selector: PollSelector, descriptors: Descriptors) -> int:
    """So many others that are always ready: select() returns many in another way than few."""
    writing = descriptors.pipe().writing
    for _ in range(request.param):
        selector.register(descriptors.own(os.dup(writing)), EVENT_WRITE, "beside")
    for _ in range(3):
        assert len(selector.select(0)) == request.param
    count: int = request.param
    return count


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
