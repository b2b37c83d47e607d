"""TCP servers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket

from tools.compatibility.peers import Record, echo, in_thread, kind, raised_by, read_exactly, read_to_end, serving
from tools.compatibility.registry import topic

probe = topic("Servers")


def client(address):
    sock = socket.create_connection(address, 6)
    sock.settimeout(6)
    return sock


def ask(address):
    """What an echo server says to b"ping"."""
    with client(address) as sock:
        sock.sendall(b"ping")
        return read_exactly(sock, 4)


async def refuses(address):
    await raised_by(ConnectionRefusedError, in_thread(client, address))


@probe("create_server: port 0, sockets, get_loop, is_serving; an asyncio.AbstractServer")
async def create_server():
    async with serving() as (server, address):
        assert isinstance(server, asyncio.AbstractServer), kind(server)
        assert server.get_loop() is asyncio.get_running_loop() and server.is_serving()
        assert address[1] > 0 and await in_thread(ask, address) == b"ping"
    assert not server.is_serving() and list(server.sockets) == []


@probe("create_server on a list of hosts, on all interfaces (None, '')")
async def hosts():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(echo, ["127.0.0.1", "127.0.0.2"], 0)
    assert len(server.sockets) == 2
    for sock in server.sockets:
        assert await in_thread(ask, sock.getsockname()) == b"ping"
    server.close()
    for host in (None, ""):
        server = await loop.create_server(echo, host, 0, family=socket.AF_INET)
        assert await in_thread(ask, ("127.0.0.1", server.sockets[0].getsockname()[1])) == b"ping"
        server.close()


@probe("create_server(sock=)")
async def sock():
    sock = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(echo, sock=sock)
    assert await in_thread(ask, sock.getsockname()) == b"ping"
    server.close()


@probe("create_server(reuse_port=True): two servers on one port; reuse_address, backlog")
async def reuse_port():
    async with serving(reuse_port=True, reuse_address=True, backlog=5) as (_, (host, port)):
        second = await asyncio.get_running_loop().create_server(echo, host, port, reuse_port=True)
        assert await in_thread(ask, (host, port)) == b"ping"
        second.close()


@probe("create_server(keep_alive=True)", since=(3, 13))
async def keep_alive():
    async with serving(keep_alive=True) as (server, _):
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@probe("create_server(start_serving=False), start_serving()")
async def start_serving():
    async with serving(start_serving=False) as (server, address):
        assert not server.is_serving()
        await refuses(address)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving() and await in_thread(ask, address) == b"ping"


@probe("a port in use: OSError with EADDRINUSE that names the address")
async def in_use():
    async with serving() as (_, (host, port)):
        error = await raised_by(OSError, asyncio.get_running_loop().create_server(echo, host, port))
        assert error.errno == errno.EADDRINUSE and str(port) in str(error), str(error)


@probe("contradicting arguments raise ValueError", promised=False)
async def contradictions():
    create = asyncio.get_running_loop().create_server
    with socket.create_server(("127.0.0.1", 0)) as sock:
        await raised_by(ValueError, create(echo, "127.0.0.1", 0, sock=sock))
    await raised_by(ValueError, create(echo))
    await raised_by(ValueError, create(echo, "127.0.0.1", 0, ssl_handshake_timeout=5))


@probe("close() refuses new connections and leaves the others alone")
async def close():
    async with serving() as (server, address):
        sock = await in_thread(client, address)
        await in_thread(sock.sendall, b"ping")
        assert await in_thread(read_exactly, sock, 4) == b"ping"
        server.close()
        server.close()
        await refuses(address)
        await in_thread(sock.sendall, b"pong")
        assert await in_thread(read_exactly, sock, 4) == b"pong"
        sock.close()


@probe("wait_closed waits for the connections", since=(3, 12, 1))
async def wait_closed():
    async with serving() as (server, address):
        sock = await in_thread(client, address)
        await in_thread(sock.sendall, b"ping")
        assert await in_thread(read_exactly, sock, 4) == b"ping"
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0.02)
        assert not waiting.done(), "did not wait"
        sock.close()
        await asyncio.wait_for(waiting, 5)


@probe("close_clients closes the connections, after what is buffered", since=(3, 13))
async def close_clients():
    async with serving() as (server, address):
        sock = await in_thread(client, address)
        await in_thread(sock.sendall, b"ping")
        assert await in_thread(read_exactly, sock, 4) == b"ping"
        server.close()
        server.close_clients()
        assert await in_thread(read_to_end, sock) == b""
        await asyncio.wait_for(server.wait_closed(), 5)


@probe("abort_clients aborts the connections", since=(3, 13))
async def abort_clients():
    protocols = []

    def factory():
        protocols.append(Record())
        return protocols[-1]

    async with serving(factory) as (server, address):
        sock = await in_thread(client, address)
        await in_thread(sock.sendall, b"ping")
        while not protocols or not protocols[0].data:
            await asyncio.sleep(0.001)
        protocols[0].transport.write(bytes(1 << 24))
        server.close()
        server.abort_clients()
        await asyncio.wait_for(server.wait_closed(), 5)
        with contextlib.suppress(ConnectionResetError):
            assert len(await in_thread(read_to_end, sock)) < 1 << 24


@probe("serve_forever starts serving; its cancellation closes the server")
async def serve_forever():
    async with serving(start_serving=False) as (server, address):
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        while not server.is_serving():
            await asyncio.sleep(0.001)
        assert await in_thread(ask, address) == b"ping"
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled() and not server.is_serving()
        await refuses(address)


@probe("serve_forever twice, or on a closed server, raises RuntimeError")
async def serve_forever_twice():
    async with serving() as (server, _):
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        await raised_by(RuntimeError, server.serve_forever())
        task.cancel()
        await asyncio.wait([task])
        await raised_by(RuntimeError, server.serve_forever())


@probe("async with closes the server")
async def context_manager():
    async with await asyncio.get_running_loop().create_server(echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        assert await in_thread(ask, address) == b"ping"
    assert not server.is_serving()
    await refuses(address)


@probe("200 connections at once")
async def many():
    async with serving(backlog=300) as (_, address):
        pairs = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(200)))
        for number, (_, writer) in enumerate(pairs):
            writer.write(b"%04d" % number)
        for number, (reader, writer) in enumerate(pairs):
            assert await reader.readexactly(4) == b"%04d" % number
            writer.close()


@probe("an exception of the protocol factory does not end the server; debug mode reports it")
async def failing_factory():
    loop, told, calls = asyncio.get_running_loop(), [], []
    old = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: told.append(context))
    loop.set_debug(True)

    def factory():
        calls.append(1)
        if len(calls) == 1:
            raise LookupError
        return echo()

    async with serving(factory) as (_, address):
        _sock = await in_thread(client, address)
        assert await in_thread(ask, address) == b"ping"
    assert told and isinstance(told[0]["exception"], LookupError), "not reported"
    loop.set_exception_handler(old)


@probe("a server that ran out of fds goes on when there are some", promised=False)
async def out_of_fds():
    loop, told = asyncio.get_running_loop(), []
    old = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: told.append(context))
    async with serving() as (_, address):
        assert await in_thread(ask, address) == b"ping"
        sock = socket.socket()
        sock.settimeout(5)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
        fillers = []
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        sock.connect(address)
        await asyncio.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sock.sendall(b"ping")
        assert await in_thread(read_exactly, sock, 4) == b"ping"
    loop.set_exception_handler(old)


@probe("start_server hands a reader and a writer to a coroutine")
async def start_server():
    async def serve(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        assert await in_thread(ask, server.sockets[0].getsockname()) == b"ping"
