"""Workloads in which every byte is accounted for. Each is a coroutine function that takes a Report.

Payloads are words that count up from a start of their own, so that a doubled, lost, reordered or foreign byte shows.
What a receiver got must be the beginning of what was sent, and all of it where nobody was told of an error.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import tempfile
import threading
from typing import Any

from aioqemu_loop import files

CONNECTIONS = 5  # as many as it takes for output to be gathered
BLOCKS = (64, 3_000, 30_000, 160_000)


def words(start: int, size: int) -> bytes:
    """`size` bytes, a multiple of 8."""
    return array.array("Q", range(start << 32, (start << 32) + size // 8)).tobytes()


class Report:
    """What one run has to say: errors that somebody was told of, and what went wrong."""

    def __init__(self, tls: tuple[Any, Any] | None = None) -> None:
        self.errors: list[BaseException] = []
        self.wrong: list[str] = []
        self.tls = tls

    def told(self, exc: BaseException | None) -> None:
        if exc is not None:
            self.errors.append(exc.with_traceback(None))  # whose frames hold what is to be closed

    def handler(self, loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        """The loop's exception handler."""
        if "exception" in details:
            self.told(details["exception"])
        else:
            self.wrong.append(f"told the exception handler: {details}")

    def check(self, what: str, got: bytes, sent: bytes, excused: bool = False) -> None:
        if got == sent:
            return
        if not sent.startswith(got):
            at = next((i for i, (a, b) in enumerate(zip(got, sent, strict=False)) if a != b), min(len(got), len(sent)))
            self.wrong.append(f"{what}: {len(got)} bytes, wrong from {at} of {len(sent)} on")
        elif not excused and not self.errors:
            self.wrong.append(f"{what}: {len(got)} of {len(sent)} bytes, and nobody was told why")


class End(asyncio.Protocol):
    """Counts what happens to one end of a connection."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.made = self.lost = 0
        self.got = bytearray()
        self.over = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.made += 1
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.report.told(exc)
        self.lost += 1
        if self.lost > 1 or self.made != 1:
            self.report.wrong.append(f"connection_made {self.made} times, connection_lost {self.lost}")
        elif not self.over.done():
            self.over.set_result(None)


class Echo(End):
    def data_received(self, data: bytes) -> None:
        if self.lost:
            self.report.wrong.append("data after connection_lost")
        self.transport.write(data)


class Talker(End):
    """Sends block after block, each when the one before has come back, then ends its side."""

    def __init__(self, report: Report, start: int) -> None:
        super().__init__(report)
        self.blocks = [words(start * 8 + i, size // 8 * 8) for i, size in enumerate(BLOCKS)]
        self.sent = b""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.next_block()

    def next_block(self) -> None:
        if self.blocks:
            block = self.blocks.pop(0)
            self.sent += block
            self.transport.writelines([block[:16], memoryview(block)[16:]])
        elif self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError as exc:  # of shutdown()
                self.report.told(exc)
                self.transport.abort()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.got += data
        if len(self.got) == len(self.sent) and not self.transport.is_closing():
            self.next_block()


class BufferedMixin(asyncio.BufferedProtocol):
    """Receives into memory of its own."""

    buffer = None

    def get_buffer(self, sizehint: int) -> Any:
        self.buffer = self.buffer or bytearray(20_000)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.buffer[:count]))


class BufferedEcho(BufferedMixin, Echo):
    pass


class BufferedTalker(BufferedMixin, Talker):
    pass


async def talk(report: Report, unix: bool, echo: type[Echo], talker: type[Talker], tls: bool = False) -> None:
    loop = asyncio.get_running_loop()
    echoes: list[Echo] = []
    talkers = [talker(report, i) for i in range(CONNECTIONS)]
    server_tls, client_tls = report.tls if tls else (None, None)

    def make() -> Echo:
        echoes.append(echo(report))
        return echoes[-1]

    def connect(end: Talker) -> Any:
        if unix:
            return loop.create_unix_connection(
                lambda: end, path, ssl=client_tls, server_hostname="localhost" if tls else None
            )
        return loop.create_connection(
            lambda: end, *address, ssl=client_tls, server_hostname="localhost" if tls else None
        )

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        if unix:
            server = await loop.create_unix_server(make, path, ssl=server_tls)
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            address = listener.getsockname()
            server = await loop.create_server(make, sock=listener, ssl=server_tls)
        try:
            for result in await asyncio.gather(*map(connect, talkers), return_exceptions=True):
                if isinstance(result, BaseException):
                    report.told(result)
            for end in talkers:
                if end.made:
                    await end.over
            for other in echoes:
                if other.made:
                    await other.over
        finally:
            server.close()
            await asyncio.sleep(0)
    for end in talkers:
        report.check(
            "echo", bytes(end.got), end.sent, sum(echo.made for echo in echoes) < sum(end.made for end in talkers)
        )
    for end in (*talkers, *echoes):
        if end.made != end.lost:
            report.wrong.append(f"{type(end).__name__}: connection_made {end.made} times, connection_lost {end.lost}")


async def tcp(report: Report) -> None:
    await talk(report, False, Echo, Talker)


async def unix(report: Report) -> None:
    await talk(report, True, Echo, Talker)


async def buffered(report: Report) -> None:
    await talk(report, False, BufferedEcho, BufferedTalker)


async def tls(report: Report) -> None:
    await talk(report, False, Echo, Talker, tls=True)


async def streams(report: Report) -> None:
    """asyncio's streams, with backpressure."""
    sent = words(1, 400_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(50_000):
                writer.write(data)
                await writer.drain()
        except OSError as exc:
            report.told(exc)
        writer.close()
        try:
            await writer.wait_closed()
        except OSError as exc:
            report.told(exc)

    async def write(writer: asyncio.StreamWriter) -> None:
        try:
            for i in range(0, len(sent), 40_000):
                writer.write(sent[i : i + 40_000])
                await writer.drain()
            writer.write_eof()
        except OSError as exc:
            report.told(exc)
            writer.transport.abort()

    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(serve, sock=listener)
    got = bytearray()
    try:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        sending = asyncio.ensure_future(write(writer))
        try:
            while data := await reader.read(30_000):
                got += data
        except OSError as exc:
            report.told(exc)
        writer.close()
        await sending
    finally:
        server.close()
    report.check("stream", bytes(got), sent)


async def sock(report: Report) -> None:
    """sock_accept, sock_connect, sock_recv, sock_recv_into, sock_sendall."""
    loop = asyncio.get_running_loop()
    sent = words(2, 300_000)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)

        async def serve() -> None:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                room = bytearray(20_000)
                while count := await loop.sock_recv_into(connection, room):
                    await loop.sock_sendall(connection, room[:count])

        async def write() -> None:
            await loop.sock_sendall(client, sent)
            client.shutdown(socket.SHUT_WR)

        got = bytearray()

        async def read() -> None:
            while data := await loop.sock_recv(client, 30_000):
                got.extend(data)

        tasks = [asyncio.ensure_future(serve())]
        try:
            await loop.sock_connect(client, listener.getsockname())
            tasks += [asyncio.ensure_future(write()), asyncio.ensure_future(read())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except OSError as exc:
            report.told(exc)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, OSError):
                report.told(result)
    report.check("sock", bytes(got), sent)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, report: Report, echo: bool) -> None:
        self.report, self.echo = report, echo
        self.got: list[int] = []
        self.news = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self.echo:
            self.transport.sendto(data, address)
        number = int.from_bytes(data[:8], "big")
        if data[8:] != words(number, 800):
            self.report.wrong.append(f"datagram {number} is damaged")
        self.got.append(number)
        self.news.set()

    def error_received(self, exc: OSError) -> None:
        self.report.told(exc)
        self.news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.report.told(exc)
        self.transport = None
        self.news.set()


async def udp(report: Report) -> None:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Datagrams(report, True), local_addr=("127.0.0.1", 0)
    )
    address = transport.get_extra_info("sockname")
    if address is None:  # getsockname() failed, which asyncio says in no other way
        transport.abort()
        return
    _, client = await loop.create_datagram_endpoint(lambda: Datagrams(report, False), remote_addr=address)
    count = 40
    for number in range(count):
        if client.transport is None or server.transport is None:
            break
        client.news.clear()
        client.transport.sendto(number.to_bytes(8, "big") + words(number, 800))
        while number % 4 == 3 and client.transport and len(client.got) <= number and not report.errors:
            server.news.clear()
            await asyncio.wait(
                [asyncio.ensure_future(end.news.wait()) for end in (client, server)], return_when="FIRST_COMPLETED"
            )
    for end in (client, server):
        if end.transport is not None:
            end.transport.abort()
    if client.got != sorted(set(client.got)):
        report.wrong.append(f"datagrams doubled or out of order: {client.got}")
    if len(client.got) < count and not report.errors:
        report.wrong.append(f"{len(client.got)} of {count} datagrams, and nobody was told why")


async def pipes(report: Report) -> None:
    loop = asyncio.get_running_loop()
    sent = words(3, 300_000)
    read_fd, write_fd = os.pipe()
    reading: End
    with open(read_fd, "rb", 0) as read_end, open(write_fd, "wb", 0) as write_end:

        class Reader(End):
            def data_received(self, data: bytes) -> None:
                self.got += data

        try:
            transport, reading = await loop.connect_read_pipe(lambda: Reader(report), read_end)
        except OSError as exc:
            report.told(exc)
            return
        try:
            output, writing = await loop.connect_write_pipe(lambda: End(report), write_end)
        except OSError as exc:
            report.told(exc)
            transport.close()
            await reading.over
            return
        for i in range(0, len(sent), 30_000):
            output.write(sent[i : i + 30_000])
        output.close()
        await writing.over
        await reading.over
    report.check("pipe", bytes(reading.got), sent)


async def subprocess(report: Report) -> None:
    sent = words(4, 100_000)
    try:
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    except OSError as exc:
        report.told(exc)
        return
    got, _ = await child.communicate(sent)  # takes no notice of what stdin's pipe ended with
    try:
        await child.stdin.wait_closed()
    except OSError as exc:
        report.told(exc)
    if child.returncode != 0:
        report.wrong.append(f"cat ended with {child.returncode}")
    report.check("child", got, sent)


async def file_io(report: Report) -> None:
    sent = words(5, 200_000)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/file"
        try:
            async with files.open(path, "wb", buffering=0) as file:
                done = 0
                while done < len(sent):
                    done += await file.write(sent[done : done + 70_000]) or 0  # None: not now, as io has it
                await file.fsync()
            first = b""
            async with files.open(path, "rb") as file:
                while len(first) < 1000:
                    first += await file.pread(1000 - len(first), 500 + len(first))
                got = await file.read()
            report.check("pread", first, sent[500:1500])
            report.check("file", got, sent)
        except OSError as exc:
            report.told(exc)
        with open(path, "rb") if os.path.exists(path) else open(os.devnull, "rb") as written:
            report.check("written", written.read(), sent)


async def clockwork(report: Report) -> None:
    """Timers, call_soon, call_soon_threadsafe from another thread, readers and writers by add_reader and add_writer."""
    loop = asyncio.get_running_loop()
    ran: list[str] = []
    over = loop.create_future()
    turns = 30
    turn = threading.Semaphore(0)

    def other() -> None:
        for _ in range(turns):
            turn.acquire()
            try:
                loop.call_soon_threadsafe(came)
            except OSError as exc:  # it is queued, but the loop was not woken
                report.told(exc)
                loop.call_soon_threadsafe(lambda: None)

    def came() -> None:
        ran.append("thread")
        turn.release()
        if ran.count("thread") == turns and not over.done():
            over.set_result(None)

    for i in range(20):
        loop.call_later(i % 7 / 1000, ran.append, f"timer {i}")
    thread = threading.Thread(target=other)
    thread.start()
    turn.release()
    await over
    thread.join()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        sent, got = words(6, 100_000), bytearray()
        place = 0
        done = loop.create_future()

        def write() -> None:
            nonlocal place
            place += left.send(sent[place : place + 20_000])
            if place == len(sent):
                loop.remove_writer(left)
                try:
                    left.shutdown(socket.SHUT_WR)
                except OSError as exc:
                    report.told(exc)
                    left.close()

        def read() -> None:
            data = right.recv(10_000)
            got.extend(data)
            if not data:
                done.set_result(None)
                loop.remove_reader(right)

        try:
            loop.add_reader(right, read)
            loop.add_writer(left, write)
        except OSError as exc:
            report.told(exc)
        else:
            await done
            report.check("reader", bytes(got), sent)
        loop.remove_reader(right)
        if left.fileno() >= 0:
            loop.remove_writer(left)
    await asyncio.sleep(0.007)
    if len(ran) != turns + 20 or len(set(ran)) != 21:
        report.wrong.append(f"callbacks lost or doubled: {ran}")


async def sendfile(report: Report) -> None:
    loop = asyncio.get_running_loop()
    sent = words(7, 300_000)

    class Reader(End):
        def data_received(self, data: bytes) -> None:
            self.got += data

    ends: list[Reader] = []

    def make() -> Reader:
        ends.append(Reader(report))
        return ends[-1]

    listener = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(make, sock=listener)
    sender = End(report)
    with tempfile.TemporaryFile() as file:
        file.write(sent)
        file.flush()
        try:
            transport, _ = await loop.create_connection(lambda: sender, *listener.getsockname())
            transport.write(sent[:1000])
            await loop.sendfile(transport, file, 1000)
            transport.close()
        except (OSError, RuntimeError) as exc:  # RuntimeError: it is closing
            if isinstance(exc, OSError):
                report.told(exc)
            if sender.transport:
                sender.transport.abort()
        if sender.made:
            await sender.over
        for end in ends:
            if end.made:
                await end.over
        server.close()
        await asyncio.sleep(0)
    if ends:
        report.check("sendfile", bytes(ends[0].got), sent)


SCENARIOS = {
    function.__name__: function
    for function in (tcp, unix, buffered, tls, streams, sock, udp, pipes, subprocess, file_io, clockwork, sendfile)
}
