"""Pipe transports."""

from __future__ import annotations

import asyncio
import gc
import os
import pty
import socket
import warnings

from tools.compatibility.peers import Record, folder, in_thread, kind, raised, raised_by
from tools.compatibility.registry import topic

probe = topic("Pipes")


async def read_pipe(fd, protocol=None):
    return await asyncio.get_running_loop().connect_read_pipe(lambda: protocol or Record(), os.fdopen(fd, "rb", 0))


async def write_pipe(fd):
    return await asyncio.get_running_loop().connect_write_pipe(Record, os.fdopen(fd, "wb", 0))


def read_fd(fd, count):
    data = bytearray()
    while len(data) < count and (chunk := os.read(fd, 1 << 16)):
        data += chunk
    return bytes(data)


@probe("connect_read_pipe: data, then eof_received and connection_lost(None)")
async def reading():
    readable, writable = os.pipe()
    transport, protocol = await read_pipe(readable)
    os.write(writable, b"hello")
    assert await protocol.got(5) == b"hello"
    os.close(writable)
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert transport.is_closing()


@probe("connect_write_pipe: write, writelines, close")
async def writing():
    readable, writable = os.pipe()
    transport, protocol = await write_pipe(writable)
    transport.write(b"one")
    transport.write(bytearray(b"two"))
    transport.writelines([b"th", memoryview(b"ree")])
    transport.close()
    assert await in_thread(read_fd, readable, 100) == b"onetwothree"
    assert await protocol.lost is None


@probe("4 MiB through a pipe, both ends transports, with flow control")
async def large():
    readable, writable = os.pipe()
    reader, receiving = await read_pipe(readable)
    writer, sending = await write_pipe(writable)
    data = bytes(range(256)) * (1 << 14)
    reader.pause_reading()
    writer.write(data)
    await sending.called("pause_writing")
    assert writer.get_write_buffer_size() > 0
    reader.resume_reading()
    assert await receiving.got(len(data)) == data
    await sending.called("resume_writing")
    writer.close()
    assert await receiving.lost is None


@probe("pause_reading, resume_reading, is_reading", stdlib_wrong="no is_reading on 3.10")
async def pause_reading():
    readable, writable = os.pipe()
    transport, protocol = await read_pipe(readable)
    assert transport.is_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    os.write(writable, b"x")
    await asyncio.sleep(0.02)
    assert not protocol.data
    transport.resume_reading()
    assert await protocol.got(1) == b"x"
    transport.close()


@probe("the reading end goes away: the write transport is told, write does not raise")
async def broken():
    readable, writable = os.pipe()
    transport, protocol = await write_pipe(writable)
    os.close(readable)
    transport.write(b"x")
    await asyncio.wait_for(protocol.lost, 5)
    transport.write(b"x")


@probe("the reading end goes away while nothing is written: connection_lost", promised=False)
async def broken_idle():
    readable, writable = os.pipe()
    _, protocol = await write_pipe(writable)
    os.close(readable)
    await asyncio.wait_for(protocol.lost, 5)


@probe("write_eof closes when all is written; abort drops it")
async def ends():
    readable, writable = os.pipe()
    transport, protocol = await write_pipe(writable)
    assert transport.can_write_eof()
    transport.write(bytes(1 << 18))
    transport.write_eof()
    assert len(await in_thread(read_fd, readable, 1 << 20)) == 1 << 18
    assert await protocol.lost is None
    readable, writable = os.pipe()
    transport, protocol = await write_pipe(writable)
    transport.write(bytes(1 << 20))
    transport.abort()
    assert (error := await protocol.lost) is None, f"connection_lost({error!r})"
    assert len(await in_thread(read_fd, readable, 1 << 21)) < 1 << 20


@probe("a regular file raises ValueError")
async def regular_file():
    loop = asyncio.get_running_loop()
    with folder() as where:
        (where / "file").write_text("content")
        with open(where / "file", "rb", 0) as file:
            await raised_by(ValueError, loop.connect_read_pipe(Record, file))
        with open(where / "file", "wb", 0) as file:
            await raised_by(ValueError, loop.connect_write_pipe(Record, file))


@probe("a FIFO")
async def fifo():
    with folder() as where:
        os.mkfifo(where / "fifo")
        readable = os.open(where / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writable = os.open(where / "fifo", os.O_WRONLY)
        _, receiving = await read_pipe(readable)
        writer, _ = await write_pipe(writable)
        writer.write(b"hello")
        writer.close()
        assert await receiving.got(5) == b"hello"
        assert await receiving.lost is None


@probe("a terminal")
async def terminal():
    main, other = pty.openpty()
    reader, receiving = await read_pipe(main)
    writer, _ = await write_pipe(other)
    writer.write(b"hello\n")
    assert (await receiving.got(7))[:7] == b"hello\r\n"
    writer.close()
    reader.close()


@probe("a Unix socket at either end")
async def socket_ends():
    ours, peer = socket.socketpair()
    _, receiving = await read_pipe(ours.detach())
    writer, _ = await write_pipe(peer.detach())
    writer.write(b"hello")
    assert await receiving.got(5) == b"hello"
    writer.close()
    assert await receiving.lost is None


@probe("get_extra_info('pipe') is the file object")
async def extra_info():
    readable, writable = os.pipe()
    file = os.fdopen(readable, "rb", 0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(Record, file)
    writer, _ = await write_pipe(writable)
    assert transport.get_extra_info("pipe") is file
    assert writer.get_extra_info("pipe").fileno() == writable
    transport.close()
    writer.close()


@probe("they are asyncio.ReadTransport and asyncio.WriteTransport")
async def types():
    readable, writable = os.pipe()
    (reader, _), (writer, _) = await read_pipe(readable), await write_pipe(writable)
    assert isinstance(reader, asyncio.ReadTransport), kind(reader)
    assert isinstance(writer, asyncio.WriteTransport), kind(writer)
    reader.close()
    writer.close()


@probe("set_protocol, get_protocol; close closes the file")
async def protocols():
    readable, writable = os.pipe()
    transport, first = await read_pipe(readable)
    second = Record()
    assert transport.get_protocol() is first
    transport.set_protocol(second)
    os.write(writable, b"x")
    assert await second.got(1) == b"x"
    transport.close()
    assert await second.lost is None
    raised(BrokenPipeError, os.write, writable, b"x")


@probe("StreamReader on a pipe: the recipe for standard input")
async def stream_reader():
    loop = asyncio.get_running_loop()
    readable, writable = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(readable, "rb"))
    os.write(writable, b"a line\nrest")
    os.close(writable)
    assert await reader.readline() == b"a line\n" and await reader.read() == b"rest"
    transport.close()


@probe("ResourceWarning for a pipe transport that was not closed, at the latest when its loop is closed")
def unclosed(make_loop):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = make_loop()
        readable, _writable = os.pipe()
        loop.run_until_complete(loop.connect_read_pipe(asyncio.Protocol, os.fdopen(readable, "rb", 0)))
        loop.close()
        del loop
        gc.collect()
    assert any("unclosed transport" in str(each.message) for each in caught), "no ResourceWarning"
