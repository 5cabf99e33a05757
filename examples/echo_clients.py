"""Clients for an echo server, which check every byte that comes back.

    python examples/echo_clients.py HOST PORT CLIENTS SECONDS

`echo_server.py --clients` runs this. SIGINT or SIGTERM ends the load early.

Exit status: 0 if every client got every byte back, 1 if not.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import sys
import time
from collections import Counter

import pypoll

WINDOW = 64 * 1024  # how far a client sends ahead of the bytes that have come back
BLOCK_SIZE = 1 << 20
PATIENCE_SECONDS = 30.0  # after the load, for the last bytes

BLOCK = random.Random(0).randbytes(BLOCK_SIZE)
BLOCK += BLOCK[:WINDOW]  # so that no slice wraps around


class Client:
    """A client that sends a stream of bytes, and compares it with what comes back."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.sock.connect(address)
        self.mask = pypoll.POLLOUT  # poll() reports it when the connection is made or has failed
        self._start = number * 10007  # each stream begins elsewhere in the block
        self._sent = 0
        self._received = 0
        self._ended = False

    def handle(self, event: int, ending: bool) -> bool:
        """Send and receive. Return True when everything is back after the end of the load."""
        with contextlib.suppress(BlockingIOError):
            # Also for POLLERR and POLLHUP: recv() raises the error.
            if event & ~pypoll.POLLOUT and not self._receive():
                return True
            # However early the load ends, each client has sent something.
            if ending and self._sent and not self._ended:
                self.sock.shutdown(socket.SHUT_WR)
                self._ended = True
            elif not self._ended and self._room():
                self._sent += self.sock.send(self._stream(self._sent, self._room()))
        self.mask = pypoll.POLLIN
        if not self._ended and self._room():
            self.mask |= pypoll.POLLOUT
        return False

    def _room(self) -> int:
        return WINDOW - (self._sent - self._received)

    def _stream(self, position: int, length: int) -> bytes:
        start = (self._start + position) % BLOCK_SIZE
        return BLOCK[start : start + length]

    def _receive(self) -> bool:
        chunk = self.sock.recv(WINDOW)
        if chunk != self._stream(self._received, len(chunk)):
            raise ConnectionError("a wrong byte came back")
        self._received += len(chunk)
        if not chunk and not (self._ended and self._received == self._sent):
            raise ConnectionError("the server closed before every byte was back")
        return bool(chunk)


def run(address: tuple[str, int], count: int, seconds: float) -> int:
    """Run the clients, print the result in one line, and return the exit status."""
    poll = pypoll.Poll()
    clients: dict[int, Client] = {}
    errors: Counter[str] = Counter()
    served = 0
    end = time.monotonic() + seconds

    def stop(*_: object) -> None:
        nonlocal end
        end = min(end, time.monotonic())

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    for number in range(count):
        try:
            client = Client(address, number)
        except OSError as error:
            errors[error.strerror or str(error)] += 1
            continue
        clients[client.sock.fileno()] = client
        poll.register(client.sock, client.mask)
    while clients and time.monotonic() < end + PATIENCE_SECONDS:
        # A second at most, so that a signal takes effect even if the server sends nothing.
        for fd, event in poll.poll(1000):
            client = clients[fd]
            mask = client.mask
            try:
                finished = client.handle(event, time.monotonic() >= end)
                served += finished
            except OSError as error:
                errors[error.strerror or str(error)] += 1
                finished = True
            if finished:
                poll.unregister(fd)
                clients.pop(fd).sock.close()
            elif client.mask != mask:
                poll.modify(fd, client.mask)
    if served == count:
        print(f"served {count:,} clients, every byte came back")
        return 0
    if clients:
        errors["no answer in time"] = len(clients)
    reasons = ", ".join(f"{reason} ({times:,})" for reason, times in errors.items())
    print(f"FAILED, served {served:,} of {count:,} clients: {reasons}")
    return 1


if __name__ == "__main__":
    host, port, count, seconds = sys.argv[1:]
    sys.exit(run((host, int(port)), int(count), float(seconds)))
