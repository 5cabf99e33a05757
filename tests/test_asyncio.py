"""asyncio over PollSelector: an event loop at real work."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import os
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

import pypoll
from pypoll.library import lib

with contextlib.suppress(ImportError):  # which a Python may be built without
    import ssl

pytestmark = pytest.mark.native

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "asyncio_echo.py"
# The example is to find the pypoll that these tests find.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
# Only so that nothing hangs.
PATIENCE = 30
# A loop that is awake makes the calls that are due within this.
RESOLUTION = time.get_clock_info("monotonic").resolution
CLIENTS = 300
PATTERN = random.Random(0).randbytes(8 << 20)

T = TypeVar("T")
Kill = Callable[[int], None]

needs_ppoll = pytest.mark.skipif(
    not lib.pypoll_has_ppoll(), reason="built without ppoll(2): time is rounded up to milliseconds"
)


class Selector(pypoll.PollSelector):
    """PollSelector that tells when it begins to wait without a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = threading.Event()

    def select(self, timeout: Any = None) -> Any:
        if timeout is None:
            self.idle.set()
        return super().select(timeout)


class Running(NamedTuple):
    loop: asyncio.SelectorEventLoop
    selector: Selector

    def complete(self, main: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(main, PATIENCE))

    def forever(self) -> None:
        """Run the loop until it is stopped, without a timer that would wake it meanwhile."""
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)
            self.loop.call_soon_threadsafe(self.loop.stop)

        patience = threading.Timer(PATIENCE, give_up)
        patience.start()
        self.loop.run_forever()
        patience.cancel()
        patience.join()
        assert not late


@pytest.fixture
def running() -> Iterator[Running]:
    selector = Selector()
    loop = asyncio.SelectorEventLoop(selector)
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    try:
        yield Running(loop, selector)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
        # What was left open is to be reported with the test that left it.
        gc.collect()
    assert reported == []


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for both ends of all clients."""
    needed = 2 * CLIENTS + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip("the hard limit of descriptors is too low")
    enough = soft == resource.RLIM_INFINITY or soft >= needed
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft if enough else needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a new certificate for localhost, and its key."""
    if "ssl" not in globals():
        pytest.skip("this Python has no ssl module")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command to make a certificate with")
    path = tmp_path_factory.mktemp("certificate")
    key, certificate, both = path / "key.pem", path / "certificate.pem", path / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def send(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(message)
    await writer.drain()


async def assert_echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes
) -> None:
    _, received = await asyncio.gather(send(writer, message), reader.readexactly(len(message)))
    assert received == message


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def receive(sock: socket.socket, length: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < length:
        chunk = await loop.sock_recv(sock, 1 << 20)
        assert chunk, f"end of stream after {len(received)} of {length} bytes"
        received += chunk
    return bytes(received)


def in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_closing_the_loop_closes_the_selector() -> None:
    selector = pypoll.PollSelector()
    loop = asyncio.SelectorEventLoop(selector)
    assert len(selector.get_map()) == 1  # the loop's socket to wake itself
    loop.close()
    assert selector.get_map() is None


@pytest.mark.usefixtures("descriptors")
def test_hundreds_of_stream_clients_get_every_byte_back(running: Running) -> None:
    async def client(number: int, port: int, connected: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await connected.wait()
        for step in range(10):
            start = 1000 * number + step
            await assert_echo(reader, writer, PATTERN[start : start + 10_000])
        await end(writer)

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=CLIENTS)
        connected = asyncio.Event()
        clients = [
            asyncio.ensure_future(client(number, port_of(server), connected))
            for number in range(CLIENTS)
        ]
        # The socket that wakes the loop, the listener, and both ends of each client.
        while len(running.selector.get_map()) < 2 + 2 * CLIENTS:
            await asyncio.sleep(0.001)
        connected.set()
        await asyncio.gather(*clients)
        server.close()
        await server.wait_closed()

    running.complete(main())


def test_a_stream_whose_reader_is_slow_is_paused_and_loses_nothing(running: Running) -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        sending = asyncio.ensure_future(send(writer, PATTERN))
        await asyncio.sleep(0.1)
        received = bytearray()
        while len(received) < len(PATTERN):
            received += await reader.read(1 << 16)
            await asyncio.sleep(0)
        await sending
        assert received == PATTERN
        await end(writer)
        server.close()
        await server.wait_closed()

    running.complete(main())


def test_a_subprocess_takes_and_gives_megabytes_by_its_pipes(running: Running) -> None:
    code = (
        "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer); "
        "print('done', end='', file=sys.stderr); sys.exit(7)"
    )

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate(PATTERN)
        assert (process.returncode, errors) == (7, b"done")
        assert output == PATTERN

    running.complete(main())


def test_subprocesses_beside_each_other_give_each_its_own_output(running: Running) -> None:
    async def answer(number: int) -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            f"read line; echo $line-{number}; exit {number}",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate(b"line\n")
        return process.returncode, output

    async def main() -> None:
        answers = await asyncio.gather(*map(answer, range(20)))
        assert answers == [(number, f"line-{number}\n".encode()) for number in range(20)]

    running.complete(main())


def test_a_subprocess_that_is_terminated_is_reaped(running: Running) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "3600", stdout=subprocess.PIPE)
        process.terminate()
        output, _ = await process.communicate()
        assert (process.returncode, output) == (-signal.SIGTERM, b"")

    running.complete(main())


def to_main_thread(number: int) -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, number)


def to_this_thread(number: int) -> None:
    signal.pthread_kill(threading.get_ident(), number)


def to_this_process(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("kill", [to_this_process, to_main_thread])
def test_a_signal_handler_of_the_loop_is_called(running: Running, kill: Kill) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[str] = asyncio.Queue()
        loop.add_signal_handler(signal.SIGUSR1, came.put_nowait, "one")
        loop.add_signal_handler(signal.SIGUSR2, came.put_nowait, "two")
        for _ in range(100):
            kill(signal.SIGUSR1)
            assert await came.get() == "one"
            kill(signal.SIGUSR2)
            assert await came.get() == "two"
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert loop.remove_signal_handler(signal.SIGUSR2)
        assert came.empty()

    running.complete(main())


@pytest.mark.parametrize("kill", [to_this_process, to_main_thread, to_this_thread])
def test_a_signal_wakes_a_loop_that_is_idle_in_select(running: Running, kill: Kill) -> None:
    loop, selector = running
    came: list[int] = []

    def handle() -> None:
        came.append(signal.SIGUSR1)
        loop.stop()

    def strike() -> None:
        if selector.idle.wait(PATIENCE):
            time.sleep(0.05)
            kill(signal.SIGUSR1)

    loop.add_signal_handler(signal.SIGUSR1, handle)
    for count in range(1, 6):
        selector.idle.clear()
        thread = in_thread(strike)
        running.forever()
        thread.join()
        assert came == [signal.SIGUSR1] * count


def test_a_timer_is_not_put_off_by_signals(running: Running) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        came: list[float] = []
        loop.add_signal_handler(signal.SIGALRM, lambda: came.append(loop.time()))
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        try:
            begin = loop.time()
            await asyncio.sleep(0.25)
            elapsed = loop.time() - begin
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert elapsed >= 0.25 - RESOLUTION
        assert came

    running.complete(main())


def test_calls_from_many_threads_are_all_made_and_in_order(running: Running) -> None:
    threads, calls = 8, 2000
    loop = running.loop
    made: list[list[int]] = [[] for _ in range(threads)]

    def note(number: int, call: int) -> None:
        made[number].append(call)
        if sum(map(len, made)) == threads * calls:
            loop.stop()

    def ask(number: int) -> None:
        for call in range(calls):
            loop.call_soon_threadsafe(note, number, call)

    asking = [in_thread(functools.partial(ask, number)) for number in range(threads)]
    running.forever()
    for thread in asking:
        thread.join()
    assert made == [list(range(calls))] * threads


def test_each_call_from_a_thread_wakes_an_idle_loop(running: Running) -> None:
    loop, selector = running
    calls = 1000
    woken: list[bool] = []

    def ask() -> None:
        for _ in range(calls):
            # A wake-up that is lost leaves the loop idle, and this thread waiting.
            made = threading.Event()
            selector.idle.wait(PATIENCE)
            selector.idle.clear()
            loop.call_soon_threadsafe(made.set)
            woken.append(made.wait(PATIENCE))
            if not woken[-1]:
                break
        loop.call_soon_threadsafe(loop.stop)

    thread = in_thread(ask)
    running.forever()
    thread.join()
    assert woken == [True] * calls


def test_work_in_an_executor_comes_back_to_the_loop(running: Running) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        squares = [loop.run_in_executor(None, pow, number, 2) for number in range(500)]
        assert await asyncio.gather(*squares) == [number**2 for number in range(500)]

    running.complete(main())


@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (12345, 5 << 20)], ids=["whole file", "part of a file"]
)
def test_sock_sendfile_sends_megabytes(
    running: Running, tmp_path: Path, offset: int, count: int | None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(PATTERN)
    expected = PATTERN[offset:] if count is None else PATTERN[offset : offset + count]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            server, _ = await accepting
            with server, path.open("rb") as file:
                receiving = asyncio.ensure_future(receive(server, len(expected)))
                sent = await loop.sock_sendfile(
                    client, file, offset, count, fallback=not hasattr(os, "sendfile")
                )
                assert sent == len(expected)
                assert file.tell() == offset + sent
                assert await receiving == expected

    running.complete(main())


def test_tls_streams_carry_megabytes_both_ways(running: Running, certificate: Path) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(str(certificate))  # PyPy takes no Path
    trusting = ssl.create_default_context(cafile=str(certificate))

    async def client(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
        )
        assert writer.get_extra_info("cipher") is not None
        await assert_echo(reader, writer, PATTERN[number << 18 : (number << 18) + (1 << 20)])
        await end(writer)

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=served)
        await asyncio.gather(*(client(port_of(server), number) for number in range(5)))
        server.close()
        await server.wait_closed()

    running.complete(main())


def test_a_tls_certificate_that_is_not_trusted_is_refused(
    running: Running, certificate: Path
) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(str(certificate))  # PyPy takes no Path

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=served)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                "127.0.0.1",
                port_of(server),
                ssl=ssl.create_default_context(),
                server_hostname="localhost",
            )
        server.close()
        await server.wait_closed()

    running.complete(main())


def test_a_unix_socket_server_serves(running: Running) -> None:
    async def main(path: str) -> None:
        async def client(number: int) -> None:
            reader, writer = await asyncio.open_unix_connection(path)
            await assert_echo(reader, writer, PATTERN[number : number + 500_000])
            await end(writer)

        server = await asyncio.start_unix_server(echo, path)
        await asyncio.gather(*map(client, range(20)))
        server.close()
        await server.wait_closed()

    # Not tmp_path, which is too long for the address of a UNIX socket on macOS.
    with tempfile.TemporaryDirectory() as directory:
        running.complete(main(os.path.join(directory, "socket")))


def test_datagrams_go_both_ways(running: Running) -> None:
    class Answering(asyncio.DatagramProtocol):
        transport: asyncio.DatagramTransport

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(data[::-1], address)

    class Asking(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.answers: asyncio.Queue[bytes] = asyncio.Queue()

        def datagram_received(self, data: bytes, _address: Any) -> None:
            self.answers.put_nowait(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Answering, ("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        client, asking = await loop.create_datagram_endpoint(Asking, remote_addr=address)
        for number in range(200):
            client.sendto(b"%d" % number)
            assert await asking.answers.get() == (b"%d" % number)[::-1]
        client.close()
        server.close()
        await asyncio.sleep(0)

    running.complete(main())


def test_a_cancelled_read_leaves_nothing_registered(
    running: Running, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    registered = running.selector.get_map()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = len(registered)
        reading = asyncio.ensure_future(loop.sock_recv(one, 100))
        await asyncio.sleep(0.01)
        assert one in registered
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert one not in registered
        assert len(registered) == before
        await loop.sock_sendall(other, b"for the next")
        assert await loop.sock_recv(one, 100) == b"for the next"

    running.complete(main())


def test_a_cancelled_write_leaves_nothing_registered(
    running: Running, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    registered = running.selector.get_map()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        writing = asyncio.ensure_future(loop.sock_sendall(one, PATTERN))
        await asyncio.sleep(0.01)
        assert one in registered
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert one not in registered
        assert PATTERN.startswith(await loop.sock_recv(other, 1000))

    running.complete(main())


def test_of_a_socket_read_and_written_one_can_be_cancelled(
    running: Running, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading = asyncio.ensure_future(loop.sock_recv(one, 100))
        writing = asyncio.ensure_future(loop.sock_sendall(one, PATTERN))
        await asyncio.sleep(0.01)
        reading.cancel()
        received = await receive(other, len(PATTERN))
        await writing
        assert received == PATTERN
        assert reading.cancelled()

    running.complete(main())


def test_a_read_that_times_out_can_be_repeated(running: Running) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        for _ in range(5):
            begin = loop.time()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readexactly(1), 0.0105)
            assert loop.time() - begin >= 0.0105 - RESOLUTION
            await assert_echo(reader, writer, b"still there")
        await end(writer)
        server.close()
        await server.wait_closed()

    running.complete(main())


def test_a_thousand_cancelled_tasks_all_end(running: Running) -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(1000)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    running.complete(main())


def time_until_call(loop: asyncio.AbstractEventLoop, delay: float) -> float:
    """Return after how long call_later() makes a call, which is never before its delay."""
    fired: list[float] = []

    def fire() -> None:
        fired.append(loop.time())
        loop.stop()

    begin = loop.time()
    handle = loop.call_later(delay, fire)
    loop.run_forever()
    # Nothing but its time ends the wait, so that it is not early by the resolution either.
    assert fired[0] >= handle.when() >= begin + delay
    return fired[0] - begin


@pytest.mark.parametrize("delay", [1e-9, 0.0002, 0.0015, 0.01])
def test_call_later_is_never_early(running: Running, delay: float) -> None:
    for _ in range(20):
        time_until_call(running.loop, delay)


@needs_ppoll
def test_call_later_of_a_fifth_of_a_millisecond_takes_less_than_a_whole_one(
    running: Running,
) -> None:
    medians: list[float] = []
    # What else the machine does may hold up one try or another.
    while len(medians) < 50 and not (medians and medians[-1] < 0.001):
        medians.append(statistics.median(time_until_call(running.loop, 0.0002) for _ in range(50)))
    assert min(medians) < 0.001, medians


def fresh_loop() -> asyncio.SelectorEventLoop:
    return asyncio.SelectorEventLoop(pypoll.PollSelector())


async def served_over_pypoll() -> str:
    loop = asyncio.get_running_loop()
    assert isinstance(loop._selector, pypoll.PollSelector)  # type: ignore[attr-defined]
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    await assert_echo(reader, writer, PATTERN[:100_000])
    await end(writer)
    server.close()
    await server.wait_closed()
    return "served"


def test_asyncio_run_takes_it_as_loop_factory() -> None:
    if sys.version_info < (3, 12):
        pytest.skip("asyncio.run() has loop_factory from Python 3.12 on")
    main = asyncio.wait_for(served_over_pypoll(), PATIENCE)
    assert asyncio.run(main, loop_factory=fresh_loop) == "served"


def test_asyncio_runner_takes_it_as_loop_factory() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner is new in Python 3.11")
    with asyncio.Runner(loop_factory=fresh_loop) as runner:
        for _ in range(3):
            main = asyncio.wait_for(served_over_pypoll(), PATIENCE)
            assert runner.run(main) == "served"


def test_sigint_ends_a_runner_that_is_idle_in_select() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner is new in Python 3.11")
    selector = Selector()
    ended: list[str] = []

    async def main() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cleanly")

    def strike() -> None:
        # Again, should it come between the last look for signals and the system call.
        while selector.idle.wait(PATIENCE) and not ended:
            time.sleep(0.05)
            to_this_process(signal.SIGINT)
            time.sleep(1)

    # A shell ignores it for what it runs in the background, and then so does Python.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = in_thread(strike)
    runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector))
    with runner, pytest.raises(KeyboardInterrupt):
        runner.run(main())
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert ended == ["cleanly"]


def example(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *arguments],
        env=ENVIRONMENT,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("selector", ["pypoll", "poll", "epoll"])
def test_the_example_serves_its_clients(tmp_path: Path, selector: str) -> None:
    if selector == "epoll" and sys.platform != "linux":
        pytest.skip("epoll is of Linux")
    # Without the option it is pypoll, the point of the example.
    options = [] if selector == "pypoll" else ["--selector", selector]
    done = example(tmp_path, "--clients", "20", "--seconds", "0.3", *options)
    assert (done.returncode, done.stderr) == (0, "")
    first, last = done.stdout.splitlines()
    assert re.fullmatch(rf"echo server on 127\.0\.0\.1:\d+, over {selector}", first)
    figures = re.fullmatch(
        rf"{selector}: 20 of 20 clients served, ([\d,]+) messages/s, [\d,.]+ MB/s", last
    )
    assert figures is not None, last
    assert int(figures[1].replace(",", "")) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_example_stops_cleanly_at_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLE), "--port", "0"],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(",")[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5, socket.MSG_WAITALL) == b"hello"
            process.send_signal(number)
            assert sock.recv(1) == b""
            output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, "stopped\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clients", "0"],
        ["--clients", "many"],
        ["--clients", "1", "--seconds", "0"],
        ["--clients", "1", "--seconds", "nan"],
        ["--port", "65536"],
        ["--selector", "kqueue"],
        ["operand"],
    ],
    ids=" ".join,
)
def test_bad_arguments_of_the_example_are_a_usage_error(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = example(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


def test_the_example_names_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = example(tmp_path, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cannot listen on 127.0.0.1:{port}: ")


def test_the_example_sees_a_wrong_byte(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("asyncio_echo", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def answer_wrongly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunk = await reader.readexactly(module.MESSAGE)
        await send(writer, chunk[:-1] + bytes([chunk[-1] ^ 1]))
        await end(writer)

    monkeypatch.setattr(module, "echo", answer_wrongly)
    monkeypatch.setattr(sys, "argv", ["asyncio_echo.py", "--clients", "3", "--seconds", "0.1"])
    assert module.main() == 1
    output, errors = capsys.readouterr()
    assert "pypoll: 0 of 3 clients served" in output
    assert output.endswith("; a wrong byte came back\n")
    assert errors == ""
