"""Datagram endpoints."""

from __future__ import annotations

import asyncio
import socket

from tools.compatibility.peers import Datagrams, folder, in_thread, kind, raised, raised_by
from tools.compatibility.registry import topic

probe = topic("Datagrams")
HERE = ("127.0.0.1", 0)


async def endpoint(**keywords):
    return await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, **keywords)


def plain(family=socket.AF_INET, address=HERE):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(5)
    return sock


def unix_pair(where):
    """A connected socket for the loop, and a plain one."""
    peer, ours = plain(socket.AF_UNIX, str(where / "peer")), plain(socket.AF_UNIX, str(where / "ours"))
    ours.connect(str(where / "peer"))
    peer.connect(str(where / "ours"))
    ours.setblocking(False)
    return ours, peer


def name(transport):
    return transport.get_extra_info("sockname")


@probe("create_datagram_endpoint(local_addr=): datagram_received, sendto an address")
async def local_addr():
    transport, protocol = await endpoint(local_addr=HERE)
    with plain() as peer:
        peer.sendto(b"ping", name(transport))
        assert await protocol.get() == (b"ping", peer.getsockname())
        transport.sendto(b"pong", peer.getsockname())
        assert await in_thread(peer.recvfrom, 100) == (b"pong", name(transport))
    transport.close()


@probe("create_datagram_endpoint(remote_addr=): connected; sendto without an address")
async def remote_addr():
    with plain() as peer:
        transport, protocol = await endpoint(remote_addr=peer.getsockname())
        assert transport.get_extra_info("peername") == peer.getsockname()
        transport.sendto(b"ping")
        data, address = await in_thread(peer.recvfrom, 100)
        assert data == b"ping" and address == name(transport)
        peer.sendto(b"pong", address)
        assert await protocol.get() == (b"pong", peer.getsockname())
        transport.close()


@probe("a connected endpoint refuses another address with ValueError")
async def other_address():
    with plain() as peer:
        transport, _ = await endpoint(remote_addr=peer.getsockname())
        raised(ValueError, transport.sendto, b"x", ("127.0.0.1", 9))
        transport.close()


@probe("create_datagram_endpoint(sock=)")
async def sock():
    ours = plain()
    ours.setblocking(False)
    transport, protocol = await endpoint(sock=ours)
    with plain() as peer:
        peer.sendto(b"ping", name(transport))
        assert (await protocol.get())[0] == b"ping"
    transport.close()


@probe("create_datagram_endpoint(reuse_port=, allow_broadcast=, family=)")
async def options():
    transport, _ = await endpoint(local_addr=HERE, reuse_port=True, allow_broadcast=True, family=socket.AF_INET)
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
    second, _ = await endpoint(local_addr=name(transport), reuse_port=True)
    transport.close()
    second.close()


@probe("IPv6")
async def ipv6():
    transport, protocol = await endpoint(local_addr=("::1", 0))
    with plain(socket.AF_INET6, ("::1", 0)) as peer:
        peer.sendto(b"ping", name(transport)[:2])
        assert await protocol.get() == (b"ping", peer.getsockname())
    transport.close()


@probe("create_datagram_endpoint on AF_UNIX paths")
async def unix_paths():
    with folder() as where, plain(socket.AF_UNIX, str(where / "peer")) as peer:
        transport, protocol = await endpoint(local_addr=str(where / "ours"), family=socket.AF_UNIX)
        peer.sendto(b"ping", str(where / "ours"))
        assert await protocol.get() == (b"ping", str(where / "peer"))
        transport.sendto(b"pong", str(where / "peer"))
        assert await in_thread(peer.recv, 100) == b"pong"
        transport.close()
        connected, _ = await endpoint(remote_addr=str(where / "peer"), family=socket.AF_UNIX)
        connected.sendto(b"third")
        assert await in_thread(peer.recv, 100) == b"third"
        connected.close()


@probe("create_datagram_endpoint(sock=) of a Unix datagram socket")
async def unix_sock():
    with folder() as where:
        ours, peer = unix_pair(where)
        transport, protocol = await endpoint(sock=ours)
        peer.send(b"ping")
        assert (await protocol.get())[0] == b"ping"
        transport.sendto(b"pong")
        assert await in_thread(peer.recv, 100) == b"pong"
        transport.close()


@probe("a refused datagram: error_received(ConnectionRefusedError); the endpoint lives on")
async def refused():
    closed = plain()
    address = closed.getsockname()
    closed.close()
    transport, protocol = await endpoint(remote_addr=address)
    transport.sendto(b"x")
    assert isinstance(await asyncio.wait_for(protocol.errors.get(), 5), ConnectionRefusedError)
    with plain(address=address) as peer:
        transport.sendto(b"again")
        assert await in_thread(peer.recv, 100) == b"again"
    transport.close()


@probe("an empty datagram is received")
async def receive_empty():
    transport, protocol = await endpoint(local_addr=HERE)
    with plain() as peer:
        peer.sendto(b"", name(transport))
        assert (await protocol.get())[0] == b""
    transport.close()


@probe("an empty datagram is sent", since=(3, 13))
async def send_empty():
    with plain() as peer:
        transport, _ = await endpoint(remote_addr=peer.getsockname())
        transport.sendto(b"")
        assert await in_thread(peer.recv, 100) == b""
        transport.close()


@probe("sendto takes bytes, bytearray and memoryview, up to 65507 of them; else TypeError")
async def kinds():
    with plain() as peer:
        transport, _ = await endpoint(remote_addr=peer.getsockname())
        for data in (b"x" * 65507, bytearray(b"array"), memoryview(b"view")):
            transport.sendto(data)
            assert await in_thread(peer.recv, 70000) == data
        raised(TypeError, transport.sendto, "text")
        transport.close()


@probe("datagrams keep their borders and, on one host, their order")
async def many():
    transport, protocol = await endpoint(local_addr=HERE)
    with plain() as peer:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for number in range(100):
            peer.sendto(b"%d" % number, name(transport))
        assert [int((await protocol.get())[0]) for _ in range(100)] == list(range(100))
    transport.close()


@probe("flow control: what the kernel does not take waits, and arrives, in spite of close()")
async def flow_control():
    with folder() as where:
        ours, peer = unix_pair(where)
        transport, protocol = await endpoint(sock=ours)
        for number in range(500):
            transport.sendto(b"%03d" % number + bytes(1000))
        assert transport.get_write_buffer_size() > 0
        transport.close()
        assert transport.is_closing()
        received = await in_thread(lambda: [int(peer.recv(2000)[:3]) for _ in range(500)])
        assert received == list(range(500))
        assert await protocol.lost is None


@probe("abort: connection_lost(None) at once")
async def abort():
    transport, protocol = await endpoint(local_addr=HERE)
    transport.abort()
    assert await protocol.lost is None and transport.is_closing()


@probe("sendto after close does not raise")
async def send_after_close():
    with plain() as peer:
        transport, protocol = await endpoint(remote_addr=peer.getsockname())
        transport.close()
        await protocol.lost
        transport.sendto(b"x")


@probe("a datagram transport is an asyncio.DatagramTransport", stdlib_wrong="it is not up to 3.11")
async def transport_type():
    transport, _ = await endpoint(local_addr=HERE)
    assert isinstance(transport, asyncio.DatagramTransport), kind(transport)
    transport.close()


@probe("neither address nor family raises ValueError; a stream socket, too", promised=False)
async def contradictions():
    await raised_by(ValueError, endpoint())
    with socket.socket() as sock:
        await raised_by(ValueError, endpoint(sock=sock))


@probe("an address in use raises OSError")
async def in_use():
    with plain() as peer:
        await raised_by(OSError, endpoint(local_addr=peer.getsockname()))
