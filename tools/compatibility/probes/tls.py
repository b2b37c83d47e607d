"""TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl

from tools.certificates import localhost_tls
from tools.compatibility.peers import (
    BufferedRecord,
    Record,
    echo,
    folder,
    in_thread,
    kind,
    raised_by,
    read_exactly,
    serving,
    tcp_pair,
)
from tools.compatibility.registry import topic

probe = topic("TLS")


def contexts():
    with folder() as path:
        return localhost_tls(path)


async def connect(address, client, factory=Record, **keywords):
    return await asyncio.get_running_loop().create_connection(factory, *address, ssl=client, **keywords)


async def echoes(transport, protocol, data=b"hello"):
    transport.write(data)
    assert await protocol.got(len(data)) == data
    transport.close()
    assert await protocol.lost is None


@probe("create_server(ssl=), create_connection(ssl=)")
async def both_sides():
    server, client = contexts()
    async with serving(ssl=server) as (_, (_, port)):
        await echoes(*await connect(("localhost", port), client))
        await echoes(*await connect(("127.0.0.1", port), client, server_hostname="localhost"))


@probe("4 MiB each way")
async def large():
    server, client = contexts()
    async with serving(ssl=server) as (_, address):
        await echoes(*await connect(address, client), bytes(range(256)) * (1 << 14))


@probe("get_extra_info: ssl_object, sslcontext, peercert, cipher, compression, socket")
async def extra_info():
    server, client = contexts()
    async with serving(ssl=server) as (_, address):
        transport, _ = await connect(address, client)
        info = transport.get_extra_info
        assert isinstance(info("ssl_object"), (ssl.SSLObject, ssl.SSLSocket)) and info("sslcontext") is client
        assert dict(info("peercert")["subject"][0])["commonName"] == "localhost"
        assert len(info("cipher")) == 3 and info("compression", 5) is None
        assert info("socket").family == socket.AF_INET and info("peername") == address
        transport.close()


@probe("a TLS transport is an asyncio.Transport that cannot write_eof")
async def transport_type():
    server, client = contexts()
    async with serving(ssl=server) as (_, address):
        transport, protocol = await connect(address, client)
        assert isinstance(transport, asyncio.Transport), kind(transport)
        assert not transport.can_write_eof()
        await echoes(transport, protocol)


@probe("a certificate that is not trusted: ssl.SSLCertVerificationError")
async def untrusted():
    (server, _), (_, other) = contexts(), contexts()
    loop = asyncio.get_running_loop()
    old = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: None)  # the server's side of it
    async with serving(ssl=server) as (_, address):
        await raised_by(ssl.SSLCertVerificationError, connect(address, other))
    await asyncio.sleep(0.01)
    loop.set_exception_handler(old)


@probe("server_hostname is needed with sock=, and refused without ssl")
async def hostname_needed():
    _, client = contexts()
    create = asyncio.get_running_loop().create_connection
    ours, _peer = tcp_pair()
    await raised_by(ValueError, create(Record, sock=ours, ssl=client))
    await raised_by(ValueError, create(Record, "localhost", 1, server_hostname="localhost"))


@probe("ssl_handshake_timeout ends a handshake that nobody answers")
async def handshake_timeout():
    _, client = contexts()
    ours, _peer = tcp_pair()
    create = asyncio.get_running_loop().create_connection
    waiting = create(Record, sock=ours, ssl=client, server_hostname="localhost", ssl_handshake_timeout=0.05)
    await raised_by((ConnectionAbortedError, TimeoutError), waiting)


@probe("ssl_shutdown_timeout ends a close that nobody answers", since=(3, 11))
async def shutdown_timeout():
    server, client = contexts()
    ours, peer = tcp_pair()
    loop = asyncio.get_running_loop()
    answering = loop.run_in_executor(None, lambda: server.wrap_socket(peer, server_side=True))
    transport, protocol = await loop.create_connection(
        Record, sock=ours, ssl=client, server_hostname="localhost", ssl_shutdown_timeout=0.05
    )
    _peer = await answering
    transport.close()
    await asyncio.wait_for(protocol.lost, 5)


@probe("start_tls upgrades both sides of a connection")
async def start_tls():
    server, client = contexts()
    loop = asyncio.get_running_loop()
    answering, tasks = Record(), []

    class Asked(Record):
        def data_received(self, data):
            self.transport.pause_reading()
            tasks.append(loop.create_task(upgrade(self.transport)))

    async def upgrade(transport):
        transport.write(b"go")
        tls = await loop.start_tls(transport, answering, server, server_side=True)
        tls.write(await answering.got(5))  # which may have come before start_tls returned

    async with serving(Asked) as (_, address):
        transport, first = await loop.create_connection(Record, *address)
        transport.write(b"?")
        assert await first.got(2) == b"go"
        second = Record()
        tls = await loop.start_tls(transport, second, client, server_hostname="localhost")
        assert isinstance(tls.get_extra_info("ssl_object"), ssl.SSLObject)
        await echoes(tls, second)
        await asyncio.gather(*tasks)


@probe("StreamWriter.start_tls", since=(3, 11))
async def stream_start_tls():
    server, client = contexts()

    async def serve(reader, writer):
        await reader.readexactly(1)
        writer.write(b"g")
        await writer.drain()
        await writer.start_tls(server)
        writer.write(await reader.readexactly(5))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(b"?")
        await reader.readexactly(1)
        await writer.start_tls(client, server_hostname="localhost")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()


@probe("connect_accepted_socket(ssl=)")
async def accepted_socket():
    server, client = contexts()
    ours, peer = tcp_pair()
    loop = asyncio.get_running_loop()

    def talk():
        with client.wrap_socket(peer, server_hostname="localhost") as sock:
            sock.sendall(b"hello")
            return read_exactly(sock, 5)

    talking = loop.run_in_executor(None, talk)
    await loop.connect_accepted_socket(echo, ours, ssl=server)
    assert await talking == b"hello"


@probe("BufferedProtocol over TLS")
async def buffered():
    server, client = contexts()
    async with serving(ssl=server) as (_, address):
        await echoes(*await connect(address, client, BufferedRecord), bytes(50_000))


@probe("a plain client of a TLS server is dropped; the server goes on")
async def plain_client():
    server, client = contexts()
    loop = asyncio.get_running_loop()
    old = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: None)
    async with serving(ssl=server) as (_, address):
        plain = socket.create_connection(address, 5)
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        await in_thread(read_exactly, plain, 1 << 20)
        await echoes(*await connect(address, client))
    loop.set_exception_handler(old)


@probe("pause_reading and flow control over TLS")
async def flow_control():
    server, client = contexts()
    async with serving(ssl=server) as (_, address):
        transport, protocol = await connect(address, client)
        # Else it depends on what the kernel has seen before: it may take several MB at once.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        transport.pause_reading()
        assert not transport.is_reading()
        for _ in range(2):
            transport.write(bytes(1 << 22))
        await protocol.called("pause_writing")
        transport.resume_reading()
        assert len(await protocol.got(1 << 23)) == 1 << 23
        transport.close()
        await protocol.lost
