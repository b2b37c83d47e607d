"""When output goes to the kernel: at the end of the turn, all of it together; or before the callback returns, where
that was all of it, turn after turn, and no other callback could add to it."""

import asyncio
import socket
import struct

import pytest

HOST = "127.0.0.1"
BEFORE = 3  # turns with one write each, after which the next is taken for such a one


def arrived(peer):
    peer.setblocking(False)
    try:
        return peer.recv(100)
    except BlockingIOError:
        return b""


async def single_writes(transport, peer, turns):
    """What had arrived before the callback that wrote returned, for each of so many turns."""
    seen = []
    for _ in range(turns):
        transport.write(b"x")
        seen.append(arrived(peer))
        await asyncio.sleep(0)
        arrived(peer)
    return seen


def test_a_single_write_is_sent_at_once(loop, pair, connect, recorder):
    ours, peer = pair

    async def main():
        transport = await connect(ours, recorder())
        await asyncio.sleep(0)
        assert await single_writes(transport, peer, BEFORE + 3) == [b""] * BEFORE + [b"x"] * 3
        transport.writelines([b"a", b"b"])
        assert arrived(peer) == b"ab"
        transport.abort()

    loop.run_until_complete(main())


def test_a_header_and_a_body_are_sent_together(loop, pair, connect, recorder):
    ours, peer = pair

    async def main():
        transport = await connect(ours, recorder())
        for _ in range(BEFORE + 3):
            await asyncio.sleep(0)
            transport.write(b"header")
            transport.write(b"body")
            assert arrived(peer) == b""
            await asyncio.sleep(0)
            assert arrived(peer) == b"headerbody"
        transport.abort()

    loop.run_until_complete(main())


def test_a_second_write_is_remembered(loop, pair, connect, recorder):
    ours, peer = pair

    async def main():
        transport = await connect(ours, recorder())
        await single_writes(transport, peer, BEFORE)
        transport.write(b"header")
        transport.write(b"body")
        assert arrived(peer) == b"header"
        await asyncio.sleep(0)
        assert arrived(peer) == b"body"
        assert await single_writes(transport, peer, BEFORE + 1) == [b""] * BEFORE + [b"x"]
        transport.abort()

    loop.run_until_complete(main())


def test_with_other_callbacks_in_the_turn_it_waits_for_them(loop, pair, connect, recorder):
    ours, peer = pair

    async def main():
        transport = await connect(ours, recorder())
        await single_writes(transport, peer, BEFORE)
        for _ in range(3):
            loop.call_soon(int)
            await asyncio.sleep(0)
            transport.write(b"x")
            assert arrived(peer) == b""
            await asyncio.sleep(0)
            assert arrived(peer) == b"x"
        transport.abort()

    loop.run_until_complete(main())


def test_of_many_connections_only_the_first(loop, new_tcp_pair, connect, recorder):
    """The others go together, by one system call on io_uring."""
    pairs = [new_tcp_pair() for _ in range(6)]

    async def main():
        transports = [await connect(ours, recorder()) for ours, _ in pairs]
        for turn in range(BEFORE + 2):
            await asyncio.sleep(0)
            for transport in transports:
                transport.write(b"x")
            seen = [arrived(peer) for _, peer in pairs]
            assert seen == [b"x" if turn >= BEFORE else b"", *[b""] * 5]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [before or arrived(peer) for before, (_, peer) in zip(seen, pairs, strict=True)] == [b"x"] * 6
        for transport in transports:
            transport.abort()

    try:
        loop.run_until_complete(main())
    finally:
        for each in pairs:
            for sock in each:
                sock.close()


def test_an_error_of_what_is_sent_at_once_ends_the_connection(loop, tcp, connect, recorder):
    ours, peer = tcp

    async def main():
        protocol = recorder()
        transport = await connect(ours, protocol)
        await single_writes(transport, peer, BEFORE)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        transport.write(b"x")  # raises nothing
        assert transport.is_closing()
        await protocol.until_lost()
        assert isinstance(protocol.lost, (ConnectionResetError, BrokenPipeError))

    loop.run_until_complete(main())


@pytest.mark.parametrize("writes", [1, 2])
def test_tls(loop, recorder, tls, writes):
    async def main():
        ours, theirs = recorder(), recorder()
        server = await loop.create_server(lambda: theirs, HOST, 0, ssl=tls[0])
        address = server.sockets[0].getsockname()
        await loop.create_connection(lambda: ours, *address, ssl=tls[1], server_hostname="localhost")
        await theirs.until_called("connection_made")
        seen = []
        for turn in range(BEFORE + 3):
            expected = b"x" * (turn + 1) * writes
            await asyncio.sleep(0)
            before = loop.metrics().bytes_sent
            for _ in range(writes):
                ours.transport.write(b"x")
            seen.append(loop.metrics().bytes_sent > before)
            await theirs.until(lambda expected=expected: theirs.data == expected)
        assert seen == ([False] * BEFORE + [True] * 3 if writes == 1 else [False] * (BEFORE + 3))
        server.close()
        for each in (ours, theirs):
            each.transport.abort()
            await each.until_lost()

    loop.run_until_complete(main())
