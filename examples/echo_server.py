"""A single-threaded TCP echo server over one pypoll.Poll.

    python examples/echo_server.py                    serve until Ctrl-C; try `nc 127.0.0.1 7007`
    python examples/echo_server.py --clients 1000     serve 1,000 clients, which check every byte

The server is the first half of this file, Connection and EchoServer: a start for one's own.
The second half is the load: a process of clients, and what the command says about it.

Exit status: 0 when the server was stopped, or when every client got every byte back;
1 when something went wrong; 2 when the command was not understood or the clients do not fit.
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

CHUNK = 64 * 1024  # the most that one recv or send moves, so that no client holds up the others
HIGH_WATER = 256 * 1024  # output at which the server stops reading from a client...
LOW_WATER = 128 * 1024  # ...and at which it reads again
BACKLOG = 4096  # the system cuts it down to its own maximum
DRAIN_SECONDS = 1.0  # how long a server that stops goes on sending what is left
NO_DESCRIPTOR_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

DEFAULT_PORT = 7007
RESERVED_DESCRIPTORS = 32  # standard streams, listener, signals, the pipe, and some to spare
PATIENCE_SECONDS = 30.0  # the most that connecting, or the last bytes, may take
TICK_SECONDS = 0.25
WINDOW = 64 * 1024  # the most that a client has under way
BLOCK_SIZE = 1 << 20


class Connection:
    """One client of the server: its socket, and the output that it has not taken yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.mask = pypoll.POLLIN
        self.ended = False  # the client has said that it sends no more
        self._stopping = False
        self._paused = False
        self._output = bytearray()
        self._sent = 0  # how much of _output is gone; it is cut off only now and then

    @property
    def pending(self) -> int:
        """The number of bytes that are still to be sent."""
        return len(self._output) - self._sent

    def receive(self) -> None:
        """Read once, and keep what came as output."""
        try:
            chunk = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        self.ended = not chunk
        if not self._stopping:
            self._output += chunk

    def send(self) -> int:
        """Send once as much output as the socket takes, and return how much that was."""
        with memoryview(self._output) as output, output[self._sent : self._sent + CHUNK] as chunk:
            try:
                count = self.sock.send(chunk)
            except BlockingIOError:
                return 0
        self._sent += count
        # Cutting moves the bytes behind the cut. Done for so many at a time, it costs next to
        # nothing for each of them.
        if not self.pending or self._sent >= LOW_WATER:
            del self._output[: self._sent]
            self._sent = 0
        if self._stopping and not self.pending:
            self._send_end()
        return count

    def stop(self) -> None:
        """Echo nothing more: send the output that is left, and then the end of the stream.

        What the client goes on sending is read and dropped until it ends as well: to close a
        socket with something unread is a reset, and takes from the client the output under way.
        """
        self._stopping = True
        if not self.pending:
            self._send_end()

    def _send_end(self) -> None:
        # When the client is gone already, poll() is about to say so.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def wanted(self) -> int:
        """Return the event mask that fits the output: this is where back-pressure is made."""
        # Two marks and not one, or a client at the mark would be paused and resumed all the time.
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
        # Registered before any client, the listener also comes before them in each result of
        # poll(): a descriptor closed while a result is handled is not given out again until the
        # next one, so that no client is handed an event of the one before it.
        self.watch(self._listener.fileno(), pypoll.POLLIN, self._accept)

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Have handler called with each event of the descriptor."""
        self.poll.register(fd, mask)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Undo watch(); to be called before the descriptor is closed."""
        self.poll.unregister(fd)
        del self._handlers[fd]

    def turn(self, timeout: float | None = None) -> None:
        """Wait for events, for timeout seconds at most, and handle them."""
        ready = self.poll.poll(None if timeout is None else timeout * 1000)
        self.calls += 1
        self.events += len(ready)
        for fd, event in ready:
            # The handler of another event may have closed this one.
            if fd in self._handlers:
                self._handlers[fd](event)

    def close(self) -> None:
        """Stop accepting and echoing, send what the clients take in a short while, and close."""
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
                # The client stays in the backlog, so the listener stays ready: to go on watching
                # it would be to spin. Without any client, none can leave and make room.
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
                # It is reported whatever the mask is, and again at once: what is neither read
                # from nor able to take output has to go now.
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            # Output mostly goes out right here, without a POLLOUT that would take another poll().
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
    """Make SIGINT and SIGTERM readable, as bytes that are their numbers, from a socket.

    A signal that arrives just before poll() is then an event like any other, and not missed.
    """
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    return receiver


def serve(server: EchoServer, signals: socket.socket) -> int:
    """Serve until a signal comes, and return the exit status."""
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
    """One client of the load: it sends a stream of its own and checks what comes back."""

    def __init__(self, block: bytes, number: int) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.mask = pypoll.POLLOUT
        self.finished = False
        self._block = block
        # An odd step, and a block whose size is a power of two: no two clients start alike.
        self._start = number * 10007
        self._connecting = True
        self._sending = True
        self._sent = 0
        self._received = 0

    def connect(self, address: Address) -> None:
        """Begin to connect; whether that succeeds is for handle() to see."""
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
            # An error is the receive's to raise, so POLLERR needs no case of its own.
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
        """Send no more; what was sent is still to come back, and then the end of the stream."""
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
    """What came back is not what was sent."""


def run_clients(address: Address, count: int, seconds: float) -> None:
    """Be the process of the clients: put the load on the server, and print a report as JSON."""
    signals = catch_signals()
    poll = pypoll.Poll()
    poll.register(signals, pypoll.POLLIN)
    block = random.Random(count).randbytes(BLOCK_SIZE)
    block += block[: max(CHUNK, WINDOW)]  # so that a slice never has to go round the end
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

    # The load lasts from when all are connected. Before it and after it, patience is limited.
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
    """The process of the clients, as seen by the server."""

    def __init__(
        self, server: EchoServer, signals: socket.socket, count: int, seconds: float
    ) -> None:
        host, port = server.address
        command = [sys.executable, __file__, "--as-clients", "--clients", str(count)]
        command += ["--seconds", str(seconds), "--host", host, "--port", str(port)]
        # In a session of its own, Ctrl-C reaches it by way of the server only.
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
    """Serve a load of so many clients for so many seconds, and return the exit status."""
    host, port = server.address
    print(f"echo server on {host}:{port}, {count:,} clients for {seconds:g} s", flush=True)
    load = Load(server, signals, count, seconds)
    # The clients have limits of their own, and end before this one.
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
    """Return the line that is shown while the load runs."""
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
    # Not every system takes "no limit" for the soft one, even where the hard one is that.
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
    parser.add_argument("--clients", type=int, metavar="N", help="serve a load of N clients")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="length of the load (default: %(default)g)"
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
