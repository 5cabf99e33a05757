"""The example servers return every byte to their clients, and stop cleanly at a signal."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import ENVIRONMENT, PATIENCE

pytestmark = pytest.mark.native

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EACH_SERVER = pytest.mark.parametrize("name", ["echo_server", "asyncio_echo"])


def command(name: str, *arguments: str) -> list[str]:
    # The echo server leaves a socket to the collector when it ends.
    strict = ["-W", "error"] if name == "asyncio_echo" else []
    return [sys.executable, *strict, str(EXAMPLES / f"{name}.py"), *arguments]


def run(name: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command(name, *arguments),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_echo_server_returns_every_byte_to_50_clients() -> None:
    status, output, errors = run("echo_server", "--clients", "50", "--seconds", "0.5")
    assert (status, errors) == (0, "")
    assert output.endswith("\nserved 50 clients, every byte came back\n")
    table = dict(re.findall(r"^(\w[\w ]*?)\s{2,}([\d,]+)", output, re.MULTILINE))
    assert (table["clients"], table["errors"]) == ("50", "0")
    assert int(table["bytes echoed"].replace(",", "")) >= 50
    assert "\r" not in output  # no progress line without a terminal


@pytest.mark.parametrize("selector", ["pypoll", "poll", "epoll"])
def test_the_asyncio_server_serves_its_clients_over_each_selector(selector: str) -> None:
    if selector == "epoll" and sys.platform != "linux":
        pytest.skip("epoll is of Linux")
    # Without the option it is pypoll, the point of the example.
    options = [] if selector == "pypoll" else ["--selector", selector]
    status, output, errors = run("asyncio_echo", "--clients", "20", "--seconds", "0.3", *options)
    assert (status, errors) == (0, "")
    first, last = output.splitlines()
    assert re.fullmatch(rf"echo server on 127\.0\.0\.1:\d+, over {selector}", first)
    assert re.match(rf"{selector}: 20 of 20 clients served, [1-9][\d,]* messages/s", last)


@EACH_SERVER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_cleanly(name: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        command(name, "--port", "0"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = re.search(r"on \S+:(\d+)", process.stdout.readline())
        assert found is not None
        with socket.create_connection(("127.0.0.1", int(found[1])), PATIENCE) as client:
            client.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
            process.send_signal(number)
            assert client.recv(1) == b""
            output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert output.splitlines()[-1].startswith("stopped")


@EACH_SERVER
@pytest.mark.parametrize(
    "arguments", ["--clients 0", "--clients 1 --seconds nan", "--port 65536", "operand"]
)
def test_bad_arguments_are_a_usage_error(name: str, arguments: str) -> None:
    status, output, errors = run(name, *arguments.split())
    assert (status, output) == (2, "")
    assert errors.startswith("usage: ")


@EACH_SERVER
def test_a_port_in_use_is_named(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, output, errors = run(name, "--port", port)
    assert (status, output) == (1, "")
    assert errors.startswith(f"cannot listen on 127.0.0.1:{port}: ")
