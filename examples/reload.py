"""Wait for input and for signals without a race: SIGHUP reloads, SIGTERM ends.

python examples/reload.py      try `kill -HUP` and `kill -TERM` with the number that it prints

The signals are blocked except while ppoll() waits. So none can arrive just before the wait and go
unnoticed until the next line of input.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import pypoll

SIGNALS = {signal.SIGHUP, signal.SIGTERM}
arrived: list[int] = []


def handler(number: int, _frame: FrameType | None) -> None:
    """Note the signal, and end the wait. Without an exception, ppoll() would continue to wait."""
    arrived.append(number)
    raise InterruptedError


def main() -> None:
    """Serve until SIGTERM or the end of the input."""
    outside = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        signal.signal(number, handler)
    p = pypoll.Poll()
    p.register(sys.stdin, pypoll.POLLIN)
    print(f"process {os.getpid()}", flush=True)
    while True:
        try:
            p.ppoll(None, outside - SIGNALS)
        except InterruptedError:
            if arrived.pop() == signal.SIGTERM:
                break
            print("reloaded", flush=True)
        else:
            line = os.read(0, 65536)
            if not line:
                break
            print(f"{len(line)} bytes of input", flush=True)
    print("ended", flush=True)


if __name__ == "__main__":
    main()
