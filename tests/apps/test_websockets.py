"""The websockets library: server and clients on the same loop."""

import asyncio
import contextlib

import pytest

pytest.importorskip("websockets")
client = pytest.importorskip("websockets.asyncio.client")
server = pytest.importorskip("websockets.asyncio.server")
exceptions = pytest.importorskip("websockets.exceptions")

NORMAL, GOING_AWAY, ABNORMAL = 1000, 1001, 1006  # close codes of RFC 6455


async def echo(connection):
    async for message in connection:
        if message == "leave":
            await connection.close(4001, "as you wish")
            return
        await connection.send(message)


@contextlib.asynccontextmanager
async def serving(handler=echo, tls=None, **options):
    """Yields the server and a function that connects to it."""
    options = {"max_size": None, **options}
    context = tls.server() if tls else None
    async with server.serve(handler, "127.0.0.1", 0, ssl=context, **options) as running:
        port = running.sockets[0].getsockname()[1]
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"
        client_options = {**options, "ssl": tls.client()} if tls else options
        yield running, lambda: client.connect(url, proxy=None, **client_options)


async def talk(connect, number, messages):
    async with connect() as connection:
        for i in range(messages):
            message = f"{number}: {i} " * i if i % 2 else bytes([number]) * i
            await connection.send(message)
            assert await connection.recv() == message


def test_echo(run):
    async def main():
        async with serving() as (_, connect):
            await asyncio.gather(*(talk(connect, number, 200) for number in range(10)))

    run(main())


def test_many_under_way(run):
    async def main():
        async with serving() as (_, connect):

            async def flood(number):
                async with connect() as connection:

                    async def send():
                        for i in range(200):
                            await connection.send(f"{number}: {i}")

                    sending = asyncio.create_task(send())
                    for i in range(200):
                        assert await connection.recv() == f"{number}: {i}"
                    await sending

            await asyncio.gather(*map(flood, range(10)))

    run(main())


@pytest.mark.parametrize("compression", ["deflate", None])
def test_big_message(run, big, assert_same, compression):
    async def main():
        async with serving(compression=compression) as (_, connect), connect() as connection:
            await connection.send(big)
            assert_same(await connection.recv(), big)
            await connection.send(big[start : start + 65_536] for start in range(0, len(big), 65_536))
            assert_same(await connection.recv(), big)

    run(main())


def test_broadcast(run):
    async def main():
        everybody = asyncio.Event()

        async def handler(connection):
            if len(running.connections) == 20:
                everybody.set()
            await connection.wait_closed()

        async with serving(handler) as (running, connect):

            async def listen():
                async with connect() as connection:
                    return [await connection.recv() for _ in range(100)]

            listeners = [asyncio.create_task(listen()) for _ in range(20)]
            await everybody.wait()
            sent = [f"news {i}" for i in range(100)]
            for message in sent:
                server.broadcast(running.connections, message)
            assert await asyncio.gather(*listeners) == [sent] * 20

    run(main())


def test_server_closes_with_a_code(run):
    async def main():
        async with serving() as (_, connect):

            async def leave():
                async with connect() as connection:
                    await connection.send("leave")
                    with pytest.raises(exceptions.ConnectionClosedError) as caught:
                        await connection.recv()
                    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "as you wish")
                    assert (connection.close_code, connection.close_reason) == (4001, "as you wish")

            await asyncio.gather(*(leave() for _ in range(20)))

    run(main())


def test_server_goes_away(run):
    async def main():
        async with serving() as (running, connect):
            connections = await asyncio.gather(*(connect() for _ in range(20)))
            waiting = [asyncio.create_task(connection.recv()) for connection in connections]
            running.close()
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, exceptions.ConnectionClosedOK)
                assert result.rcvd.code == GOING_AWAY
            await running.wait_closed()
            with pytest.raises(ConnectionRefusedError):
                await connect()

    run(main())


def test_client_cancelled_in_recv(run):
    async def main():
        async with serving() as (_, connect), connect() as connection:
            for i in range(20):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(connection.recv(), 0.01)
                await connection.send(f"message {i}")
                assert await connection.recv() == f"message {i}"

            # Cancelled while the message comes: it is received by this recv() or by the next one.
            for i in range(100):
                waiting = asyncio.create_task(connection.recv())
                await connection.send(f"race {i}")
                await (await connection.ping())  # the echo has left the server before the pong
                waiting.cancel()
                (result,) = await asyncio.gather(waiting, return_exceptions=True)
                if isinstance(result, asyncio.CancelledError):
                    result = await connection.recv()
                assert result == f"race {i}"

    run(main())


def test_connections_cut_off(run):
    async def main():
        codes = asyncio.Queue()

        async def handler(connection):
            with contextlib.suppress(exceptions.ConnectionClosedError):
                await echo(connection)
            codes.put_nowait(connection.close_code)

        async with serving(handler) as (_, connect):
            for i in range(20):
                connection = await connect()
                await connection.send(f"message {i}")
                assert await connection.recv() == f"message {i}"
                connection.transport.abort()
                await connection.wait_closed()
                assert connection.close_code == ABNORMAL
                assert await codes.get() == ABNORMAL
            await talk(connect, 1, 10)
            assert await codes.get() == NORMAL

    run(main())


def test_unix_socket(run, tmp_path):
    async def main():
        path = str(tmp_path / "s")
        async with server.unix_serve(echo, path):

            def connect():
                return client.unix_connect(path, uri="ws://localhost")

            await asyncio.gather(*(talk(connect, number, 50) for number in range(10)))

    run(main())


def test_tls(run, tls, big, assert_same):
    async def main():
        async with serving(tls=tls, compression=None) as (_, connect):
            await asyncio.gather(*(talk(connect, number, 50) for number in range(10)))
            async with connect() as connection:
                await connection.send(big)
                assert_same(await connection.recv(), big)

    run(main())
