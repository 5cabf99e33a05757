"""An asyncio echo server with its clients, in one event loop over one selector."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from selectors import BaseSelector
from time import thread_time

from measuring import Timed

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


async def _connected(count: int) -> tuple[asyncio.AbstractServer, list[_Client]]:
    server = await asyncio.start_server(_echo, _HOST, 0)
    port = server.sockets[0].getsockname()[1]
    return server, [await asyncio.open_connection(_HOST, port) for _ in range(count)]


async def _disconnect(server: asyncio.AbstractServer, clients: list[_Client]) -> None:
    server.close()
    for _, writer in clients:
        writer.close()
    # Those of the server end as their clients are gone.
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


@contextmanager
def echoing(selector: BaseSelector, count: int) -> Iterator[Timed]:
    """Run a server and so many clients; a call is one round trip of all clients at a time."""
    loop = asyncio.SelectorEventLoop(selector)
    server, clients = loop.run_until_complete(_connected(count))

    def timed(number: int) -> float:
        begun = thread_time()
        loop.run_until_complete(_send_all(clients, number))
        return thread_time() - begun

    yield timed
    loop.run_until_complete(_disconnect(server, clients))
    loop.close()
