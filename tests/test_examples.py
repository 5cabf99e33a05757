"""The short examples do what they say. The echo servers have tests of their own."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ENVIRONMENT, PATIENCE, needs_ppoll

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def type_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)


def test_the_first_server_returns_every_byte_to_several_clients() -> None:
    with running("first_server.py", "0") as server, contextlib.ExitStack() as stack:
        address = "127.0.0.1", int(line_of(server).split(":")[1].split(",")[0])
        clients = [
            stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(3)
        ]
        for number, client in enumerate(clients):
            # More than the sockets' buffers hold, so the server has to wait for POLLOUT.
            sent = bytes([number]) * (8 << 20)
            thread = threading.Thread(target=client.sendall, args=(sent,))
            thread.start()
            with client.makefile("rb") as received:
                assert received.read(len(sent)) == sent
            thread.join()
        clients[0].close()
        clients[1].sendall(b"still there")
        assert clients[1].recv(100) == b"still there"


@pytest.mark.parametrize(
    ("seconds", "typed", "expected"),
    [(PATIENCE, "Ada\n", "Hello, Ada!"), (PATIENCE, "\n", "Hello, !"), (0.2, "", "Never mind.")],
)
def test_ask_waits_for_an_answer_until_time_runs_out(
    seconds: float, typed: str, expected: str
) -> None:
    with running("ask.py", str(seconds)) as process:
        type_line(process, typed)
        assert line_of(process) == f"Your name? {expected}\n"


@pytest.mark.native
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("unshare"), reason="mounts with unshare(1)"
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
        pytest.skip(f"this process may not mount: {ran.stderr.strip()}")
    lines = ran.stdout.splitlines()
    assert sum("pypoll-test" in line for line in lines) == 1
    assert sum(" / / " in line for line in lines) == 2


@needs_ppoll
def test_reload_handles_signals_and_input_in_the_order_of_their_arrival() -> None:
    with running("reload.py") as process:
        assert line_of(process) == f"process {process.pid}\n"
        process.send_signal(signal.SIGHUP)
        assert line_of(process) == "reloaded\n"
        type_line(process, "hello\n")
        assert line_of(process) == "6 bytes of input\n"
        process.send_signal(signal.SIGHUP)
        assert line_of(process) == "reloaded\n"
        process.send_signal(signal.SIGTERM)
        assert line_of(process) == "ended\n"
        assert process.wait(PATIENCE) == 0
