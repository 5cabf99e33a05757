"""An event loop of asyncio over PollSelector wakes for threads and signals.

test_echo_server.py tests streams. test_cpython_suite.py runs CPython's own tests of asyncio.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any

import pytest

import pypoll
from support import PATIENCE

pytestmark = pytest.mark.native


class Selector(pypoll.PollSelector):
    """A PollSelector that sets *idle* when it begins to wait without a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = threading.Event()

    def select(self, timeout: Any = None) -> Any:
        if timeout is None:
            self.idle.set()
        return super().select(timeout)


def test_each_call_from_another_thread_wakes_an_idle_loop() -> None:
    selector = Selector()
    loop = asyncio.SelectorEventLoop(selector)
    woken: list[bool] = []

    def call() -> None:
        while len(woken) < 1000 and all(woken[-1:]):
            called = threading.Event()
            selector.idle.wait(PATIENCE)
            selector.idle.clear()
            loop.call_soon_threadsafe(called.set)
            # If a wake-up is lost, the loop stays idle, and this wait fails.
            woken.append(called.wait(PATIENCE))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=call)
    thread.start()
    loop.run_forever()
    thread.join()
    loop.close()
    assert woken == [True] * 1000


def test_sigint_ends_a_runner_whose_loop_is_idle() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner is new in Python 3.11")
    selector = Selector()
    ended = threading.Event()

    async def main() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    def interrupt() -> None:
        # Repeat it, because a signal just before the system call does not end the wait.
        while selector.idle.wait(PATIENCE) and not ended.is_set():
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(1)

    # A shell has its background jobs ignore SIGINT, and Python inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector))
        with runner, pytest.raises(KeyboardInterrupt):
            runner.run(main())
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert ended.is_set()
