"""The short examples do what they say. (The echo servers have tests of their own.)"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pypoll.library import lib

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# The examples are to find the pypoll that these tests find.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
PATIENCE = 30


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_first_server_has_at_most_40_lines() -> None:
    assert len((EXAMPLES / "first_server.py").read_text("utf-8").splitlines()) <= 40


def test_the_first_server_sends_everything_back_to_several_clients() -> None:
    with running("first_server.py", "0") as server:
        port = int(line_of(server).split(":")[1].split(",")[0])
        clients = [
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(3)
        ]
        for number, client in enumerate(clients):
            # More than a socket's buffers hold: the server must wait until it can send on.
            sent = bytes([number]) * (8 << 20)
            thread = threading.Thread(target=client.sendall, args=(sent,))
            thread.start()
            received = b""
            while len(received) < len(sent):
                received += client.recv(1 << 20)
            assert received == sent
            thread.join()
        clients[0].close()
        clients[1].sendall(b"still there")
        assert clients[1].recv(100) == b"still there"
        for client in clients:
            client.close()


def test_asyncio_echo_refuses_more_clients_than_there_are_descriptors() -> None:
    program = str(EXAMPLES / "asyncio_echo.py")
    ran = subprocess.run(
        ["sh", "-c", 'ulimit -n 100; exec "$0" "$1" --clients 500', sys.executable, program],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "500 clients do not fit: they need a limit of 1,032 open descriptors" in ran.stderr
    assert "hard limit (ulimit -Hn) is 100, enough for 34 clients" in ran.stderr


@pytest.mark.parametrize(
    ("typed", "expected"), [("Ada\n", "Hello, Ada!"), (None, "Never mind."), ("", "Hello, !")]
)
def test_ask_waits_for_an_answer_as_long_as_it_is_told(typed: str | None, expected: str) -> None:
    with running("ask.py", "0.2" if typed is None else str(PATIENCE)) as process:
        assert process.stdin is not None
        if typed is not None:
            process.stdin.write(typed)
            process.stdin.close()
            process.stdin = None
        assert line_of(process) == f"Your name? {expected}\n"


@pytest.mark.native
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("unshare"), reason="makes mounts by unshare(1)"
)
def test_watch_file_prints_the_file_again_when_it_changes(tmp_path: Path) -> None:
    script = (
        '"$1" "$2" /proc/self/mountinfo & '
        'sleep 1; mount -t tmpfs pypoll-test "$3" || exit 77; sleep 1; kill $!'
    )
    arguments = [sys.executable, str(EXAMPLES / "watch_file.py"), str(tmp_path)]
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip(f"no mount can be made here: {ran.stderr.strip()}")
    lines = ran.stdout.splitlines()
    assert sum("pypoll-test" in line for line in lines) == 1
    assert sum(" / / " in line for line in lines) == 2


@pytest.mark.skipif(not lib.pypoll_has_ppoll(), reason="this build refuses a signal mask")
def test_reload_takes_signals_and_input_in_the_order_of_their_arrival() -> None:
    with running("reload.py") as process:
        assert line_of(process) == f"process {process.pid}\n"
        process.send_signal(signal.SIGHUP)
        assert line_of(process) == "reloaded\n"
        assert process.stdin is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert line_of(process) == "6 bytes of input\n"
        process.send_signal(signal.SIGHUP)
        assert line_of(process) == "reloaded\n"
        process.send_signal(signal.SIGTERM)
        assert line_of(process) == "ended\n"
        assert process.wait(PATIENCE) == 0
