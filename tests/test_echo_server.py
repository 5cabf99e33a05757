"""The example servers return every byte, limit what a client costs, and stop at a signal."""

from __future__ import annotations

import contextlib
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import room_for
from support import ENVIRONMENT, PATIENCE

pytestmark = pytest.mark.native

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EACH_SERVER = pytest.mark.parametrize("name", ["echo_server", "asyncio_echo"])
PATTERN = bytes(range(251)) * 4096


@contextlib.contextmanager
def running(name: str, *arguments: str, ulimit: str = "") -> Iterator[subprocess.Popen[str]]:
    shell = ["sh", "-c", f'ulimit {ulimit} && exec "$@"', "sh"] if ulimit else []
    with subprocess.Popen(
        [*shell, sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(name: str, *arguments: str, ulimit: str = "") -> tuple[int, str, str]:
    """Return the exit status, the output and the errors."""
    with running(name, *arguments, ulimit=ulimit) as process:
        output, errors = process.communicate(timeout=3 * PATIENCE)
    return process.returncode, output, errors


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    found = re.search(r" on 127\.0\.0\.1:(\d+)", process.stdout.readline())
    assert found is not None
    return int(found[1])


def connect(port: int) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.connect(("127.0.0.1", port))
    return sock


def assert_echo(sock: socket.socket) -> None:
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"


def send_until_full(sock: socket.socket) -> int:
    """Send without receiving, until the socket takes no more; return the number of bytes."""
    sent = 0
    while select.select([], [sock], [], 1)[1]:
        sent += sock.send(PATTERN, socket.MSG_DONTWAIT)
        assert sent < 200 << 20, "the server buffers without a limit"
    return sent


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def stopped(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> dict[str, str]:
    """Stop the server and return its table."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert output.splitlines()[-1].startswith("stopped")
    return table(output)


def table(output: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w[\w ]*?)  +(\S+)", output.replace(",", ""), re.MULTILINE))


def test_the_echo_server_returns_every_byte_to_1000_clients() -> None:
    with room_for(1032):
        status, output, errors = ran("echo_server", "--clients", "1000", ulimit="-Sn 256")
    assert (status, errors) == (0, "")
    assert output.endswith("\nserved 1,000 clients, every byte came back\n")
    rows = table(output)
    names = ["clients", "bytes echoed", "throughput", "poll calls", "events per call", "errors"]
    assert list(rows) == names
    assert (rows["clients"], rows["errors"]) == ("1000", "0")
    assert int(rows["bytes echoed"]) >= 1000


def test_the_clients_report_a_wrong_byte() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as sock:
                while sock.recv(1 << 16):
                    sock.sendall(b"wrong")
                    sock.shutdown(socket.SHUT_WR)

        server = threading.Thread(target=answer)
        server.start()
        port = str(listener.getsockname()[1])
        status, output, errors = ran("echo_clients", "127.0.0.1", port, "1", "60")
        server.join()
    assert (status, errors) == (1, "")
    assert output == "FAILED, served 0 of 1 clients: a wrong byte came back (1)\n"


@pytest.mark.parametrize("selector", ["pypoll", "poll", "epoll"])
def test_the_asyncio_server_serves_clients_over_each_selector(selector: str) -> None:
    if selector == "epoll" and sys.platform != "linux":
        pytest.skip("only Linux has epoll")
    arguments = ["--clients", "100", "--seconds", "0.3", "--selector", selector]
    # pypoll is the default.
    status, output, errors = ran("asyncio_echo", *arguments[: 4 if selector == "pypoll" else 6])
    assert (status, errors) == (0, "")
    first, last = output.splitlines()
    assert first.endswith(f", over {selector}")
    assert re.match(rf"{selector}: 100 of 100 clients served, [1-9][\d,]* messages/s", last)


@EACH_SERVER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_server_even_if_a_client_does_not_read(name: str, number: int) -> None:
    with running(name, "--port", "0") as process:
        port = port_of(process)
        with connect(port) as full, connect(port) as other:
            send_until_full(full)
            assert_echo(other)
            stopped(process, number)
            assert other.recv(1) == b""


def test_a_signal_ends_the_load() -> None:
    with running("echo_server", "--clients", "5", "--seconds", "3600") as process:
        port_of(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    # If the clients have not started yet, the load fails.
    assert (process.returncode, errors) in {(0, ""), (1, "")}
    assert table(output)["errors"] == "0"
    assert output.splitlines()[-1].startswith("stopped by SIGINT: ")


@pytest.mark.parametrize(
    ("name", "needed", "possible"), [("echo_server", "532", 68), ("asyncio_echo", "1,032", 34)]
)
def test_more_clients_than_descriptors_are_refused(name: str, needed: str, possible: int) -> None:
    status, output, errors = ran(name, "--clients", "500", ulimit="-n 100")
    assert (status, output) == (2, "")
    assert f"500 need a limit of {needed} open descriptors" in errors
    assert f"hard limit (ulimit -Hn) is 100, enough for {possible} clients" in errors


@EACH_SERVER
@pytest.mark.parametrize("arguments", ["--clients 0", "--seconds nan", "--port 65536"])
def test_an_invalid_argument_is_a_usage_error(name: str, arguments: str) -> None:
    status, output, errors = ran(name, *arguments.split())
    assert (status, output) == (2, "")
    assert errors.startswith("usage: ")


@EACH_SERVER
def test_a_port_in_use_is_named(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, output, errors = ran(name, "--port", port)
    assert (status, output) == (1, "")
    assert errors.startswith(f"cannot listen on 127.0.0.1:{port}: ")


@EACH_SERVER
def test_a_client_that_does_not_read_is_held_back_and_loses_nothing(name: str) -> None:
    with running(name, "--port", "0") as process:
        port = port_of(process)
        with connect(port) as slow, connect(port) as other:
            sent = send_until_full(slow)
            assert_echo(other)
            slow.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: slow.recv(1 << 20), b""))
            assert len(received) == sent
        rows = stopped(process)
    assert rows.get("errors", "0") == "0"


def test_clients_that_reset_are_dropped_without_spinning() -> None:
    with running("echo_server", "--port", "0") as process:
        port = port_of(process)
        full, quick, other = connect(port), connect(port), connect(port)
        sent = send_until_full(full)
        assert_echo(quick)
        reset(full)
        reset(quick)
        time.sleep(0.5)
        with other:
            assert_echo(other)
        rows = stopped(process)
    assert (rows["clients"], rows["errors"]) == ("3", "2")
    # The server needs far fewer calls than one for each 1,000 bytes. A loop that spins makes more.
    assert int(rows["poll calls"]) < 100 + sent // 1000


def test_clients_wait_without_spinning_if_no_descriptor_is_left() -> None:
    with running("echo_server", "--port", "0", ulimit="-n 24") as process:
        port = port_of(process)
        socks = [connect(port) for _ in range(40)]
        time.sleep(0.5)
        for sock in socks:
            with sock:
                assert_echo(sock)
        rows = stopped(process)
    assert rows["clients"] == "40"
    assert int(rows["poll calls"]) < 1000
