"""uvicorn serving a FastAPI application, asked by aiohttp's client and by raw streams on the same loop."""

import asyncio
import contextlib
import io
import json
import os
import signal

import pytest

aiohttp = pytest.importorskip("aiohttp")
fastapi = pytest.importorskip("fastapi")
responses = pytest.importorskip("fastapi.responses")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("h11")
pytest.importorskip("httptools")


@pytest.fixture(params=["h11", "httptools"])
def http(request):
    return request.param


class Application(fastapi.FastAPI):
    """The routes, and what they let a test see."""

    def __init__(self):
        super().__init__()
        self.entered = asyncio.Event()  # a request is in /slow
        self.release = asyncio.Event()  # lets /slow answer
        self.stream_ended = asyncio.Event()  # /endless was given up
        self.clients = set()

        @self.get("/number/{number}")
        async def number(number: int, request: fastapi.Request):
            self.clients.add(request.client)
            return {"number": number, "text": "x" * number}

        @self.get("/thread/{number}")
        def thread(number: int):  # not async: runs in a worker thread
            return {"number": number}

        @self.post("/echo")
        async def echo(request: fastapi.Request):
            return fastapi.Response(await request.body(), media_type="application/octet-stream")

        @self.post("/stream")
        async def stream(request: fastapi.Request):
            # All of it first: StreamingResponse reads too, to hear of a disconnect, and would eat the rest.
            pieces = [piece async for piece in request.stream()]

            async def again():
                for piece in pieces:
                    yield piece

            return responses.StreamingResponse(again())

        @self.get("/endless")
        async def endless():
            async def pieces():
                try:
                    while True:
                        yield b"piece of data " * 1_000
                        # Once the client has gone, send() returns at once, and nobody could cancel us.
                        await asyncio.sleep(0)
                finally:
                    self.stream_ended.set()

            return responses.StreamingResponse(pieces())

        @self.get("/slow")
        async def slow():
            self.entered.set()
            await self.release.wait()
            return {"slow": "done"}


class Server(uvicorn.Server):
    """uvicorn tells nobody when it has started and when it begins to stop; this one does."""

    def __init__(self, config):
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets=None):
        self.stopping.set()
        await super().shutdown(sockets)


class Running:
    def __init__(self, app, server, task, address, tls):
        self.app = app
        self.server = server
        self.task = task
        self.address = address
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{address[1]}"
        self._ssl = tls.client() if tls else True

    def session(self):
        """A client that keeps one connection alive."""
        return aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=1, ssl=self._ssl))


@contextlib.asynccontextmanager
async def serving(http, tls=None):
    app = Application()
    files = {"ssl_certfile": tls.cert, "ssl_keyfile": tls.key} if tls else {}
    server = Server(uvicorn.Config(app, port=0, http=http, log_config=None, access_log=False, **files))
    task = asyncio.create_task(server.serve())
    started = asyncio.create_task(server.listening.wait())
    await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    try:
        yield Running(app, server, task, server.servers[0].sockets[0].getsockname(), tls)
    finally:
        server.should_exit = True
        await task


async def get_json(session, path):
    async with session.get(path) as response:
        assert response.status == 200
        return await response.json()


async def ask_many(running, workers, requests):
    async def worker(number):
        async with running.session() as session:
            for i in range(requests):
                n = number * requests + i
                assert await get_json(session, f"/number/{n}") == {"number": n, "text": "x" * n}

    await asyncio.gather(*map(worker, range(workers)))


@pytest.fixture
def post_big(big, assert_same):
    """await post_big(running, path): the path sends back what it gets."""

    async def post_big(running, path):
        async with running.session() as session, session.post(path, data=io.BytesIO(big)) as response:
            assert response.status == 200
            assert_same(await response.read(), big)

    return post_big


async def connect(running, request):
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(f"{request} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return reader, writer


async def close(writer):
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def test_keep_alive_requests(run, http):
    async def main():
        async with serving(http) as running:
            await ask_many(running, 20, 100)
            assert len(running.app.clients) == 20  # a connection each, kept for all of its requests

    run(main())


def test_pipelined_requests(run, http):
    async def main():
        async with serving(http) as running:
            reader, writer = await asyncio.open_connection(*running.address)
            for i in range(200):
                writer.write(f"GET /number/{i} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            for i in range(200):
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.1 200")
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                assert json.loads(await reader.readexactly(length)) == {"number": i, "text": "x" * i}
            await close(writer)

    run(main())


def test_worker_threads(run, http):
    async def main():
        async with serving(http) as running:

            async def worker(number):
                async with running.session() as session:
                    for i in range(10):
                        n = number * 10 + i
                        assert await get_json(session, f"/thread/{n}") == {"number": n}

            await asyncio.gather(*map(worker, range(20)))

    run(main())


def test_big_body_both_ways(run, http, post_big):
    async def main():
        async with serving(http) as running:
            await post_big(running, "/echo")
            await post_big(running, "/stream")

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_client_leaves_mid_stream(run, http, how):
    async def main():
        async with serving(http) as running:
            for _ in range(5):
                running.app.stream_ended.clear()
                reader, writer = await connect(running, "GET /endless")
                assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
                assert b"piece of data " in await reader.readexactly(100_000)
                if how == "abort":
                    writer.transport.abort()
                await close(writer)
                await running.app.stream_ended.wait()
            await ask_many(running, 2, 10)

    run(main())


@pytest.mark.parametrize("how", ["should_exit", "signal"])
def test_graceful_shutdown(run, http, how):
    came_back = []  # uvicorn raises the signal again, for whom it took it from
    previous = signal.signal(signal.SIGTERM, lambda number, frame: came_back.append(number))

    async def main():
        async with serving(http) as running, running.session() as session:
            reader, writer = await connect(running, "GET /number/1")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            in_flight = asyncio.create_task(get_json(session, "/slow"))
            await running.app.entered.wait()
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                running.server.should_exit = True
            await running.server.stopping.wait()
            assert (await reader.read()).startswith(b'{"number":1')  # and then EOF: it was idle
            await close(writer)
            assert not in_flight.done()
            running.app.release.set()
            assert await in_flight == {"slow": "done"}
            await running.task
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*running.address)

    try:
        run(main())
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert came_back == ([signal.SIGTERM] if how == "signal" else [])


def test_tls(run, http, tls, post_big):
    async def main():
        async with serving(http, tls) as running:
            await ask_many(running, 10, 30)
            await post_big(running, "/echo")
            await post_big(running, "/stream")

    run(main())
