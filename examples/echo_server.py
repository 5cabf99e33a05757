"""A single-threaded TCP echo server over one pypoll.Poll.

    python examples/echo_server.py                    serve until Ctrl-C; try `nc 127.0.0.1 7007`
    python examples/echo_server.py --clients 1000     serve 1,000 clients, which check every byte

The server is the first half of this file, Connection and EchoServer. Copy it for your own.
The second half is the load test: a process with the clients, and the report.

Exit status: 0 if the server was stopped, or if every client got every byte back; 1 after an error;
2 if an argument is invalid or there are too many clients.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import json
import math
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import pypoll

Address = tuple[str, int]

CHUNK = 64 * 1024  # the largest recv or send, so that no client delays the others
HIGH_WATER = 256 * 1024  # output at which the server stops reading from a client...
LOW_WATER = 128 * 1024  # ...and at which it reads again
BACKLOG = 4096  # the system limits it to its own maximum
DRAIN_SECONDS = 1.0  # how long a stopping server sends the rest of the output
NO_DESCRIPTOR_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

DEFAULT_PORT = 7007
RESERVED_DESCRIPTORS = 32  # standard streams, listener, signals, the pipe, and some to spare
PATIENCE_SECONDS = 30.0  # the longest time for connecting, and for the last bytes
TICK_SECONDS = 0.25
WINDOW = 64 * 1024  # the most that a client has sent and not received back
BLOCK_SIZE = 1 << 20


class Connection:
    """One client of the server: its socket, and the output that is still to be sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.mask = pypoll.POLLIN
        self.ended = False  # the client sends no more
        self._stopping = False
        self._paused = False
        self._output = bytearray()
        self._sent = 0  # how much of _output is sent; it is removed in large pieces

    @property
    def pending(self) -> int:
        """The number of bytes that are still to be sent."""
        return len(self._output) - self._sent

    def receive(self) -> None:
        """Read once, and keep the bytes as output."""
        try:
            chunk = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        self.ended = not chunk
        if not self._stopping:
            self._output += chunk

    def send(self) -> int:
        """Send once as much output as the socket takes, and return the number of bytes."""
        with memoryview(self._output) as output, output[self._sent : self._sent + CHUNK] as chunk:
            try:
                count = self.sock.send(chunk)
            except BlockingIOError:
                return 0
        self._sent += count
        # Removing bytes moves those behind them. Removing many at a time costs little per byte.
        if not self.pending or self._sent >= LOW_WATER:
            del self._output[: self._sent]
            self._sent = 0
        if self._stopping and not self.pending:
            self._send_end()
        return count

    def stop(self) -> None:
        """Echo nothing more: send the rest of the output, and then the end of the stream.

        Whatever the client still sends is read and dropped until it ends, too. Closing a socket
        with unread input would reset the connection, and the client would lose its output.
        """
        self._stopping = True
        if not self.pending:
            self._send_end()

    def _send_end(self) -> None:
        # If the client has gone already, poll() will report it.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def wanted(self) -> int:
        """Return the event mask that the output calls for; this creates the back-pressure."""
        # Two marks, because with one a client at the mark would be paused and resumed all the time.
        self._paused = self.pending >= (LOW_WATER if self._paused else HIGH_WATER)
        mask = 0
        if not self.ended and (self._stopping or not self._paused):
            mask |= pypoll.POLLIN
        if self.pending:
            mask |= pypoll.POLLOUT
        return mask


class EchoServer:
    """A server that sends back to every client what that client sent."""

    def __init__(self, address: Address) -> None:
        self.poll = pypoll.Poll()
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.echoed = 0
        self.calls = 0
        self.events = 0
        self.errors: Counter[str] = Counter()
        self.first_accept = self.last_send = 0.0
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._accepting = True
        self._listener = socket.create_server(address, backlog=BACKLOG)
        self._listener.setblocking(False)
        self.address: Address = self._listener.getsockname()
        # The listener is registered first, so it comes first in each result of poll(). A descriptor
        # that is closed while a result is handled is then not reused until the next result, and no
        # client gets an event of an earlier one.
        self.watch(self._listener.fileno(), pypoll.POLLIN, self._accept)

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call the handler with each event of the descriptor."""
        self.poll.register(fd, mask)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Undo watch(). Call this before you close the descriptor."""
        self.poll.unregister(fd)
        del self._handlers[fd]

    def turn(self, timeout: float | None = None) -> None:
        """Wait for events, at most timeout seconds, and handle them."""
        ready = self.poll.poll(None if timeout is None else timeout * 1000)
        self.calls += 1
        self.events += len(ready)
        for fd, event in ready:
            # The handler of another event may have closed this one.
            if fd in self._handlers:
                self._handlers[fd](event)

    def close(self) -> None:
        """Stop accepting and echoing, send the rest of the output for a short time, and close."""
        self.unwatch(self._listener.fileno())
        self._listener.close()
        self._accepting = True  # nothing to resume when a client leaves
        for connection in list(self.connections):
            connection.stop()
            self._settle(connection)
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.connections and time.monotonic() < deadline:
            self.turn(max(0.0, deadline - time.monotonic()))
        for connection in list(self.connections):
            if connection.pending:
                self._lose(connection, "output not taken in time")
            else:
                self._leave(connection)

    def _accept(self, _event: int) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # it left before it was accepted
            except OSError as error:
                # The client stays in the backlog, so the listener stays ready, and watching it
                # would spin. Without any client, none can leave and make room.
                if error.errno not in NO_DESCRIPTOR_LEFT or not self.connections:
                    raise
                self._accepting = False
                self.poll.modify(self._listener, 0)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock)
            self.connections.add(connection)
            handler = functools.partial(self._serve, connection)
            self.watch(sock.fileno(), connection.mask, handler)
            self.first_accept = self.first_accept or time.monotonic()
            self.accepted += 1

    def _serve(self, connection: Connection, event: int) -> None:
        try:
            if event & (pypoll.POLLERR | pypoll.POLLNVAL):
                code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                raise OSError(code, os.strerror(code))
            if connection.mask & pypoll.POLLIN:
                if event & (pypoll.POLLIN | pypoll.POLLHUP):
                    connection.receive()
            elif event & pypoll.POLLHUP:
                # POLLHUP is reported whatever the mask is, each time. A connection that is not read
                # and takes no output must be closed now.
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            # Most output is sent here at once, without waiting for POLLOUT in another poll().
            if connection.pending:
                self.echoed += connection.send()
                self.last_send = time.monotonic()
        except OSError as error:
            self._lose(connection, error.strerror or str(error))
        else:
            self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        if connection.ended and not connection.pending:
            self._leave(connection)
            return
        mask = connection.wanted()
        if mask != connection.mask:
            connection.mask = mask
            self.poll.modify(connection.sock, mask)

    def _lose(self, connection: Connection, reason: str) -> None:
        self.errors[reason] += 1
        self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        self.connections.remove(connection)
        self.unwatch(connection.sock.fileno())
        connection.sock.close()
        if not self._accepting:
            self._accepting = True
            self.poll.modify(self._listener, pypoll.POLLIN)


def catch_signals() -> socket.socket:
    """Return a socket from which SIGINT and SIGTERM can be read, each as a byte, its number.

    So a signal that arrives just before poll() is an event like any other, and is not missed.
    """
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    return receiver


def serve(server: EchoServer, signals: socket.socket) -> int:
    """Serve until a signal arrives, and return the exit status."""
    came: list[int] = []
    server.watch(signals.fileno(), pypoll.POLLIN, lambda _event: came.extend(signals.recv(64)))
    print("echo server on {}:{}".format(*server.address), flush=True)
    while not came:
        server.turn()
    server.close()
    print_table(server, server.errors)
    print(f"stopped by {signal.Signals(came[0]).name}")
    return 0


class EchoClient:
    """One client of the load test: it sends its own stream and checks what comes back."""

    def __init__(self, block: bytes, number: int) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.mask = pypoll.POLLOUT
        self.finished = False
        self._block = block
        # An odd step and a block whose size is a power of two: each client starts elsewhere.
        self._start = number * 10007
        self._connecting = True
        self._sending = True
        self._sent = 0
        self._received = 0

    def connect(self, address: Address) -> None:
        """Begin to connect. handle() sees whether that succeeds."""
        code = self.sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))

    def handle(self, event: int) -> None:
        """Handle an event; the errors that it raises are OSError and EchoError."""
        if self._connecting:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self._connecting = False
        try:
            # recv() raises the error, so POLLERR needs no case of its own.
            if event & ~pypoll.POLLOUT:
                self._receive()
            if self._sending and not self.finished:
                self._send()
        except BlockingIOError:
            pass
        self.mask = pypoll.POLLIN
        if self._sending and self._sent - self._received < WINDOW:
            self.mask |= pypoll.POLLOUT

    def end(self) -> None:
        """Send no more. What was sent must still come back, and then the end of the stream."""
        self._sending = False
        self.mask = pypoll.POLLIN
        self.sock.shutdown(socket.SHUT_WR)

    def _stream(self, position: int, length: int) -> bytes:
        start = (self._start + position) % BLOCK_SIZE
        return self._block[start : start + length]

    def _send(self) -> None:
        room = WINDOW - (self._sent - self._received)
        if room:
            self._sent += self.sock.send(self._stream(self._sent, room))

    def _receive(self) -> None:
        chunk = self.sock.recv(CHUNK)
        if not chunk:
            if self._sending or self._received != self._sent:
                raise EchoError("the server closed before every byte was back")
            self.finished = True
        elif chunk != self._stream(self._received, len(chunk)):
            raise EchoError("a wrong byte came back")
        self._received += len(chunk)


class EchoError(Exception):
    """The bytes that came back differ from those that were sent."""


def run_clients(address: Address, count: int, seconds: float) -> None:
    """Run the clients, in a process of their own, and print a report as JSON."""
    signals = catch_signals()
    poll = pypoll.Poll()
    poll.register(signals, pypoll.POLLIN)
    block = random.Random(count).randbytes(BLOCK_SIZE)
    block += block[: max(CHUNK, WINDOW)]  # so that a slice never wraps around
    clients: dict[int, EchoClient] = {}
    errors: Counter[str] = Counter()
    served = 0

    def attempt(client: EchoClient, action: Callable[[], None]) -> None:
        nonlocal served
        mask = client.mask
        try:
            action()
        except (OSError, EchoError) as error:
            errors[getattr(error, "strerror", None) or str(error)] += 1
        else:
            if not client.finished:
                if client.mask != mask:
                    poll.modify(client.sock, client.mask)
                return
            served += 1
        poll.unregister(client.sock)
        del clients[client.sock.fileno()]
        client.sock.close()

    for number in range(count):
        client = EchoClient(block, number)
        clients[client.sock.fileno()] = client
        poll.register(client.sock, client.mask)
        attempt(client, functools.partial(client.connect, address))

    # The load begins when all are connected. Before and after it, the time is limited.
    connecting = set(clients)
    ended = False
    end = math.inf
    limit = time.monotonic() + PATIENCE_SECONDS
    while clients and time.monotonic() < limit:
        next_step = limit if ended else min(end, limit)
        for fd, event in poll.poll(max(0.0, next_step - time.monotonic()) * 1000):
            if fd == signals.fileno():
                signals.recv(64)
                end = min(end, time.monotonic())
            else:
                connecting.discard(fd)
                attempt(clients[fd], functools.partial(clients[fd].handle, event))
                if not connecting and end == math.inf:
                    end = time.monotonic() + seconds
                    limit = math.inf
        if not ended and time.monotonic() >= end:
            ended = True
            limit = time.monotonic() + PATIENCE_SECONDS
            for client in list(clients.values()):
                attempt(client, client.end)
    if clients:
        errors["no answer in time"] += len(clients)
    print(json.dumps({"served": served, "errors": errors}))


class Load:
    """The process with the clients, as the server sees it."""

    def __init__(
        self, server: EchoServer, signals: socket.socket, count: int, seconds: float
    ) -> None:
        host, port = server.address
        command = [sys.executable, __file__, "--as-clients", "--clients", str(count)]
        command += ["--seconds", str(seconds), "--host", host, "--port", str(port)]
        # It has its own session, so that Ctrl-C reaches it only through the server.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        self.running = True
        self.stopped_by = ""
        self._report = b""
        self._pipe = self.process.stdout
        self._server = server
        self._signals = signals
        server.watch(self._pipe.fileno(), pypoll.POLLIN, self._read)
        server.watch(signals.fileno(), pypoll.POLLIN, self._stop)

    def _read(self, _event: int) -> None:
        chunk = os.read(self._pipe.fileno(), CHUNK)
        self._report += chunk
        if not chunk:
            self._server.unwatch(self._pipe.fileno())
            self._pipe.close()
            self.running = False

    def _stop(self, _event: int) -> None:
        number = self._signals.recv(64)[0]
        # The first signal lets the clients finish, the second does not.
        if self.stopped_by:
            self.process.kill()
        else:
            self.process.terminate()
        self.stopped_by = signal.Signals(number).name

    def result(self) -> tuple[int, Counter[str]]:
        """Return the number of clients that got every byte back, and the errors of the others."""
        status = self.process.wait()
        if status:
            return 0, Counter({f"the process of the clients ended with status {status}": 1})
        report = json.loads(self._report)
        return report["served"], Counter(report["errors"])


def serve_clients(server: EchoServer, signals: socket.socket, count: int, seconds: float) -> int:
    """Serve *count* clients for *seconds*, and return the exit status."""
    host, port = server.address
    print(f"echo server on {host}:{port}, {count:,} clients for {seconds:g} s", flush=True)
    load = Load(server, signals, count, seconds)
    # The clients have shorter limits, and end before this one.
    limit = time.monotonic() + seconds + 3 * PATIENCE_SECONDS
    on_terminal = sys.stderr.isatty()
    next_tick = 0.0
    while load.running:
        server.turn(TICK_SECONDS)
        now = time.monotonic()
        if now >= limit:
            load.process.kill()
        if on_terminal and now >= next_tick:
            next_tick = now + TICK_SECONDS
            print(f"\r{progress(server)}\x1b[K", end="", file=sys.stderr, flush=True)
    if on_terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    served, errors = load.result()
    server.close()
    errors += server.errors
    print_table(server, errors)
    stopped = f"stopped by {load.stopped_by}: " if load.stopped_by else ""
    if served == count and not errors:
        print(f"{stopped}served {count:,} clients, every byte came back")
        return 0
    reasons = ", ".join(f"{reason} ({times:,})" for reason, times in errors.items())
    print(f"{stopped}FAILED, served {served:,} of {count:,} clients: {reasons}")
    return 1


def rate(server: EchoServer) -> str:
    """Return the throughput from the first client to the last byte."""
    elapsed = server.last_send - server.first_accept
    return f"{server.echoed / elapsed / 1e6 if elapsed > 0 else 0:,.1f} MB/s"


def progress(server: EchoServer) -> str:
    """Return the line that is shown while the load test runs."""
    connected, echoed = len(server.connections), server.echoed / 1e6
    return f"{connected:,} clients  {echoed:,.0f} MB echoed  {rate(server)}"


def print_table(server: EchoServer, errors: Counter[str]) -> None:
    """Print what the server did."""
    rows = {
        "clients": f"{server.accepted:,}",
        "bytes echoed": f"{server.echoed:,}",
        "throughput": rate(server),
        "poll calls": f"{server.calls:,}",
        "events per call": f"{server.events / max(1, server.calls):,.1f}",
        "errors": f"{sum(errors.values()):,}",
    }
    for name, value in rows.items():
        print(f"{name:<16}{value:>20}")


def raise_descriptor_limit(needed: int) -> int:
    """Raise the soft limit of open descriptors as far as it goes, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Not every system accepts "no limit" as the soft limit, even if it is the hard limit.
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, needed)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main() -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description="TCP echo server over one pypoll.Poll")
    parser.add_argument("--host", default="127.0.0.1", help="IPv4 address (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, help=f"default: {DEFAULT_PORT}, with --clients any free port"
    )
    parser.add_argument("--clients", type=int, metavar="N", help="serve N clients that check it")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="duration of the load (default: %(default)g)"
    )
    parser.add_argument("--as-clients", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    count: int | None = arguments.clients
    port: int | None = arguments.port
    if port is None:
        port = DEFAULT_PORT if count is None else 0
    if not 0 <= port <= 65535:
        parser.error("--port must be from 0 to 65535")
    if count is not None and count < 1:
        parser.error("--clients must be at least 1")
    if not 0 < arguments.seconds <= 86400:
        parser.error("--seconds must be above 0, and a day at most")
    address = (arguments.host, port)
    if arguments.as_clients:
        run_clients(address, count or 1, arguments.seconds)
        return 0

    needed = (count or 1000) + RESERVED_DESCRIPTORS
    limit = raise_descriptor_limit(needed)
    if count is not None and needed > limit:
        print(
            f"{count:,} clients do not fit: they need a limit of {needed:,} open descriptors, "
            f"and the hard limit (ulimit -Hn) is {limit:,}, "
            f"enough for {max(0, limit - RESERVED_DESCRIPTORS):,} clients",
            file=sys.stderr,
        )
        return 2
    signals = catch_signals()
    try:
        server = EchoServer(address)
    except OSError as error:
        print(f"cannot listen on {address[0]}:{address[1]}: {error}", file=sys.stderr)
        return 1
    if count is None:
        return serve(server, signals)
    return serve_clients(server, signals, count, arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
