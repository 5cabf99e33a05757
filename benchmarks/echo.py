"""Round trips with asyncio, with the clients and the server in one event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from selectors import BaseSelector
from time import thread_time
from typing import Any, Callable

from timing import Timed

_HOST = "127.0.0.1"
_MESSAGE = b"x" * 1024

_Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def _send(client: _Client, number: int) -> None:
    reader, writer = client
    for _ in range(number):
        writer.write(_MESSAGE)
        await reader.readexactly(len(_MESSAGE))


async def _send_all(clients: list[_Client], number: int) -> None:
    await asyncio.gather(*(_send(client, number) for client in clients))


async def _send_by_new_connections(port: int, number: int) -> None:
    for _ in range(number):
        client = await asyncio.open_connection(_HOST, port)
        await _send(client, 1)
        client[1].close()
        await client[1].wait_closed()


async def _send_by_sockets(client: socket.socket, server: socket.socket, number: int) -> None:
    loop = asyncio.get_running_loop()

    async def answer() -> None:
        for _ in range(number):
            await loop.sock_sendall(server, await loop.sock_recv(server, len(_MESSAGE)))

    answering = asyncio.create_task(answer())
    for _ in range(number):
        await loop.sock_sendall(client, _MESSAGE)
        await loop.sock_recv(client, len(_MESSAGE))
    await answering


async def _serving() -> tuple[asyncio.AbstractServer, int]:
    server = await asyncio.start_server(_echo, _HOST, 0)
    return server, server.sockets[0].getsockname()[1]


async def _connected(port: int, count: int) -> list[_Client]:
    return [await asyncio.open_connection(_HOST, port) for _ in range(count)]


async def _disconnect(server: asyncio.AbstractServer, clients: list[_Client]) -> None:
    server.close()
    for _, writer in clients:
        writer.close()
    # The server's tasks end when their clients have disconnected.
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


def _timed(loop: asyncio.AbstractEventLoop, sending: Callable[..., Any], *arguments: Any) -> Timed:
    """Return a subject that runs a coroutine function, passing the number of round trips last."""

    def timed(number: int) -> float:
        start = thread_time()
        loop.run_until_complete(sending(*arguments, number))
        return thread_time() - start

    return timed


@contextmanager
def _by_streams(selector: BaseSelector, count: int) -> Iterator[Timed]:
    """Yield a subject in which all clients, which stay connected, make a round trip at a time."""
    loop = asyncio.SelectorEventLoop(selector)
    server, port = loop.run_until_complete(_serving())
    clients = loop.run_until_complete(_connected(port, count))
    yield _timed(loop, _send_all, clients)
    loop.run_until_complete(_disconnect(server, clients))
    loop.close()


@contextmanager
def _by_new_connections(selector: BaseSelector, _: int) -> Iterator[Timed]:
    loop = asyncio.SelectorEventLoop(selector)
    server, port = loop.run_until_complete(_serving())
    yield _timed(loop, _send_by_new_connections, port)
    loop.run_until_complete(_disconnect(server, []))
    loop.close()


@contextmanager
def _by_sockets(selector: BaseSelector, _: int) -> Iterator[Timed]:
    loop = asyncio.SelectorEventLoop(selector)
    client, server = socket.socketpair()
    with client, server:
        client.setblocking(False)
        server.setblocking(False)
        yield _timed(loop, _send_by_sockets, client, server)
    loop.close()


# The keys are names of workloads. Each function takes a selector and the number of clients.
ROUND_TRIPS: dict[str, Callable[[BaseSelector, int], AbstractContextManager[Timed]]] = {
    "echo": _by_streams,
    "new connection": _by_new_connections,
    "sock_sendall and sock_recv": _by_sockets,
}
