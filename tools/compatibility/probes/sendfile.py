"""sendfile and sock_sendfile."""

from __future__ import annotations

import asyncio
import io
import sys

from tools.certificates import localhost_tls
from tools.compatibility.peers import (
    Record,
    connected,
    folder,
    in_thread,
    raised_by,
    read_exactly,
    serving,
    tcp_pair,
)
from tools.compatibility.registry import topic

probe = topic("sendfile")
CONTENT = bytes(range(256)) * 4096


def file_in(where):
    (where / "file").write_bytes(CONTENT)
    return open(where / "file", "rb")


@probe("sendfile(transport, file): all of it; the number of bytes; the file's position")
async def sendfile():
    transport, _, peer = await connected(receive_buffer=4096)
    with folder() as where, file_in(where) as file:
        sending = asyncio.get_running_loop().sendfile(transport, file)
        sent, got = await asyncio.gather(sending, in_thread(read_exactly, peer, len(CONTENT)))
        assert got == CONTENT and sent == len(CONTENT) == file.tell()
    transport.close()


@probe("sendfile(offset=, count=)")
async def part():
    transport, _, peer = await connected()
    with folder() as where, file_in(where) as file:
        assert await asyncio.get_running_loop().sendfile(transport, file, 10, 20) == 20
        assert file.tell() == 30
        assert await in_thread(read_exactly, peer, 20) == CONTENT[10:30]
    transport.close()


@probe("sendfile(fallback=False) over TCP needs no fallback")
async def native():
    transport, _, peer = await connected()
    with folder() as where, file_in(where) as file:
        loop = asyncio.get_running_loop()
        assert await loop.sendfile(transport, file, count=1000, fallback=False) == 1000
        assert await in_thread(read_exactly, peer, 1000) == CONTENT[:1000]
    transport.close()


@probe("what was written before and after keeps its place; the transport reads on after")
async def order():
    transport, protocol, peer = await connected(receive_buffer=4096)
    transport.write(bytes(1 << 20))
    with folder() as where, file_in(where) as file:
        sending = asyncio.get_running_loop().sendfile(transport, file)
        _, got = await asyncio.gather(sending, in_thread(read_exactly, peer, (1 << 20) + len(CONTENT)))
    transport.write(b"after")
    assert got == bytes(1 << 20) + CONTENT and await in_thread(read_exactly, peer, 5) == b"after"
    peer.send(b"back")
    assert await protocol.got(4) == b"back"
    transport.close()


@probe("sendfile of a file object without an fd falls back, unless fallback=False")
async def no_fd():
    loop = asyncio.get_running_loop()
    transport, _, peer = await connected()
    assert await loop.sendfile(transport, io.BytesIO(b"memory")) == 6
    assert await in_thread(read_exactly, peer, 6) == b"memory"
    await raised_by(asyncio.SendfileNotAvailableError, loop.sendfile(transport, io.BytesIO(b"x"), fallback=False))
    transport.close()


@probe("sendfile over TLS falls back, unless fallback=False")
async def tls():
    loop = asyncio.get_running_loop()
    with folder() as where, file_in(where) as file:
        server, client = localhost_tls(where)
        received = loop.create_future()

        def factory():
            received.set_result(Record())
            return received.result()

        async with serving(factory, ssl=server) as (_, address):
            transport, _ = await loop.create_connection(Record, *address, ssl=client)
            assert await loop.sendfile(transport, file) == len(CONTENT)
            assert await received.result().got(len(CONTENT)) == CONTENT
            await raised_by(RuntimeError, loop.sendfile(transport, file, fallback=False))
            transport.close()


@probe("sendfile on a closing transport raises RuntimeError; a text file ValueError")
async def refusals():
    loop = asyncio.get_running_loop()
    transport, _, _peer = await connected()
    with folder() as where, file_in(where) as file:
        sock, _other = tcp_pair()
        with open(where / "file", encoding="latin-1") as text:
            await raised_by(ValueError, loop.sock_sendfile(sock, text))
        transport.close()
        await raised_by(RuntimeError, loop.sendfile(transport, file))


@probe("sendfile refuses text files, and offsets and counts that make no sense, with ValueError", promised=False)
async def arguments():
    loop = asyncio.get_running_loop()
    transport, _, _peer = await connected()
    with folder() as where, file_in(where) as file:
        with open(where / "file", encoding="latin-1") as text:
            await raised_by(ValueError, loop.sendfile(transport, text))
        for offset, count in ((0, 0), (0, -1), (-1, None)):
            await raised_by(ValueError, loop.sendfile(transport, file, offset, count))
            await raised_by(ValueError, loop.sock_sendfile(tcp_pair()[0], file, offset, count))
        assert file.tell() == 0
    transport.close()


@probe("sendfile from the end of the file on sends nothing", promised=False)
async def at_end():
    loop = asyncio.get_running_loop()
    transport, _, _peer = await connected()
    with folder() as where, file_in(where) as file:
        for offset in (len(CONTENT), len(CONTENT) + 10):
            assert await loop.sendfile(transport, file, offset) == 0
            assert await loop.sock_sendfile(tcp_pair()[0], file, offset) == 0
            assert file.tell() == (offset if sys.version_info >= (3, 14) else 0)
    transport.close()


@probe("the peer goes away during sendfile: an OSError")
async def broken():
    transport, _, peer = await connected(receive_buffer=4096)
    with folder() as where:
        (where / "large").write_bytes(bytes(1 << 24))
        with open(where / "large", "rb") as file:
            sending = asyncio.get_running_loop().sendfile(transport, file)

            def leave():
                read_exactly(peer, 1000)
                peer.close()

            await raised_by(OSError, asyncio.gather(sending, in_thread(leave)))
    transport.close()


@probe("sock_sendfile(offset=, count=)")
async def sock_sendfile():
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair(4096)
    with folder() as where, file_in(where) as file:
        sending = loop.sock_sendfile(ours, file)
        sent, got = await asyncio.gather(sending, in_thread(read_exactly, peer, len(CONTENT)))
        assert got == CONTENT and sent == len(CONTENT) == file.tell()
        assert await loop.sock_sendfile(ours, file, 5, 10, fallback=False) == 10
        assert await in_thread(read_exactly, peer, 10) == CONTENT[5:15]


@probe("sock_sendfile falls back for a file object without an fd, unless fallback=False")
async def sock_fallback():
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair()
    assert await loop.sock_sendfile(ours, io.BytesIO(b"memory")) == 6
    assert await in_thread(read_exactly, peer, 6) == b"memory"
    await raised_by(asyncio.SendfileNotAvailableError, loop.sock_sendfile(ours, io.BytesIO(b"x"), fallback=False))
