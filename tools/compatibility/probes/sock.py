"""sock_*: the low-level operations on sockets."""

from __future__ import annotations

import asyncio
import socket

from tools.compatibility.peers import connected, folder, in_thread, raised_by, read_exactly, tcp_pair
from tools.compatibility.registry import topic

probe = topic("sock_*")


def datagram_pair():
    ours, peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (ours, peer):
        sock.bind(("127.0.0.1", 0))
    ours.setblocking(False)
    peer.settimeout(5)
    return ours, peer


@probe("sock_recv: at most so many bytes; b'' at the end")
async def recv():
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair()
    waiting = asyncio.ensure_future(loop.sock_recv(ours, 3))
    await asyncio.sleep(0.005)
    peer.send(b"hello")
    assert await waiting == b"hel" and await loop.sock_recv(ours, 100) == b"lo"
    peer.close()
    assert await loop.sock_recv(ours, 100) == b""


@probe("sock_recv_into")
async def recv_into():
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair()
    buffer = bytearray(8)
    waiting = asyncio.ensure_future(loop.sock_recv_into(ours, memoryview(buffer)[2:]))
    await asyncio.sleep(0.005)
    peer.send(b"hello")
    assert await waiting == 5 and buffer == b"\0\0hello\0"


@probe("sock_recvfrom", since=(3, 11))
async def recvfrom():
    loop = asyncio.get_running_loop()
    ours, peer = datagram_pair()
    waiting = asyncio.ensure_future(loop.sock_recvfrom(ours, 100))
    await asyncio.sleep(0.005)
    peer.sendto(b"hello", ours.getsockname())
    assert await waiting == (b"hello", peer.getsockname())


@probe("sock_recvfrom_into, with nbytes", since=(3, 11))
async def recvfrom_into():
    loop = asyncio.get_running_loop()
    ours, peer = datagram_pair()
    buffer = bytearray(8)
    peer.sendto(b"hello", ours.getsockname())
    assert await loop.sock_recvfrom_into(ours, buffer) == (5, peer.getsockname())
    assert buffer == b"hello\0\0\0"
    waiting = asyncio.ensure_future(loop.sock_recvfrom_into(ours, buffer, 2))
    await asyncio.sleep(0.005)
    peer.sendto(b"xyz", ours.getsockname())
    assert await waiting == (2, peer.getsockname()) and buffer == b"xyllo\0\0\0"


@probe("sock_sendto", since=(3, 11))
async def sendto():
    ours, peer = datagram_pair()
    assert await asyncio.get_running_loop().sock_sendto(ours, b"hello", peer.getsockname()) == 5
    assert await in_thread(peer.recvfrom, 100) == (b"hello", ours.getsockname())


@probe("sock_sendall sends everything, in order, to a slow peer")
async def sendall():
    ours, peer = tcp_pair(4096)
    data = bytes(range(256)) * (1 << 13)
    sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(ours, memoryview(data)))
    assert await in_thread(read_exactly, peer, len(data)) == data
    assert await sending is None


@probe("sock_connect and sock_accept; what is accepted does not block")
async def connect_accept():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await asyncio.sleep(0.005)
        ours = socket.socket()
        ours.setblocking(False)
        await loop.sock_connect(ours, listener.getsockname())
        accepted, address = await accepting
        assert address == ours.getsockname() and accepted.gettimeout() == 0
        await loop.sock_sendall(accepted, b"x")
        assert await loop.sock_recv(ours, 1) == b"x"


@probe("sock_connect resolves names; a refused one raises ConnectionRefusedError")
async def connect_name():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.socket()
        ours.setblocking(False)
        address = listener.getsockname()
        await loop.sock_connect(ours, ("localhost", address[1]))
    other = socket.socket()
    other.setblocking(False)
    await raised_by(ConnectionRefusedError, loop.sock_connect(other, address))


@probe("Unix sockets: sock_connect, sock_accept by path")
async def unix():
    loop = asyncio.get_running_loop()
    with folder() as where, socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as ours:
        listener.bind(str(where / "s"))
        listener.listen()
        listener.setblocking(False)
        ours.setblocking(False)
        await loop.sock_connect(ours, str(where / "s"))
        accepted, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(ours, b"x")
        assert await loop.sock_recv(accepted, 1) == b"x"


@probe("SEQPACKET: sock_recv and sock_sendall keep the borders")
async def seqpacket():
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    peer.send(b"one")
    peer.send(b"two")
    assert [await loop.sock_recv(ours, 100) for _ in range(2)] == [b"one", b"two"]
    await loop.sock_sendall(ours, b"three")
    assert peer.recv(100) == b"three"


@probe("a cancelled operation leaves the socket to the next one")
async def cancelled():
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair()
    for _ in range(3):
        await raised_by((asyncio.TimeoutError, TimeoutError), asyncio.wait_for(loop.sock_recv(ours, 10), 0.005))
    waiting = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await asyncio.sleep(0.005)
    peer.send(b"x")
    assert await waiting == b"x"


@probe("receiving and sending at once on one socket")
async def both():
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair(4096)
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
    sending = asyncio.ensure_future(loop.sock_sendall(ours, bytes(1 << 20)))
    await asyncio.sleep(0.005)
    peer.send(b"x")
    assert await receiving == b"x"
    assert len(await in_thread(read_exactly, peer, 1 << 20)) == 1 << 20
    await sending


@probe("debug mode: a blocking socket raises ValueError")
async def blocking():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    ours, _peer = tcp_pair()
    ours.setblocking(True)
    await raised_by(ValueError, loop.sock_recv(ours, 1))
    await raised_by(ValueError, loop.sock_sendall(ours, b"x"))


@probe("a transport's socket is refused with RuntimeError", promised=False)
async def transports_socket():
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair()
    transport, _, _peer = await connected()
    double = socket.socket(fileno=transport.get_extra_info("socket").fileno())
    await raised_by((RuntimeError, ValueError), loop.sock_recv(double, 1))
    double.detach()
    transport.close()
    ours.close()
    peer.close()
