"""adopt() of what servers and asyncio's streams made: their books stay right, and the streams move along."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from .helpers import PATIENCE, Recorder, read_exactly


def test_the_server_goes_on_counting(pool, run):
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    def active(server):
        return server._active_count if hasattr(server, "_active_count") else len(server._clients)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname(), PATIENCE) as peer:
            while not made or not made[0].calls:
                await asyncio.sleep(0.001)
            transport = made[0].transport
            assert active(server) == 1
            await pool[0].adopt(transport)
            assert active(server) == 1
            for i in range(10):
                await pool[i % 3].run(pool[(i + 1) % 3].adopt(transport))
                assert active(server) == 1
            assert [len(thread.connections) for thread in pool] == [0, 1, 0]
            peer.sendall(b"x")
            await made[0].until_in_executor(lambda it: it.data == b"x")
        made[0].transport.close()
        await made[0].until_in_executor(lambda it: it.calls[-1][0] == "connection_lost")
        while active(server):
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()

    run(main())
    assert made[0].where("connection_lost") == pool[1].thread_id


def test_a_closed_servers_connections_can_still_move(iothread, run):
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname(), PATIENCE) as peer:
            while not made or not made[0].calls:
                await asyncio.sleep(0.001)
            server.close()
            await iothread.adopt(made[0].transport)
            peer.sendall(b"x")
            await made[0].until_in_executor(lambda it: it.data == b"x")
        made[0].transport.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)

    run(main())
    made[0].until(lambda it: it.calls[-1][0] == "connection_lost")


def test_a_servers_connection_lost_while_it_moves(pool, run):
    """Whichever thread sees the end, the books come out even."""
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    def active(server):
        return server._active_count if hasattr(server, "_active_count") else len(server._clients)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        for i in range(60):
            with socket.create_connection(server.sockets[0].getsockname(), PATIENCE) as peer:
                while len(made) <= i or not made[i].calls:
                    await asyncio.sleep(0.001)
                transport = made[i].transport
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                moving = asyncio.ensure_future(pool[i % 3].adopt(transport))
                for _ in range(i % 4):
                    await asyncio.sleep(0)
            with contextlib.suppress(RuntimeError):
                await moving
            await made[i].until_in_executor(lambda it: it.calls[-1][0] == "connection_lost")
        while active(server) or any(thread.connections for thread in pool):
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()

    run(main())


def test_streams_move_along(iothread, run, pair):
    ours, peer = pair

    async def talk(reader, writer):
        assert asyncio.get_running_loop() is iothread.loop
        assert await reader.readexactly(6) == b"before"
        writer.write(b"over there")
        await writer.drain()
        assert await reader.readline() == b" and after\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(sock=ours)
        peer.sendall(b"before")
        await iothread.adopt(writer.transport)
        talking = asyncio.ensure_future(iothread.run(talk(reader, writer)))
        assert await loop.run_in_executor(None, read_exactly, peer, 10) == b"over there"
        peer.sendall(b" and after\n")
        peer.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(talking, PATIENCE)

    run(main())


def test_streams_of_a_server_move_along(iothread, run):
    served = []

    async def serve(reader, writer):
        assert asyncio.get_running_loop() is iothread.loop
        served.append(await reader.readline())
        writer.write(b"moved\n")
        writer.close()
        await writer.wait_closed()

    async def accepted(reader, writer):
        await iothread.adopt(writer.transport)
        await iothread.run(serve(reader, writer))

    async def main():
        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"moved\n"
        writer.close()
        server.close()
        await server.wait_closed()

    run(main())
    assert served == [b"hello\n"]


def test_a_handler_that_fails_after_the_move_closes_the_connection(iothread, run):
    """asyncio closes the transport where a handler failed (3.12), in the handler's thread."""
    told = []

    async def accepted(reader, writer):
        await iothread.adopt(writer.transport)
        writer.close()
        raise ZeroDivisionError("the handler")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, details: told.append(details))
        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        server.close()
        await server.wait_closed()

    run(main())
    iothread.errors.clear()
