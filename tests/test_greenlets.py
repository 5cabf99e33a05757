"""Objects stay whole under gevent, eventlet and bare greenlets, which switch stacks in one thread.

Each program runs in a process of its own, because the monkey patches are for good.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import PATIENCE, PROGRAMS, PYPY, ran

pytestmark = pytest.mark.skipif(PYPY, reason="gevent and eventlet are used on CPython")


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


@pytest.mark.parametrize("waiter", ["Poll", "PollSelector"])
@pytest.mark.parametrize(
    "patch", [pytest.param(name, marks=needs(name)) for name in ("gevent", "eventlet")]
)
def test_under_a_monkey_patch_an_object_is_usable_after_a_handler_raised_in_its_wait(
    patch: str, waiter: str, tmp_path: Path
) -> None:
    status, _, errors = ran("patched", tmp_path, patch, waiter)
    assert status == 0, errors


def said_by_a_server_that_gets_ctrl_c(module: str) -> list[str]:
    """Return what the clients, and then the operator, read."""
    said = []
    command = [sys.executable, str(PROGRAMS / "eventlet_server.py"), module]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with ExitStack() as stack:
                clients = []
                for number in range(10):
                    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
                    stack.enter_context(client)
                    clients.append(stack.enter_context(client.makefile("rw", encoding="utf-8")))
                    print("early", number, file=clients[-1], flush=True)
                    said.append(clients[-1].readline())
                time.sleep(0.1)  # until it is idle again
                server.send_signal(signal.SIGINT)
                said.append(server.stdout.readline())
                for number, lines in enumerate(clients):
                    print("late", number, file=lines, flush=True)
                    said.append(lines.readline())
            said.append(server.stdout.readline())
            _, errors = server.communicate(timeout=2 * PATIENCE)
        finally:
            server.kill()
    assert server.returncode == 0, errors
    return said


@needs("eventlet")
def test_an_eventlet_server_over_pypoll_drains_after_ctrl_c_as_over_select() -> None:
    said = said_by_a_server_that_gets_ctrl_c("pypoll")
    assert said == [
        *(f"served early {number}\n" for number in range(10)),
        "draining 10\n",
        *(f"served late {number}\n" for number in range(10)),
        "drained 0 True\n",
    ]
    assert said == said_by_a_server_that_gets_ctrl_c("select")


@needs("greenlet")
@pytest.mark.parametrize(
    "case",
    [
        *(f"a_greenlet_waits_in_the_same_set {timeout}" for timeout in (0, 20, 200)),
        "nobody_returns_to_an_interrupted_wait",
        "a_greenlet_polls_between_two_lines_of_a_wait",
        "handlers_switch_to_a_greenlet_that_polls",
    ],
)
def test_results_are_whole_and_waits_not_shortened_if(case: str, tmp_path: Path) -> None:
    status, _, errors = ran("switching", tmp_path, *case.split())
    assert status == 0, errors
