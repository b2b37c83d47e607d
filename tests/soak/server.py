"""The soak's server: sends everything back, by every kind of protocol.

    python -m tests.soak.server FDMON FOLDER INTERVAL PATIENCE [SABOTAGE...]

Says in its first line where it listens, then what it has done every INTERVAL seconds. Connections may take PATIENCE
seconds to end. SABOTAGE is what it should do wrong, to try those who check: a name of SABOTAGES.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .reporting import Report, probe_timers, run, say_regularly, until_told_to_stop


class Server:
    """What the connections share."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.connections = 0
        self.alter: list[Callable[[bytes], bytes]] = []  # what to do to the next messages, by way of sabotage

    def arrived(self, count: int) -> None:
        self.report.done["bytes"] += count

    def altered(self, data: bytes) -> bytes:
        """What to send back for this: the same."""
        return self.alter.pop()(data) if self.alter else data

    def lost(self, exc: Exception | None) -> None:
        self.connections -= 1
        if exc is not None and not isinstance(exc, (ConnectionError, ssl.SSLError)):
            self.report.problem(f"connection_lost({exc!r})")


class Connected(asyncio.BaseProtocol):
    """A peer that does not read is not read from."""

    transport: Any

    def __init__(self, server: Server) -> None:
        self.server = server

    def connection_made(self, transport: Any) -> None:
        self.server.connections += 1
        self.transport = transport

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.lost(exc)


class Echo(Connected, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.server.arrived(len(data))
        self.transport.write(self.server.altered(data))


class BufferedEcho(Connected, asyncio.BufferedProtocol):
    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.buffer = bytearray(4096)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.server.arrived(count)
        self.transport.write(memoryview(self.buffer)[:count])


class DatagramEcho(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self.server = server

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.server.arrived(len(data))
        self.transport.sendto(data, address)

    def error_received(self, exc: OSError) -> None:
        if not isinstance(exc, ConnectionRefusedError):
            self.server.report.problem(f"error_received({exc!r})")


async def echo_stream(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server.connections += 1
    ended: Exception | None = None
    try:
        while data := await reader.read(20_000):
            server.arrived(len(data))
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except Exception as exc:
        writer.close()
        ended = exc
    server.lost(ended)


async def leak_fds(server: Server) -> None:
    for _ in range(200):
        for _ in range(10):
            os.dup(0)
        await asyncio.sleep(0.005)


async def leak_memory(server: Server) -> None:
    leaked = []
    while True:
        leaked.append(b"x" * 1_000_000)
        await asyncio.sleep(0.02)


async def hold_the_loop(server: Server) -> None:
    while True:
        time.sleep(0.1)
        await asyncio.sleep(0.03)  # so short that every sample shows it


async def raise_in_a_callback(server: Server) -> None:
    asyncio.get_running_loop().call_soon(divmod, 1, 0)


async def leave_a_task(server: Server) -> None:
    server.forgotten = asyncio.create_task(asyncio.sleep(1000), name="forgotten")  # type: ignore[attr-defined]


async def change_a_byte(server: Server) -> None:
    server.alter.append(lambda data: data[:-1] + bytes([data[-1] ^ 1]))


async def lose_a_byte(server: Server) -> None:
    server.alter.append(lambda data: data[:-1])


SABOTAGES: dict[str, Callable[[Server], Any]] = {
    function.__name__: function
    for function in (
        leak_fds,
        leak_memory,
        hold_the_loop,
        raise_in_a_callback,
        leave_a_task,
        change_a_byte,
        lose_a_byte,
    )
}


async def listen(server: Server, folder: Path) -> tuple[dict[str, Any], list[asyncio.AbstractServer], Any]:
    """(addresses by the kind of server, servers, the datagram server's transport)."""
    loop = asyncio.get_running_loop()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "both.pem")

    def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        return echo_stream(server, reader, writer)

    anywhere: dict[str, Any] = {"host": "0.0.0.0", "port": 0, "backlog": 4096}
    listening = {
        "echo": await loop.create_server(lambda: Echo(server), **anywhere),
        "buffered": await loop.create_server(lambda: BufferedEcho(server), **anywhere),
        "streams": await asyncio.start_server(streams, **anywhere),
        "tls": await loop.create_server(lambda: Echo(server), **anywhere, ssl=tls),
        "tls streams": await asyncio.start_server(streams, **anywhere, ssl=tls),
        "unix": await loop.create_unix_server(lambda: Echo(server), str(folder / "unix"), backlog=4096),
        "unix streams": await asyncio.start_unix_server(streams, str(folder / "unix streams"), backlog=4096),
    }
    addresses = {
        kind: name[1] if isinstance(name := one.sockets[0].getsockname(), tuple) else name
        for kind, one in listening.items()
    }
    datagrams, _ = await loop.create_datagram_endpoint(lambda: DatagramEcho(server), ("127.0.0.1", 0))
    addresses["udp"] = datagrams.get_extra_info("sockname")[1]
    return addresses, list(listening.values()), datagrams


async def serve(report: Report, folder: Path, interval: float, patience: float, sabotages: list[str]) -> None:
    server = Server(report)
    addresses, listening, datagrams = await listen(server, folder)
    report.say(addresses=addresses)
    tasks = [asyncio.create_task(SABOTAGES[name](server)) for name in sabotages]
    tasks += [
        asyncio.create_task(probe_timers(report)),
        asyncio.create_task(say_regularly(report, interval, lambda: {"connections": server.connections})),
    ]
    await until_told_to_stop()
    for one in listening:
        one.close()
    datagrams.close()
    for _ in itertools.takewhile(lambda _: server.connections, range(int(patience / 0.02))):
        await asyncio.sleep(0.02)
    if server.connections:
        report.problem(f"{server.connections} connections are left")
    for task in tasks:
        task.cancel()


def main() -> None:
    fdmon, folder, interval, patience, *sabotages = sys.argv[1:]
    report = Report()
    run(report, serve(report, Path(folder), float(interval), float(patience), sabotages), fdmon)


if __name__ == "__main__":
    main()
