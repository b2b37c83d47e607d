"""TCP connections: making them, stream transports, streams."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
import struct
import warnings
import weakref

from tools.compatibility.peers import (
    BufferedRecord,
    Record,
    connected,
    echo,
    in_thread,
    kind,
    raised,
    raised_by,
    read_exactly,
    read_to_end,
    serving,
    tcp_pair,
)
from tools.compatibility.registry import topic

probe = topic("TCP connections")
transports = topic("Stream transports")
streams = topic("Streams")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def count_sockets():
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return count


async def echoes(transport, protocol):
    """Whether what is sent comes back; then close."""
    transport.write(b"hello")
    assert await protocol.got(5) == b"hello"
    transport.close()
    assert await protocol.lost is None


@probe("create_connection(host, port)")
async def create_connection():
    async with serving() as (_, (host, port)):
        await echoes(*await asyncio.get_running_loop().create_connection(Record, host, port))
        await echoes(*await asyncio.get_running_loop().create_connection(Record, "localhost", port))


@probe("create_connection(sock=)")
async def connection_sock():
    async with serving() as (_, address):
        sock = socket.create_connection(address)
        sock.setblocking(False)
        await echoes(*await asyncio.get_running_loop().create_connection(Record, sock=sock))
        assert sock.fileno() == -1, "the socket is left open"


@probe("create_connection(sock=) of a datagram socket raises ValueError, as do sock and host together", promised=False)
async def wrong_sock():
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await raised_by(ValueError, loop.create_connection(Record, sock=sock))
        await raised_by(ValueError, loop.create_connection(Record, "127.0.0.1", 1, sock=sock))
    await raised_by(ValueError, loop.create_connection(Record))


@probe("create_connection(local_addr=)")
async def local_addr():
    async with serving() as (_, (host, port)):
        local = ("127.0.0.2", free_port())
        connect = asyncio.get_running_loop().create_connection
        transport, protocol = await connect(Record, host, port, local_addr=local)
        assert transport.get_extra_info("sockname") == local
        await echoes(transport, protocol)


@probe("create_connection(family=, proto=, flags=)")
async def family():
    async with serving() as (_, (host, port)):
        keywords = {"family": socket.AF_INET, "proto": socket.IPPROTO_TCP, "flags": socket.AI_NUMERICHOST}
        connect = asyncio.get_running_loop().create_connection
        await echoes(*await connect(Record, host, port, **keywords))
        await raised_by(OSError, connect(Record, host, port, family=socket.AF_INET6, flags=socket.AI_NUMERICHOST))


@probe("create_connection(happy_eyeballs_delay=, interleave=)")
async def happy_eyeballs():
    async with serving() as (_, (_, port)):
        connect = asyncio.get_running_loop().create_connection
        await echoes(*await connect(Record, "localhost", port, happy_eyeballs_delay=0.25, interleave=1))


@probe("a refused connection raises ConnectionRefusedError")
async def refused():
    connect = asyncio.get_running_loop().create_connection
    error = await raised_by(OSError, connect(Record, "127.0.0.1", free_port()))
    assert isinstance(error, ConnectionRefusedError) and error.errno == errno.ECONNREFUSED, repr(error)


@probe("create_connection(all_errors=True) raises an ExceptionGroup", since=(3, 12))
async def all_errors():
    connect = asyncio.get_running_loop().create_connection
    error = await raised_by(Exception, connect(Record, "127.0.0.1", free_port(), all_errors=True))
    assert type(error).__name__ == "ExceptionGroup", f"a {type(error).__name__}: {error}"
    assert all(isinstance(each, ConnectionRefusedError) for each in error.exceptions)


@probe("create_connection to a name that does not exist raises socket.gaierror")
async def unknown_host():
    await raised_by(socket.gaierror, asyncio.get_running_loop().create_connection(Record, "name.invalid", 80))


@probe("IPv6")
async def ipv6():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(echo, "::1", 0)
    await echoes(*await loop.create_connection(Record, "::1", server.sockets[0].getsockname()[1]))
    server.close()


@probe("connect_accepted_socket")
async def accepted_socket():
    ours, peer = tcp_pair()
    transport, _protocol = await asyncio.get_running_loop().connect_accepted_socket(echo, ours)
    peer.send(b"hello")
    assert await in_thread(read_exactly, peer, 5) == b"hello"
    transport.close()
    assert await in_thread(read_to_end, peer) == b""


@probe("a cancelled create_connection leaves no socket behind")
async def cancelled():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)  # the queue is full after that, and further ones wait
        before = count_sockets()
        connecting = asyncio.ensure_future(asyncio.get_running_loop().create_connection(Record, *address))
        await asyncio.sleep(0.02)
        assert not connecting.done()
        connecting.cancel()
        await asyncio.wait([connecting], timeout=5)
        assert connecting.cancelled()
        for _ in range(100):
            gc.collect()
            if count_sockets() == before:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("a socket is left")


@probe("connect_accepted_socket of a datagram socket raises ValueError", promised=False)
async def accepted_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await raised_by(ValueError, asyncio.get_running_loop().connect_accepted_socket(Record, sock))


@probe("TCP_NODELAY is set", promised=False)
async def nodelay():
    async with serving() as (_, (host, port)):
        transport, _ = await asyncio.get_running_loop().create_connection(Record, host, port)
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.close()


@transports("a stream transport is an asyncio.Transport")
async def transport_type():
    transport, _, _peer = await connected()
    assert isinstance(transport, asyncio.Transport), kind(transport)
    transport.close()


@transports("connection_made comes first, connection_lost last and once")
async def order_of_calls():
    transport, protocol, peer = await connected()
    await in_thread(peer.sendall, b"x")
    await protocol.got(1)
    peer.close()
    assert await protocol.lost is None
    transport.close()
    transport.abort()
    await asyncio.sleep(0.005)
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


@transports("a transport can be weakly referenced and has a repr", promised=False)
async def weakref_and_repr():
    transport, _, _peer = await connected()
    assert weakref.ref(transport)() is transport and repr(transport).startswith("<")
    transport.close()


@transports("get_extra_info: socket, sockname, peername, a default")
async def extra_info():
    transport, _, peer = await connected()
    assert transport.get_extra_info("sockname") == peer.getpeername()
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("nothing") is None and transport.get_extra_info("nothing", 5) == 5
    sock = transport.get_extra_info("socket")
    assert sock.family == socket.AF_INET and sock.fileno() > 0 and sock.getsockname() == peer.getpeername()
    transport.close()


@transports("get_extra_info('socket') is a TransportSocket", promised=False)
async def extra_socket():
    transport, _, _peer = await connected()
    sock = transport.get_extra_info("socket")
    assert isinstance(sock, asyncio.trsock.TransportSocket), kind(sock)
    transport.close()


@transports("set_protocol and get_protocol")
async def set_protocol():
    transport, first, peer = await connected()
    second = Record()
    assert transport.get_protocol() is first
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    peer.send(b"x")
    assert await second.got(1) == b"x" and not first.data
    transport.close()


@transports("write takes bytes, bytearray and memoryview, and keeps the order")
async def write():
    transport, _, peer = await connected()
    for piece in (b"one", bytearray(b"two"), memoryview(b"three"), b""):
        transport.write(piece)
    assert await in_thread(read_exactly, peer, 11) == b"onetwothree"
    transport.close()


@transports("write of anything else raises TypeError")
async def write_type():
    transport, _, _peer = await connected()
    for wrong in ("text", None, 5):
        raised(TypeError, transport.write, wrong)
    transport.close()


@transports("writelines sends all pieces in order, with more pieces than an iovec has")
async def writelines():
    transport, _, peer = await connected()
    pieces = [str(number).encode() for number in range(3000)]
    transport.writelines(pieces)
    transport.writelines(iter([b"a", bytearray(b"b")]))
    want = b"".join(pieces) + b"ab"
    assert await in_thread(read_exactly, peer, len(want)) == want
    transport.close()


@transports("a bytearray may be changed after write", promised=False)
async def snapshot():
    transport, _, peer = await connected(receive_buffer=4096)
    transport.write(bytes(1 << 22))
    data = bytearray(b"before")
    transport.write(data)
    with contextlib.suppress(BufferError):  # a loop that keeps the object itself may lock its size, not its content
        data[:] = b"after!"
    got = await in_thread(read_exactly, peer, (1 << 22) + 6)
    transport.close()
    # Older CPythons copy, newer ones keep the object; either way all of it arrives.
    assert got[-6:] in (b"before", b"after!")


@transports("large writes: pause_writing, resume_writing, every byte in order")
async def flow_control():
    transport, protocol, peer = await connected(receive_buffer=4096)
    data = bytes(range(256)) * (1 << 14)
    transport.write(data)
    await protocol.called("pause_writing")
    assert transport.get_write_buffer_size() > 0
    assert await in_thread(read_exactly, peer, len(data)) == data
    await protocol.called("resume_writing")
    assert transport.get_write_buffer_size() == 0
    transport.close()


@transports("set_write_buffer_limits and get_write_buffer_limits")
async def buffer_limits():
    transport, _, _peer = await connected()
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(high=1000, low=10)
    assert transport.get_write_buffer_limits() == (10, 1000)
    raised(ValueError, transport.set_write_buffer_limits, high=10, low=1000)
    transport.close()


@transports("pause_reading, resume_reading, is_reading")
async def pause_reading():
    transport, protocol, peer = await connected()
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    peer.send(b"x")
    await asyncio.sleep(0.02)
    assert not protocol.data
    transport.resume_reading()
    transport.resume_reading()
    assert await protocol.got(1) == b"x" and transport.is_reading()
    transport.close()


@transports("write_eof: half close, after what is buffered; write then raises RuntimeError")
async def write_eof():
    transport, protocol, peer = await connected()
    assert transport.can_write_eof()
    transport.write(bytes(1 << 20))
    transport.write_eof()
    raised(RuntimeError, transport.write, b"x")
    assert len(await in_thread(read_to_end, peer)) == 1 << 20
    peer.send(b"still open")
    assert await protocol.got(10) == b"still open"
    transport.close()


@transports("eof_received that returns True keeps the sending side open")
async def keep_open():
    protocol = Record()
    protocol.keep_open = True
    transport, _, peer = await connected(protocol)
    peer.shutdown(socket.SHUT_WR)
    await protocol.called("eof_received")
    await asyncio.sleep(0.005)
    assert not transport.is_closing()
    transport.write(b"answer")
    assert await in_thread(read_exactly, peer, 6) == b"answer"
    transport.close()


@transports("close sends what is buffered, then connection_lost(None)")
async def close_flushes():
    transport, protocol, peer = await connected(receive_buffer=4096)
    transport.write(bytes(1 << 22))
    transport.close()
    assert transport.is_closing()
    assert len(await in_thread(read_to_end, peer)) == 1 << 22
    assert await protocol.lost is None


@transports("abort drops what is buffered; connection_lost(None)")
async def abort():
    transport, protocol, peer = await connected(receive_buffer=4096)
    transport.write(bytes(1 << 23))
    transport.abort()
    assert transport.is_closing()
    assert await protocol.lost is None
    with contextlib.suppress(ConnectionResetError):
        assert len(await in_thread(read_to_end, peer)) < 1 << 23


@transports("write after close does not raise")
async def write_after_close():
    transport, protocol, peer = await connected()
    transport.close()
    transport.write(b"dropped")
    await protocol.lost
    for _ in range(10):
        transport.write(b"dropped")
    assert await in_thread(read_to_end, peer) in (b"", b"dropped")


@transports("writelines after close does not raise", stdlib_wrong="TypeError up to 3.13.0")
async def writelines_after_close():
    transport, protocol, _peer = await connected()
    transport.close()
    transport.writelines([b"dropped"])
    await protocol.lost
    transport.writelines([b"dropped"])


@transports("write after the connection was lost does not raise")
async def write_after_lost():
    transport, protocol, peer = await connected()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await protocol.lost
    for _ in range(10):
        transport.write(b"dropped")


@transports("a reset connection: connection_lost(ConnectionResetError)")
async def reset():
    transport, protocol, peer = await connected()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert isinstance(await protocol.lost, ConnectionResetError) and transport.is_closing()


@transports("BufferedProtocol reads into its own buffer")
async def buffered():
    protocol = BufferedRecord()
    transport, _, peer = await connected(protocol)
    await in_thread(peer.sendall, bytes(range(250)) * 100)
    assert await protocol.got(25000) == bytes(range(250)) * 100
    peer.close()
    assert await protocol.lost is None
    assert transport.is_closing()


@transports("set_protocol changes between Protocol and BufferedProtocol")
async def switch_buffered():
    transport, _, peer = await connected()
    for protocol in (BufferedRecord(), Record(), BufferedRecord()):
        transport.set_protocol(protocol)
        peer.send(b"x")
        assert await protocol.got(1) == b"x"
    transport.close()


@transports("an exception in data_received ends the connection with it and is reported")
async def failing_protocol():
    loop, told = asyncio.get_running_loop(), []
    old = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: told.append(context))

    def fail(record, data):
        raise LookupError

    protocol = Record(on_data=fail)
    transport, _, peer = await connected(protocol)
    peer.send(b"x")
    assert type(await asyncio.wait_for(protocol.lost, 3)) is LookupError
    (context,) = told
    assert context["transport"] is transport and context["protocol"] is protocol
    loop.set_exception_handler(old)


@transports("ResourceWarning for a transport that was not closed, at the latest when its loop is closed")
def unclosed(make_loop):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = make_loop()
        ours, _peer = tcp_pair()
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))
        loop.close()
        del loop, ours
        gc.collect()
    assert any("unclosed transport" in str(each.message) for each in caught), "no ResourceWarning"


@streams("open_connection, start_server: readline, readuntil, readexactly, drain, wait_closed")
async def open_connection():
    served = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        writer.write((await reader.readline()).upper() + await reader.readuntil(b";") + await reader.readexactly(3))
        await writer.drain()
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        served.set_result(None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.writelines([b"line\n", b"until;abc"])
        assert await reader.read() == b"LINE\nuntil;abc"
        writer.close()
        await writer.wait_closed()
        await served


@streams("drain waits for a slow peer")
async def drain():
    ours, peer = tcp_pair(4096)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(bytes(1 << 22))
    waiting = asyncio.ensure_future(writer.drain())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert len(await in_thread(read_exactly, peer, 1 << 22)) == 1 << 22
    await waiting
    writer.close()
    await writer.wait_closed()
    assert reader.at_eof()


@streams("a reader over its limit pauses the transport and loses nothing")
async def limit():
    ours, peer = tcp_pair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=1000)
    sending = asyncio.ensure_future(in_thread(peer.sendall, bytes(1 << 22)))
    await asyncio.sleep(0.02)
    assert len(await reader.readexactly(1 << 22)) == 1 << 22
    await sending
    writer.close()
    await writer.wait_closed()
