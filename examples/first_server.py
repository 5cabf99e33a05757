"""A short but complete echo server with pypoll.Poll, to copy for your own.

python examples/first_server.py [PORT]      try `nc 127.0.0.1 7008`
"""

import contextlib
import socket
import sys

import pypoll

listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 7008))
listener.setblocking(False)
print(f"echo server on 127.0.0.1:{listener.getsockname()[1]}, until Ctrl-C", flush=True)
poller = pypoll.Poll()
poller.register(listener, pypoll.POLLIN)
clients: dict[int, tuple[socket.socket, bytearray]] = {}

while True:
    for fd, _event in poller.poll():
        if fd == listener.fileno():
            with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                client, _address = listener.accept()
                client.setblocking(False)
                clients[client.fileno()] = client, bytearray()
                poller.register(client, pypoll.POLLIN)
            continue
        client, output = clients[fd]
        try:
            if not output:  # receive only when all is sent, so a slow client costs one chunk
                output += client.recv(65536)
                if not output:
                    raise ConnectionError("the client has closed the connection")
            with contextlib.suppress(BlockingIOError):
                del output[: client.send(output)]
            poller.modify(fd, pypoll.POLLOUT if output else pypoll.POLLIN)
        except BlockingIOError:
            pass  # the event was out of date
        except OSError:
            poller.unregister(fd)
            clients.pop(fd)[0].close()
