"""adopt() refuses what cannot be moved, and leaves it as it is."""

from __future__ import annotations

import asyncio
import functools

import pytest

from .helpers import PATIENCE, Recorder, call, connect, numbers, read_exactly


def test_other_things_are_refused(iothread, run, pair, tls):
    ours, peer = pair
    protocol = Recorder()

    async def main():
        loop = asyncio.get_running_loop()
        datagrams, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        for thing in (None, 3, datagrams):
            with pytest.raises(TypeError, match="stream transport was expected"):
                await iothread.adopt(thing)
        datagrams.close()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=tls[0])
        secure, _ = await loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname(), ssl=tls[1], server_hostname="localhost"
        )
        with pytest.raises(TypeError, match="stream transport was expected"):
            await iothread.adopt(secure)
        secure.abort()
        server.close()

        transport = await connect(ours, protocol)
        iothread.stop()
        with pytest.raises(RuntimeError, match="not running"):
            await iothread.adopt(transport)
        peer.sendall(b"still here")
        await protocol.until_in_executor(lambda it: it.data == b"still here")
        transport.close()
        with pytest.raises(RuntimeError, match="closing"):
            await iothread.adopt(transport)
        await protocol.until_in_executor(lambda it: it.calls[-1][0] == "connection_lost")
        with pytest.raises(RuntimeError, match="closing"):
            await iothread.adopt(transport)

    run(main())
    assert protocol.where("connection_lost") == protocol.where("connection_made")


def test_another_loops_transport_is_refused(new_iothread, run, pair):
    ours, _ = pair
    one, other = new_iothread("one"), new_iothread("other")
    protocol = Recorder()

    async def main():
        transport = await one.run(connect(ours, protocol))
        with pytest.raises(RuntimeError, match="another loop"):
            await other.adopt(transport)
        await one.run(call(transport.close))

    run(main())


def test_the_standard_librarys_transports_are_refused(iothread, pair):
    ours, _ = pair

    async def main():
        transport = await connect(ours, Recorder())
        with pytest.raises(TypeError, match="stream transport was expected"):
            await iothread.adopt(transport)
        transport.close()
        await asyncio.sleep(0)

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_one_that_sends_a_file_is_refused(iothread, run, pair, tmp_path):
    ours, peer = pair
    path = tmp_path / "file"
    path.write_bytes(numbers(0, 300_000))

    async def main():
        loop = asyncio.get_running_loop()
        transport = await connect(ours, Recorder())
        with path.open("rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="sends a file"):
                await iothread.adopt(transport)
            received = loop.run_in_executor(None, read_exactly, peer, 300_000 * 8)
            assert await sending == 300_000 * 8
            assert await received == numbers(0, 300_000)
        await iothread.adopt(transport)
        await iothread.run(call(transport.close))

    run(main())


@pytest.mark.parametrize("waits", ["read", "drain", "wait_closed"])
def test_streams_in_which_somebody_waits_are_refused(iothread, run, pair, waits):
    ours, peer = pair

    async def main():
        reader, writer = await asyncio.open_connection(sock=ours)
        if waits == "read":
            waiting = asyncio.ensure_future(reader.readexactly(4))
        elif waits == "drain":
            writer.write(numbers(0, 500_000))
            waiting = asyncio.ensure_future(writer.drain())
        else:
            waiting = asyncio.ensure_future(writer.wait_closed())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="somebody waits"):
            await iothread.adopt(writer.transport)
        heard = asyncio.get_running_loop().run_in_executor(
            None, functools.partial(read_exactly, peer, 500_000 * 8 if waits == "drain" else 0)
        )
        peer.sendall(b"four")
        if waits == "wait_closed":
            writer.close()
        await asyncio.wait_for(waiting, PATIENCE)
        assert await heard == (numbers(0, 500_000) if waits == "drain" else b"")
        writer.close()

    run(main())
