"""A server over eventlet's poll hub, which uses the poll of the module that is named."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import eventlet
from eventlet import hubs

new_poll = importlib.import_module(sys.argv[1]).poll
eventlet.monkey_patch()
hub_module = importlib.import_module("eventlet.hubs.poll")


class CountedPoll:
    def __init__(self) -> None:
        self.poller = new_poll()
        self.polls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.poller, name)

    def poll(self, timeout: float) -> Any:
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


def work(connection: Any) -> None:
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
