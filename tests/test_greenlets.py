"""Poll under gevent, eventlet and bare greenlets, which switch stacks within one thread.

Each program runs in a process of its own, because the monkey patches are for good.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PATIENCE = 60.0

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="gevent and eventlet are used on CPython"
)


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


@contextmanager
def started(program: str, directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program, and check that it ends without an error."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=directory,  # comes first on the path of the program, and may be a source tree
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0, errors


def run(program: str, directory: Path, *arguments: str) -> None:
    with started(program, directory, *arguments):
        pass


# ---- Monkey patches ----------------------------------------------------------------------------

PATCHES = [
    pytest.param(
        "from gevent import monkey; monkey.patch_all()", id="gevent", marks=needs("gevent")
    ),
    pytest.param(
        "import eventlet; eventlet.monkey_patch()", id="eventlet", marks=needs("eventlet")
    ),
]

A_HANDLER_RAISES = """
import os, signal, sys, threading
import pypoll

class HandlerError(Exception):
    pass

def handler(number, frame):
    raise HandlerError

reading, writing = os.pipe()
if sys.argv[1] == "Poll":
    p = pypoll.Poll()
    p.register(reading, pypoll.POLLIN)
    wait, found = p.poll, lambda: p.poll(0) == [(reading, pypoll.POLLIN)]
else:
    selector = pypoll.PollSelector()
    key = selector.register(reading, pypoll.EVENT_READ)
    wait, found = selector.select, lambda: selector.select(0) == [(key, pypoll.EVENT_READ)]
signal.signal(signal.SIGALRM, handler)

def interrupted():
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        wait(1000)
    except HandlerError:
        return
    raise AssertionError("the wait was not interrupted")

for _ in range(3):
    interrupted()
    assert wait(0) == []
    # Under a monkey patch, this is a greenlet of the same thread.
    answers = []
    other = threading.Thread(target=lambda: answers.append(wait(0)))
    other.start()
    other.join()
    assert answers == [[]]
os.write(writing, b"x")
assert found()
"""


@pytest.mark.parametrize("waiter", ["Poll", "PollSelector"])
@pytest.mark.parametrize("patch", PATCHES)
def test_under_a_monkey_patch_an_object_is_usable_after_a_handler_raised_in_its_wait(
    patch: str, waiter: str, tmp_path: Path
) -> None:
    run(patch + A_HANDLER_RAISES, tmp_path, waiter)


# ---- The poll hub of eventlet ------------------------------------------------------------------

SERVER = """
import importlib, signal, sys
import eventlet
from eventlet import hubs

new_poll = importlib.import_module(sys.argv[1]).poll
eventlet.monkey_patch()
hub_module = importlib.import_module("eventlet.hubs.poll")

class CountedPoll:
    def __init__(self):
        self.poller = new_poll()
        self.polls = 0

    def __getattr__(self, name):
        return getattr(self.poller, name)

    def poll(self, timeout):
        self.polls += 1
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        try:
            return self.poller.poll(timeout)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

# So that Ctrl-C strikes the idle hub, and no worker.
# A shell starts background jobs with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
# eventlet has a select module of its own, which no monkey patch changes.
hub_module.select.poll = CountedPoll
hubs.use_hub(hub_module)

def work(connection):
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            lines.write("served " + line)
            lines.flush()

workers = eventlet.GreenPool()
listener = eventlet.listen(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
try:
    while True:
        workers.spawn_n(work, listener.accept()[0])
except KeyboardInterrupt:
    listener.close()
    print("draining", workers.running(), flush=True)
    before = hubs.get_hub().poll.polls
    workers.waitall()
    print("drained", workers.running(), hubs.get_hub().poll.polls > before > 0)
"""


def said_by_a_server_that_gets_ctrl_c(module: str, directory: Path) -> list[str]:
    """Return what the clients, and then the operator, read."""
    said = []
    with started(SERVER, directory, module) as server, ExitStack() as stack:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        clients = []
        for number in range(10):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            clients.append(stack.enter_context(client.makefile("rw", encoding="utf-8")))
            print("early", number, file=clients[-1], flush=True)
            said.append(clients[-1].readline())
        time.sleep(0.1)  # until it is idle again
        server.send_signal(signal.SIGINT)
        said.append(server.stdout.readline())
        for number, lines in enumerate(clients):
            print("late", number, file=lines, flush=True)
            said.append(lines.readline())
        stack.close()
        said.append(server.stdout.readline())
    return said


@needs("eventlet")
def test_an_eventlet_server_over_pypoll_drains_after_ctrl_c_as_over_select(tmp_path: Path) -> None:
    said = said_by_a_server_that_gets_ctrl_c("pypoll", tmp_path)
    assert said == [
        *(f"served early {number}\n" for number in range(10)),
        "draining 10\n",
        *(f"served late {number}\n" for number in range(10)),
        "drained 0 True\n",
    ]
    assert said == said_by_a_server_that_gets_ctrl_c("select", tmp_path)


# ---- Switches during a wait --------------------------------------------------------------------

BEGINNING = """
import gc, os, signal, sys, threading, time
from greenlet import getcurrent, greenlet
import pypoll

reading, writing = os.pipe()
p = pypoll.Poll()
p.register(reading, pypoll.POLLIN)

def milliseconds_of_a_wait(handler):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    begun = time.monotonic_ns()
    assert p.poll(100) == []
    return (time.monotonic_ns() - begun) / 1e6
"""


@needs("greenlet")
@pytest.mark.parametrize("timeout", [0, 20, 200])
def test_a_handler_may_switch_to_a_greenlet_that_waits_in_the_same_object(
    timeout: int, tmp_path: Path
) -> None:
    program = """
timeout = int(sys.argv[1])
answers = []

def handler(number, frame):
    greenlet(lambda: answers.append(p.poll(timeout))).switch()

assert milliseconds_of_a_wait(handler) >= max(100, timeout)
assert answers == [[]]

# The other way round: the greenlet waits, and the handler switches to its parent and back.
def parents_turn(number, frame):
    waiter.parent.switch()

waiter = greenlet(milliseconds_of_a_wait)
waiter.switch(parents_turn)
assert p.poll(timeout) == []
assert waiter.switch() >= max(100, timeout)
os.write(writing, b"x")
assert p.poll() == [(reading, pypoll.POLLIN)]
"""
    run(BEGINNING + program, tmp_path, str(timeout))


@needs("greenlet")
def test_an_object_stays_usable_if_nobody_returns_to_its_interrupted_wait(tmp_path: Path) -> None:
    program = """
def usable():
    assert p.poll(0) == p.poll(1) == []
    os.write(writing, b"x")
    answers = [p.poll()]
    other = threading.Thread(target=lambda: answers.append(p.poll()))
    other.start()
    other.join()
    assert answers == [[(reading, pypoll.POLLIN)]] * 2
    os.read(reading, 1)

def handler(number, frame):
    waiter.parent.switch()

for _ in range(3):
    waiter = greenlet(milliseconds_of_a_wait)
    waiter.switch(handler)
    assert not waiter.dead
    usable()
    # Its end raises GreenletExit in the interrupted wait.
    waiter = None
    gc.collect()
    usable()
"""
    run(BEGINNING + program, tmp_path)


MANY_READY = """
p = pypoll.Poll()
ends = [os.pipe() for _ in range(20)]
for end, _ in ends:
    p.register(end, pypoll.POLLIN)

def make_ready(ends):
    for _, end in ends:
        os.write(end, b"x")

def half_ready():
    for end, _ in ends[::2]:
        os.read(end, 1)
    try:
        assert p.poll(0) == half
    finally:
        make_ready(ends[::2])

make_ready(ends)
every = [(end, pypoll.POLLIN) for end, _ in ends]
half = every[1::2]
"""


@needs("greenlet")
def test_results_are_whole_if_another_greenlet_polls_between_any_two_lines_of_a_wait(
    tmp_path: Path,
) -> None:
    """Some of these lines lie between the system call and the reading of the results."""
    program = """
def switch_before_line(number, timeout):
    '''Whether there was such a line.'''
    lines = 0
    switched = False

    def trace(frame, event, argument):
        nonlocal lines, switched
        if not frame.f_globals["__name__"].startswith("pypoll."):
            return None
        if event == "line" and not switched:
            lines += 1
            if lines == number:
                switched = True
                greenlet(half_ready).switch()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = p.poll(timeout)
    finally:
        sys.settrace(before)
    assert found in (every, half), found
    return switched

for timeout in 0, 1, None:
    number = 1
    while switch_before_line(number, timeout):
        number += 1
    assert number > 3
"""
    run(BEGINNING + MANY_READY + program, tmp_path)


@needs("greenlet")
def test_results_are_whole_if_handlers_switch_to_a_greenlet_that_polls(tmp_path: Path) -> None:
    program = """
handled = 0

def handler(number, frame):
    global handled
    greenlet(half_ready).switch()
    handled += 1
    if handled < 300:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
while handled < 300:
    found = p.poll(1000)
    assert found in (every, half), found
"""
    run(BEGINNING + MANY_READY + program, tmp_path)
