"""The example server, run as a command and talked to over its sockets."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import resource
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
from typing import Any

import pytest

pytestmark = pytest.mark.native

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "echo_server.py"
# The example is to find the pypoll that these tests find.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
LIMITED = """
import os, resource, sys
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""
PATIENCE = 60
PATTERN = bytes(range(251)) * 4096

Limits = tuple[int, int]  # soft and hard


def command(*arguments: str, limits: Limits | None = None) -> list[str]:
    limited = [] if limits is None else ["-c", LIMITED, *map(str, limits)]
    return [sys.executable, *limited, str(EXAMPLE), *arguments]


def run(*arguments: str, limits: Limits | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, limits=limits),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )


class Server:
    """The example without --clients, running."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.process = subprocess.Popen(
            command("--port", "0", limits=limits),
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        match = re.search(r"on (\S+):(\d+)$", first.rstrip())
        assert match is not None, first
        self.address = (match[1], int(match[2]))

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(PATIENCE)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.address)
        return sock

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, errors) == (0, "")
        return output

    def peak_memory(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024


@contextlib.contextmanager
def serving(limits: Limits | None = None) -> Iterator[Server]:
    server = Server(limits)
    with server.process:
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.process.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("echo_server", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def receive(sock: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        chunk = sock.recv(min(1 << 20, length - len(received)))
        assert chunk, f"end of stream after {len(received)} of {length} bytes"
        received += chunk
    return bytes(received)


def assert_echo(sock: socket.socket, message: bytes = b"hello") -> None:
    sock.sendall(message)
    assert receive(sock, len(message)) == message


def send_until_full(sock: socket.socket) -> int:
    """Send and read nothing until the socket takes no more for a while; return how much it took."""
    sock.setblocking(False)
    sent = 0
    while select.select([], [sock], [], 1)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(PATTERN)
    return sent


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def table(output: str) -> dict[str, str]:
    rows = [re.split(r"\s{2,}", line) for line in output.splitlines()]
    return {row[0]: row[1].replace(",", "") for row in rows if len(row) == 2}


def test_every_byte_of_50_clients_comes_back() -> None:
    done = run("--clients", "50", "--seconds", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "served 50 clients, every byte came back"
    rows = table(done.stdout)
    names = ["clients", "bytes echoed", "throughput", "poll calls", "events per call", "errors"]
    assert list(rows) == names
    assert (rows["clients"], rows["errors"]) == ("50", "0")
    assert int(rows["bytes echoed"]) >= 50
    assert int(rows["poll calls"]) >= 1


def test_there_is_no_progress_line_without_a_terminal() -> None:
    done = run("--clients", "1", "--seconds", "0.5")
    assert "\r" not in done.stdout + done.stderr


def test_1000_clients_are_served_from_a_soft_limit_below_that() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 1032:
        pytest.skip("the hard limit of descriptors is too low")
    done = run("--clients", "1000", "--seconds", "0.2", limits=(256, hard))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nserved 1,000 clients, every byte came back\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_load_ends_it_with_its_table(number: signal.Signals) -> None:
    arguments = command("--clients", "5", "--seconds", "3600")
    with subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("echo server on 127.0.0.1:")
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
    # How far the clients had come is a matter of time, and the exit status goes by it.
    assert (process.returncode, errors) in {(0, ""), (1, "")}
    assert "errors" in table(output)
    assert output.splitlines()[-1].startswith(f"stopped by {number.name}: ")


def test_clients_above_the_hard_limit_are_refused_before_anything_starts() -> None:
    done = run("--clients", "500", limits=(50, 100))
    assert (done.returncode, done.stdout) == (2, "")
    assert "hard limit (ulimit -Hn) is 100, enough for 68 clients" in done.stderr
    assert "532" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clients", "0"],
        ["--clients", "-1"],
        ["--clients", "many"],
        ["--clients", "1", "--seconds", "0"],
        ["--clients", "1", "--seconds", "nan"],
        ["--clients", "1", "--seconds", "inf"],
        ["--port", "-1"],
        ["--port", "65536"],
        ["--no-such-option"],
        ["operand"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_a_usage_error(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


def test_a_port_in_use_is_named_and_not_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cannot listen on 127.0.0.1:{port}: ")


def test_what_is_sent_comes_back(server: Server) -> None:
    with server.connect() as one, server.connect() as other:
        assert_echo(one, b"from one")
        assert_echo(other, b"from the other")
        assert_echo(one, bytes(range(256)))


def test_a_client_that_ends_its_sending_still_gets_everything(server: Server) -> None:
    with server.connect() as sock:

        def send() -> None:
            sock.sendall(PATTERN * 4)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert receive(sock, 4 * len(PATTERN)) == PATTERN * 4
        assert sock.recv(1) == b""
        sender.join()
    assert table(server.stop())["errors"] == "0"


def test_output_that_is_left_at_the_end_of_a_clients_sending_is_still_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = load_example()
    # Without back-pressure the server reads up to the end, whatever it has still to send.
    monkeypatch.setattr(example, "HIGH_WATER", 1 << 40)
    server = example.EchoServer(("127.0.0.1", 0))
    with socket.create_connection(server.address) as sock:
        sock.setblocking(False)
        sent = 0
        while not (server.connections and next(iter(server.connections)).pending):
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(PATTERN)
            server.turn(0)
        connection = next(iter(server.connections))
        sock.shutdown(socket.SHUT_WR)
        while not connection.ended:
            server.turn(PATIENCE)
        assert connection.pending
        received = bytearray()
        chunk = None
        while chunk != b"":
            server.turn(0)
            with contextlib.suppress(BlockingIOError):
                chunk = sock.recv(1 << 20)
                received += chunk
    server.close()
    assert len(received) == sent
    assert not server.errors


def test_a_paused_client_is_read_again_only_below_the_lower_mark() -> None:
    example = load_example()
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        connection = example.Connection(one)
        while connection.wanted() & select.POLLIN:
            other.sendall(PATTERN[:1000])
            connection.receive()
            assert connection.pending <= example.HIGH_WATER + example.CHUNK
        assert connection.pending >= example.HIGH_WATER
        while connection.pending >= example.LOW_WATER:
            assert connection.wanted() == select.POLLOUT
            connection.send()
            other.recv(1 << 20)
        assert connection.wanted() & select.POLLIN


def test_a_client_that_sends_nothing_and_ends_is_closed(server: Server) -> None:
    with server.connect() as sock:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_a_slow_reader_holds_up_nobody_and_costs_a_bounded_buffer(server: Server) -> None:
    rounds = 64  # some 64 MiB: far more than the kernel's buffers, so that an unbounded one shows
    with server.connect(receive_buffer=65536) as slow, server.connect() as other:
        assert_echo(other)
        before = server.peak_memory() if sys.platform == "linux" else 0
        sent = 0

        def send() -> None:
            nonlocal sent
            for _ in range(rounds):
                slow.sendall(PATTERN)
                sent += 1

        sender = threading.Thread(target=send)
        sender.start()
        stalled_at = -1
        while sent > stalled_at and sent < rounds:
            stalled_at = sent
            time.sleep(0.5)
        assert_echo(other)
        if sys.platform == "linux":
            assert server.peak_memory() - before < 24 << 20
        for _ in range(rounds):
            assert receive(slow, len(PATTERN)) == PATTERN
        sender.join()
        assert_echo(slow)
    assert table(server.stop())["errors"] == "0"


def test_a_reset_client_leaves_the_server_alive(server: Server) -> None:
    with server.connect() as other:
        for _ in range(20):
            sock = server.connect()
            sock.sendall(PATTERN[:5000])
            reset(sock)
        assert_echo(other)
    assert table(server.stop())["clients"] == "21"


def test_a_full_client_that_hangs_up_is_dropped_without_spinning(server: Server) -> None:
    with server.connect() as other:
        full = server.connect(receive_buffer=65536)
        sent = send_until_full(full)
        reset(full)
        assert_echo(other)
        time.sleep(1)
        assert_echo(other)
    rows = table(server.stop())
    assert rows["errors"] == "1"
    # A read and a write for each 1,000 bytes would be many; a loop that spins makes far more.
    assert int(rows["poll calls"]) < 100 + sent // 1000


def test_without_a_descriptor_left_clients_wait_their_turn_and_the_server_does_not_spin() -> None:
    with serving(limits=(24, 24)) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(40)]
        for sock in socks:
            sock.sendall(b"here")
        assert receive(socks[0], 4) == b"here"
        time.sleep(1)
        for sock in socks[1:]:
            socks[socks.index(sock) - 1].close()
            assert receive(sock, 4) == b"here"
        output = server.stop()
    rows = table(output)
    assert rows["clients"] == "40"
    assert int(rows["poll calls"]) < 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_cleanly(server: Server, number: signal.Signals) -> None:
    with server.connect() as sock:
        assert_echo(sock)
        output = server.stop(number)
        assert sock.recv(1) == b""
    assert output.splitlines()[-1] == f"stopped by {number.name}"


def test_stopping_does_not_wait_for_a_client_that_does_not_read(server: Server) -> None:
    with server.connect(receive_buffer=65536) as full:
        send_until_full(full)
        assert table(server.stop())["errors"] == "1"


def test_stopping_sends_first_what_is_left_also_to_a_client_that_goes_on_sending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In this process, and with more patience than the command has: the time the client takes
    # to read must not decide.
    example = load_example()
    monkeypatch.setattr(example, "DRAIN_SECONDS", PATIENCE)
    server = example.EchoServer(("127.0.0.1", 0))
    with socket.create_connection(server.address) as sock:
        sock.setblocking(False)
        while not (server.connections and next(iter(server.connections)).pending):
            with contextlib.suppress(BlockingIOError):
                sock.send(PATTERN)
            server.turn(0)
        sock.settimeout(PATIENCE)
        stopping = threading.Thread(target=server.close)
        stopping.start()
        received = 0
        while chunk := sock.recv(1 << 16):
            received += len(chunk)
            with contextlib.suppress(BlockingIOError):
                sock.send(b"more", socket.MSG_DONTWAIT)
        sock.shutdown(socket.SHUT_WR)
        stopping.join(PATIENCE)
    assert received == server.echoed
    assert not server.errors
    assert not server.connections
