"""A process that calls pypoll.install(), for test_install.py: one of the functions below."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import select
import selectors
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from typing import Any

import pypoll

# install() changes what mypy knows about the module.
module: Any = select
standard = module.poll
selector_class: Any = selectors.PollSelector
handled: list[int] = []
waits: list[object] = []


def install_and_count_waits() -> None:
    pypoll.install()
    poll = pypoll.Poll.poll

    def counted(self: pypoll.Poll, *timeout: Any) -> list[tuple[int, int]]:
        waits.append(timeout)
        return poll(self, *timeout)

    setattr(pypoll.Poll, "poll", counted)  # noqa: B010 - mypy refuses the assignment


def send_signal() -> None:
    """Send a signal soon. Its handler returns, and then PyPy's own poll() would return []."""
    signal.signal(signal.SIGALRM, lambda number, _frame: handled.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02)


def replaces_what_the_standard_library_uses() -> None:
    assert selector_class._selector_cls is standard is not pypoll.Poll
    pypoll.install()
    pypoll.install()
    assert module.poll is selector_class._selector_cls is pypoll.Poll
    assert type(selector_class()._selector) is pypoll.Poll
    for name in pypoll.__all__:
        if name.startswith("POLL"):
            assert getattr(select, name) == getattr(pypoll, name), name


def leaves_what_others_have_replaced() -> None:
    module.poll = list
    refused()
    assert module.poll is list
    del module.poll
    refused()
    assert not hasattr(select, "poll")
    assert selector_class._selector_cls is standard


def refused() -> None:
    message = ""
    try:
        pypoll.install()
    except RuntimeError as error:
        message = str(error)
    assert "another library has replaced it" in message


def reaches_subprocess() -> None:
    install_and_count_waits()
    send_signal()
    program = "import time; time.sleep(0.5); print('done')"
    command = [sys.executable, "-c", program]
    # With two pipes, communicate() polls.
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun = time.monotonic_ns()
    try:
        child.communicate(timeout=0.05)
    except subprocess.TimeoutExpired:
        assert time.monotonic_ns() - begun >= 50_000_000
    assert child.communicate(timeout=60) == ("done\n", "")
    assert handled
    assert waits


def reaches_multiprocessing() -> None:
    install_and_count_waits()
    here, there = multiprocessing.Pipe()
    begun = time.monotonic_ns()
    assert not here.poll(0.0005)
    assert time.monotonic_ns() - begun >= 500_000
    assert 0 < len(waits) <= 2  # it does not spin
    send_signal()
    threading.Timer(0.2, there.send, ("x",)).start()
    assert multiprocessing.connection.wait([here]) == [here]
    assert here.recv() == "x"
    assert handled


class Echo(socketserver.BaseRequestHandler):
    """One connection of the server below."""

    def handle(self) -> None:
        self.request.sendall(self.request.recv(100))


def reaches_socketserver() -> None:
    install_and_count_waits()
    with socketserver.TCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever).start()
        with socket.create_connection(server.socket.getsockname()) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
        server.shutdown()
    assert waits


if __name__ == "__main__":
    globals()[sys.argv[1]]()
