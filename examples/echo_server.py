"""A single-threaded TCP echo server over one pypoll.Poll.

    python examples/echo_server.py                    serve until Ctrl-C; try `nc 127.0.0.1 7007`
    python examples/echo_server.py --clients 1000     serve 1,000 clients, which check every byte

The server is the class EchoServer. Copy it for your own. The clients are in echo_clients.py.

Exit status: 0 if the server was stopped, or if every client got every byte back; 1 after an error;
2 if an argument is invalid or there are too many clients.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import functools
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pypoll

CLIENTS = Path(__file__).with_name("echo_clients.py")
CHUNK = 64 * 1024  # the largest recv or send, so that no client delays the others
BACKLOG = 4096  # the system limits it to its own maximum
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
DEFAULT_PORT = 7007
RESERVED_DESCRIPTORS = 32  # standard streams, listener, signals, the pipe, and some to spare


@dataclasses.dataclass(eq=False)
class Client:
    """A connected client."""

    sock: socket.socket
    mask: int = pypoll.POLLIN
    output: bytearray = dataclasses.field(default_factory=bytearray)  # received but not sent yet


class EchoServer:
    """A server that sends back to every client what that client sent."""

    def __init__(self, host: str, port: int) -> None:
        self.poll = pypoll.Poll()
        self.clients: set[Client] = set()
        self.accepted = self.echoed = self.calls = self.events = 0
        self.first_accept = self.last_send = 0.0
        self.errors: Counter[str] = Counter()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._accepting = True
        self._listener = socket.create_server((host, port), backlog=BACKLOG)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()
        self.watch(self._listener.fileno(), self._accept)

    def watch(self, fd: int, handler: Callable[[], object]) -> None:
        """Call the handler each time the descriptor is ready."""
        self.poll.register(fd, pypoll.POLLIN)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Undo watch(). Call this before you close the descriptor."""
        self.poll.unregister(fd)
        del self._handlers[fd]

    def turn(self) -> None:
        """Wait until something is ready, and handle it."""
        ready = self.poll.poll()
        self.calls += 1
        self.events += len(ready)
        for fd, _event in ready:
            self._handlers[fd]()

    def close(self) -> None:
        """Close the listener and all connections, without sending the rest of the output."""
        for client in list(self.clients):
            self._drop(client)
        self.unwatch(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # this client left before it was accepted
            except OSError as error:
                # The client stays in the backlog, so the listener stays ready, and poll() would
                # return at once each time. Ignore the listener until another client leaves.
                if error.errno not in OUT_OF_RESOURCES or not self.clients:
                    raise
                self._accepting = False
                self.poll.modify(self._listener, 0)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(sock)
            self.clients.add(client)
            self.watch(sock.fileno(), functools.partial(self._serve, client))
            self.first_accept = self.first_accept or time.monotonic()
            self.accepted += 1

    def _serve(self, client: Client) -> None:
        # recv() and send() raise the error that POLLERR or POLLHUP reports, so the event does not
        # matter here. If it is out of date, they raise BlockingIOError.
        try:
            # Back-pressure: the server receives nothing from a client that has output to take. So
            # a client that sends without receiving costs one chunk, and is made to wait.
            if not client.output:
                client.output += client.sock.recv(CHUNK)
                if not client.output:
                    self._drop(client)  # the client sends no more, and has got everything
                    return
            # Most sockets can take the output now, without a poll() for POLLOUT.
            sent = client.sock.send(client.output)
            del client.output[:sent]
            self.echoed += sent
            self.last_send = time.monotonic()
        except BlockingIOError:
            pass
        except OSError as error:
            self.errors[error.strerror or str(error)] += 1
            self._drop(client)
            return
        mask = pypoll.POLLOUT if client.output else pypoll.POLLIN
        if mask != client.mask:
            client.mask = mask
            self.poll.modify(client.sock, mask)

    def _drop(self, client: Client) -> None:
        self.clients.remove(client)
        self.unwatch(client.sock.fileno())
        client.sock.close()
        if not self._accepting:
            self._accepting = True
            self.poll.modify(self._listener, pypoll.POLLIN)


def catch_signals() -> socket.socket:
    """Return a socket that receives the number of each SIGINT and SIGTERM as a byte.

    So a signal is an event like any other. It cannot arrive unnoticed just before poll().
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
    stopped: list[int] = []
    server.watch(signals.fileno(), lambda: stopped.extend(signals.recv(64)))
    print("echo server on {}:{}".format(*server.address), flush=True)
    while not stopped:
        server.turn()
    server.close()
    print_table(server)
    print(f"stopped by {signal.Signals(stopped[0]).name}")
    return 0


def serve_clients(server: EchoServer, signals: socket.socket, count: int, seconds: float) -> int:
    """Serve *count* clients for *seconds*, and return the exit status."""
    host, port = server.address
    print(f"echo server on {host}:{port}, {count:,} clients for {seconds:g} s", flush=True)
    stopped: list[int] = []
    report: list[str] = []
    # Ctrl-C does not reach a process in another session: stop() decides how it ends.
    with subprocess.Popen(
        [sys.executable, str(CLIENTS), host, str(port), str(count), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        output = process.stdout

        def stop() -> None:
            stopped.extend(signals.recv(64))
            process.terminate()

        server.watch(signals.fileno(), stop)
        # The process prints one line when it ends, so read() returns soon.
        server.watch(output.fileno(), lambda: report.append(output.read().strip()))
        while not report:
            server.turn()
    server.close()
    print_table(server)
    prefix = f"stopped by {signal.Signals(stopped[0]).name}: " if stopped else ""
    print(prefix + (report[0] or f"FAILED, the clients' exit status is {process.returncode}"))
    return 1 if process.returncode or server.errors else 0


def print_table(server: EchoServer) -> None:
    """Print the server's figures, and its errors by reason."""
    elapsed = server.last_send - server.first_accept
    rows = {
        "clients": f"{server.accepted:,}",
        "bytes echoed": f"{server.echoed:,}",
        "throughput": f"{server.echoed / elapsed / 1e6 if elapsed > 0 else 0:,.1f} MB/s",
        "poll calls": f"{server.calls:,}",
        "events per call": f"{server.events / max(1, server.calls):,.1f}",
        "errors": f"{sum(server.errors.values()):,}",
        **{reason: f"{count:,}" for reason, count in server.errors.items()},
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
        parser.error("--seconds must be greater than 0, and at most 86400, which is a day")

    needed = (count or 1000) + RESERVED_DESCRIPTORS
    limit = raise_descriptor_limit(needed)
    if count is not None and needed > limit:
        print(
            f"too many clients: {count:,} need a limit of {needed:,} open descriptors, "
            f"and the hard limit (ulimit -Hn) is {limit:,}, "
            f"enough for {max(0, limit - RESERVED_DESCRIPTORS):,} clients",
            file=sys.stderr,
        )
        return 2
    try:
        server = EchoServer(arguments.host, port)
    except OSError as error:
        print(f"cannot listen on {arguments.host}:{port}: {error}", file=sys.stderr)
        return 1
    with catch_signals() as signals:
        if count is None:
            return serve(server, signals)
        return serve_clients(server, signals, count, arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
