"""An event loop of asyncio over PollSelector: streams, subprocesses, signals, threads, timers.

CPython's own tests of asyncio are run over it too, by test_cpython_suite.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

import pytest

import pypoll
from descriptors import room_for
from support import PATIENCE, needs_ppoll, to_main_thread

pytestmark = pytest.mark.native
CLIENTS = 300
PATTERN = random.Random(0).randbytes(8 << 20)

T = TypeVar("T")


class Selector(pypoll.PollSelector):
    """PollSelector that tells when it begins to wait without a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = threading.Event()

    def select(self, timeout: Any = None) -> Any:
        if timeout is None:
            self.idle.set()
        return super().select(timeout)


class Running(NamedTuple):
    loop: asyncio.SelectorEventLoop
    selector: Selector

    def complete(self, main: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(main, PATIENCE))

    def forever(self) -> None:
        """Run the loop until it is stopped, without a timer that would wake it meanwhile."""
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)
            self.loop.call_soon_threadsafe(self.loop.stop)

        patience = threading.Timer(PATIENCE, give_up)
        patience.start()
        self.loop.run_forever()
        patience.cancel()
        patience.join()
        assert not late


@pytest.fixture
def running() -> Iterator[Running]:
    selector = Selector()
    loop = asyncio.SelectorEventLoop(selector)
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    try:
        yield Running(loop, selector)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
        # What was left open is to be reported with the test that left it.
        gc.collect()
    assert reported == []


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def send(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(message)
    await writer.drain()


async def assert_echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes
) -> None:
    _, received = await asyncio.gather(send(writer, message), reader.readexactly(len(message)))
    assert received == message


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_hundreds_of_stream_clients_get_every_byte_back(running: Running) -> None:
    async def client(number: int, port: int, connected: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await connected.wait()
        for step in range(10):
            start = 1000 * number + step
            await assert_echo(reader, writer, PATTERN[start : start + 10_000])
        await end(writer)

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=CLIENTS)
        connected = asyncio.Event()
        clients = [
            asyncio.ensure_future(client(number, port_of(server), connected))
            for number in range(CLIENTS)
        ]
        # The socket that wakes the loop, the listener, and both ends of each client.
        while len(running.selector.get_map()) < 2 + 2 * CLIENTS:
            await asyncio.sleep(0.001)
        connected.set()
        await asyncio.gather(*clients)
        server.close()
        await server.wait_closed()

    # Both ends of all clients are in this process.
    with room_for(2 * CLIENTS + 100):
        running.complete(main())


def to_this_thread(number: int) -> None:
    signal.pthread_kill(threading.get_ident(), number)


def to_this_process(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("kill", [to_this_process, to_main_thread, to_this_thread])
def test_a_signal_wakes_a_loop_that_is_idle_in_select(
    running: Running, kill: Callable[[int], None]
) -> None:
    loop, selector = running
    came: list[int] = []

    def handle() -> None:
        came.append(signal.SIGUSR1)
        loop.stop()

    def strike() -> None:
        if selector.idle.wait(PATIENCE):
            time.sleep(0.05)
            kill(signal.SIGUSR1)

    loop.add_signal_handler(signal.SIGUSR1, handle)
    for count in range(1, 6):
        selector.idle.clear()
        thread = in_thread(strike)
        running.forever()
        thread.join()
        assert came == [signal.SIGUSR1] * count


def test_each_call_from_a_thread_wakes_an_idle_loop(running: Running) -> None:
    loop, selector = running
    calls = 1000
    woken: list[bool] = []

    def ask() -> None:
        for _ in range(calls):
            # A wake-up that is lost leaves the loop idle, and this thread waiting.
            made = threading.Event()
            selector.idle.wait(PATIENCE)
            selector.idle.clear()
            loop.call_soon_threadsafe(made.set)
            woken.append(made.wait(PATIENCE))
            if not woken[-1]:
                break
        loop.call_soon_threadsafe(loop.stop)

    thread = in_thread(ask)
    running.forever()
    thread.join()
    assert woken == [True] * calls


def time_until_call(loop: asyncio.AbstractEventLoop, delay: float) -> float:
    """Return after how long call_later() makes a call, which is never before its delay."""
    fired: list[float] = []

    def fire() -> None:
        fired.append(loop.time())
        loop.stop()

    begin = loop.time()
    handle = loop.call_later(delay, fire)
    loop.run_forever()
    # Nothing but its time ends the wait, so that it is not early by the resolution either.
    assert fired[0] >= handle.when() >= begin + delay
    return fired[0] - begin


@needs_ppoll
def test_call_later_of_a_fifth_of_a_millisecond_takes_less_than_a_whole_one(
    running: Running,
) -> None:
    medians: list[float] = []
    # What else the machine does may hold up one try or another.
    while len(medians) < 50 and not (medians and medians[-1] < 0.001):
        medians.append(statistics.median(time_until_call(running.loop, 0.0002) for _ in range(50)))
    assert min(medians) < 0.001, medians


def test_sigint_ends_a_runner_that_is_idle_in_select() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner is new in Python 3.11")
    selector = Selector()
    ended: list[str] = []

    async def main() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cleanly")

    def strike() -> None:
        # Again, should it come between the last look for signals and the system call.
        while selector.idle.wait(PATIENCE) and not ended:
            time.sleep(0.05)
            to_this_process(signal.SIGINT)
            time.sleep(1)

    # A shell ignores it for what it runs in the background, and then so does Python.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = in_thread(strike)
    runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector))
    with runner, pytest.raises(KeyboardInterrupt):
        runner.run(main())
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert ended == ["cleanly"]
