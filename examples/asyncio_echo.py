"""An echo server with asyncio streams, in an event loop over pypoll.PollSelector.

    python examples/asyncio_echo.py                   serve until Ctrl-C; try `nc 127.0.0.1 7007`
    python examples/asyncio_echo.py --clients 200     check it with 200 clients in the same loop

Exit status: 0 if the server was stopped, or if every client got every byte back; 1 after an error;
2 if an argument is invalid or there are too many clients.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import selectors
import signal
import sys

import pypoll

CHUNK = 64 * 1024  # the largest read
MESSAGE = 1024  # what a client sends before it waits for the answer
BACKLOG = 1024  # the system limits it to its own maximum
HOST = "127.0.0.1"
RESERVED_DESCRIPTORS = 32  # standard streams, listener, the loop's own, and some to spare

SELECTORS: dict[str, type[selectors.BaseSelector]] = {
    "pypoll": pypoll.PollSelector,
    "poll": selectors.PollSelector,
}
if hasattr(selectors, "EpollSelector"):
    SELECTORS["epoll"] = selectors.EpollSelector


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what one client sends, until it closes the connection."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except OSError:
        pass  # the client is gone
    except asyncio.CancelledError:
        writer.transport.abort()  # the client may never read the rest of the output
        raise


async def check(port: int, stop: asyncio.Event) -> int:
    """Run one client until *stop* is set; return the number of messages that came back."""
    noise = os.urandom(2 * MESSAGE)
    count = 0
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        while not count or not stop.is_set():
            message = noise[count % MESSAGE :][:MESSAGE]
            writer.write(message)
            if await reader.readexactly(MESSAGE) != message:
                raise ValueError("a wrong byte came back")
            count += 1
    finally:
        writer.close()
    await writer.wait_closed()
    return count


async def load(port: int, stop: asyncio.Event, arguments: argparse.Namespace) -> int:
    """Run the clients, print the result, and return the exit status."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    loop.call_later(arguments.seconds, stop.set)
    clients = [check(port, stop) for _ in range(arguments.clients)]
    results = await asyncio.gather(*clients, return_exceptions=True)
    counts = [result for result in results if isinstance(result, int)]
    errors = {str(result) for result in results if isinstance(result, BaseException)}
    rate = sum(counts) / (loop.time() - begin)
    line = f"{arguments.selector}: {len(counts):,} of {len(clients):,} clients served"
    line += f", {rate:,.0f} messages/s, {rate * MESSAGE / 1e6:,.1f} MB/s"
    print("; ".join([line, *sorted(errors)]), flush=True)
    return 1 if errors else 0


async def serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal arrives or the clients are done, and return the exit status."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(echo(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    try:
        server = await asyncio.start_server(connected, HOST, arguments.port, backlog=BACKLOG)
    except OSError as error:
        print(f"cannot listen on {HOST}:{arguments.port}: {error}", file=sys.stderr)
        return 1
    port = server.sockets[0].getsockname()[1]
    print(f"echo server on {HOST}:{port}, over {arguments.selector}", flush=True)
    status = 0
    if arguments.clients is None:
        await stop.wait()
        print("stopped", flush=True)
    else:
        status = await load(port, stop, arguments)
    server.close()
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)
    await server.wait_closed()
    return status


def raise_descriptor_limit(needed: int) -> int:
    """Raise the soft limit of open descriptors as far as needed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main() -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description="asyncio echo server over pypoll.PollSelector")
    parser.add_argument("--port", type=int, help="default: 7007, with --clients any free port")
    parser.add_argument("--clients", type=int, metavar="N", help="check the server with N clients")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long (default: 3)")
    parser.add_argument("--selector", choices=SELECTORS, default="pypoll", help="default: pypoll")
    arguments = parser.parse_args()
    if arguments.port is None:
        arguments.port = 7007 if arguments.clients is None else 0
    if not 0 <= arguments.port <= 65535:
        parser.error("--port must be from 0 to 65535")
    if arguments.clients is not None and arguments.clients < 1:
        parser.error("--clients must be at least 1")
    if not 0 < arguments.seconds <= 86400:
        parser.error("--seconds must be greater than 0, and at most 86400, which is a day")

    # Both ends of each connection are in this process.
    needed = 2 * (arguments.clients or 0) + RESERVED_DESCRIPTORS
    limit = raise_descriptor_limit(needed)
    if 0 <= limit < needed:
        print(
            f"too many clients: {arguments.clients:,} need a limit of {needed:,} open descriptors, "
            f"and the hard limit (ulimit -Hn) is {limit:,}, "
            f"enough for {max(0, (limit - RESERVED_DESCRIPTORS) // 2):,} clients",
            file=sys.stderr,
        )
        return 2

    def new_loop() -> asyncio.SelectorEventLoop:
        return asyncio.SelectorEventLoop(SELECTORS[arguments.selector]())

    if sys.version_info >= (3, 12):
        return asyncio.run(serve(arguments), loop_factory=new_loop)
    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
