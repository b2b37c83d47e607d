"""Unix stream sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from tools.certificates import localhost_tls
from tools.compatibility.peers import Record, echo, folder, in_thread, raised_by, read_exactly
from tools.compatibility.registry import topic

probe = topic("Unix sockets")


async def echoes(path, **keywords):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_unix_connection(Record, path, **keywords)
    transport.write(b"hello")
    assert await protocol.got(5) == b"hello"
    transport.close()
    assert await protocol.lost is None


def ask(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        sock.sendall(b"ping")
        return read_exactly(sock, 4)


@probe("create_unix_server(path), create_unix_connection(path): str and PathLike")
async def paths():
    loop = asyncio.get_running_loop()
    with folder() as where:
        for path in (str(where / "text"), where / "object"):
            server = await loop.create_unix_server(echo, path)
            assert server.sockets[0].getsockname() == str(path)
            await echoes(path)
            server.close()


@probe("create_unix_connection to an abstract address")
async def abstract_connection():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0probe-{os.getpid()}-connection")
        listener.listen()
        transport, _ = await asyncio.get_running_loop().create_unix_connection(
            Record, f"\0probe-{os.getpid()}-connection"
        )
        peer, _ = listener.accept()
        transport.write(b"hello")
        assert await in_thread(read_exactly, peer, 5) == b"hello"
        transport.close()


@probe("create_unix_server on an abstract address")
async def abstract_server():
    name = f"\0probe-{os.getpid()}-server"
    server = await asyncio.get_running_loop().create_unix_server(echo, name)
    assert await in_thread(ask, name) == b"ping"
    server.close()


@probe("create_unix_server(sock=), create_unix_connection(sock=)")
async def sock():
    loop = asyncio.get_running_loop()
    with folder() as where:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(where / "s"))
        server = await loop.create_unix_server(echo, sock=listener)
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(str(where / "s"))
        ours.setblocking(False)
        await echoes(None, sock=ours)
        server.close()


@probe("create_unix_server(start_serving=False, backlog=), start_serving()")
async def start_serving():
    with folder() as where:
        path = str(where / "s")
        server = await asyncio.get_running_loop().create_unix_server(echo, path, start_serving=False, backlog=7)
        await raised_by(ConnectionRefusedError, in_thread(ask, path))
        await server.start_serving()
        assert await in_thread(ask, path) == b"ping"
        server.close()


@probe("a stale socket file is replaced; any other file is not")
async def stale():
    loop = asyncio.get_running_loop()
    with folder() as where:
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(str(where / "s"))
        server = await loop.create_unix_server(echo, where / "s")
        await echoes(where / "s")
        server.close()
        (where / "file").write_text("content")
        await raised_by(OSError, loop.create_unix_server(echo, where / "file"))
        assert (where / "file").read_text() == "content"


@probe("the socket file is removed on close; cleanup_socket=False keeps it", since=(3, 13))
async def cleanup():
    loop = asyncio.get_running_loop()
    with folder() as where:
        for name, keywords in (("gone", {}), ("kept", {"cleanup_socket": False})):
            server = await loop.create_unix_server(echo, where / name, **keywords)
            server.close()
            await server.wait_closed()
        assert os.listdir(where) == ["kept"]


@probe("the file of another server at the same path is not removed on close", since=(3, 13))
async def cleanup_own_only():
    loop = asyncio.get_running_loop()
    with folder() as where:
        first = await loop.create_unix_server(echo, where / "s")
        second = await loop.create_unix_server(echo, where / "s")
        first.close()
        assert await in_thread(ask, str(where / "s")) == b"ping"
        second.close()


@probe("a path that does not exist raises FileNotFoundError")
async def missing():
    with folder() as where:
        await raised_by(FileNotFoundError, asyncio.get_running_loop().create_unix_connection(Record, where / "none"))


@probe("get_extra_info('socket') tells the peer's credentials")
async def credentials():
    loop = asyncio.get_running_loop()
    with folder() as where:
        server = await loop.create_unix_server(echo, where / "s")
        transport, _ = await loop.create_unix_connection(Record, where / "s")
        raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("3i", raw)[0] == os.getpid()
        assert transport.get_extra_info("peername") == str(where / "s")
        transport.close()
        server.close()


@probe("open_unix_connection, start_unix_server")
async def streams():
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    with folder() as where:
        async with await asyncio.start_unix_server(serve, where / "s"):
            reader, writer = await asyncio.open_unix_connection(where / "s")
            writer.write(b"line\n")
            assert await reader.read() == b"line\n"
            writer.close()
            await writer.wait_closed()


@probe("TLS on a Unix socket")
async def tls():
    with folder() as where:
        server_context, client_context = localhost_tls(where)
        server = await asyncio.get_running_loop().create_unix_server(echo, where / "s", ssl=server_context)
        await echoes(where / "s", ssl=client_context, server_hostname="localhost")
        server.close()
