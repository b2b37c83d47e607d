"""aiohttp as server and as client on the same loop."""

import asyncio
import contextlib
import io
import socket
import struct

import pytest

aiohttp = pytest.importorskip("aiohttp")
web = pytest.importorskip("aiohttp.web")

FILE_SIZE = 5_000_000


class Application:
    """The handlers, and what they let a test see."""

    def __init__(self, file):
        self.file = file
        self.entered = asyncio.Event()  # a request is in slow()
        self.release = asyncio.Event()  # lets slow() answer
        self.stopping = asyncio.Event()
        self.gave_up = asyncio.Queue()  # the exceptions that ended endless() and upload()
        self.clients = set()
        self.web = web.Application(client_max_size=2**25)
        self.web.on_shutdown.append(self.on_shutdown)
        self.web.add_routes(
            [
                web.get("/number/{number}", self.number),
                web.post("/echo", self.echo),
                web.post("/duplex", self.duplex),
                web.post("/upload", self.upload),
                web.get("/endless", self.endless),
                web.get("/slow", self.slow),
                web.get("/file", self.send_file),
                web.get("/socket", self.websocket),
            ]
        )

    async def on_shutdown(self, _):
        self.stopping.set()

    async def number(self, request):
        number = int(request.match_info["number"])
        self.clients.add(request.transport.get_extra_info("peername"))
        return web.json_response({"number": number, "text": "x" * number})

    async def echo(self, request):
        return web.Response(body=io.BytesIO(await request.read()))

    async def duplex(self, request):
        """Sends back what has come while the rest is still on its way."""
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        return response

    async def upload(self, request):
        self.entered.set()
        try:
            return web.json_response({"length": len(await request.read())})
        except (OSError, aiohttp.ClientError) as error:
            self.gave_up.put_nowait(error)
            return web.Response()  # goes nowhere

    async def endless(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"piece of data " * 1_000)
        except ConnectionError as error:
            self.gave_up.put_nowait(error)
            return response
        except asyncio.CancelledError as error:
            self.gave_up.put_nowait(error)
            raise

    async def slow(self, request):
        self.entered.set()
        await self.release.wait()
        return web.json_response({"slow": "done"})

    async def send_file(self, request):
        return web.FileResponse(self.file)

    async def websocket(self, request):
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                if message.data == "leave":
                    await socket.close(code=4001, message=b"as you wish")
                else:
                    await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket


class Running:
    def __init__(self, app, runner, port, tls):
        self.app = app
        self.runner = runner
        self.port = port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self._ssl = tls.client() if tls else True

    def session(self, **options):
        """A client that keeps one connection alive."""
        connector = aiohttp.TCPConnector(limit=1, ssl=self._ssl)
        return aiohttp.ClientSession(self.url, connector=connector, **options)


@pytest.fixture(scope="module")
def file(tmp_path_factory, big):
    path = tmp_path_factory.mktemp("files") / "five megabytes"
    path.write_bytes(big[:FILE_SIZE])
    return path


@pytest.fixture
def serving(file):
    @contextlib.asynccontextmanager
    async def serving(tls=None, **options):
        app = Application(file)
        runner = web.AppRunner(app.web, access_log=None, shutdown_timeout=5.0, **options)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server() if tls else None)
            await site.start()
            yield Running(app, runner, runner.addresses[0][1], tls)
        finally:
            await runner.cleanup()

    return serving


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


@contextlib.asynccontextmanager
async def raw_connection(running, request, *, buffer_size=None):
    """A plain socket, which can do what a well-behaved client does not."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        if buffer_size:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", running.port))
        await loop.sock_sendall(sock, f"{request}\r\nHost: localhost\r\n\r\n".encode())
        yield sock


def reset(sock):
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_keep_alive_requests(run, serving):
    async def main():
        async with serving() as running:
            await ask_many(running, 20, 100)
            assert len(running.app.clients) == 20  # a connection each, kept for all of its requests

    run(main())


def test_one_session_for_all(run, serving):
    async def main():
        async with serving() as running, aiohttp.ClientSession(running.url) as session:
            answers = await asyncio.gather(*(get_json(session, f"/number/{n}") for n in range(500)))
            assert [answer["number"] for answer in answers] == list(range(500))

    run(main())


def test_big_body_both_ways(run, serving, post_big):
    async def main():
        async with serving() as running:
            await post_big(running, "/echo")
            await post_big(running, "/duplex")

    run(main())


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("cancel", [False, True], ids=["write fails", "handler cancelled"])
def test_client_leaves_mid_stream(run, serving, how, cancel):
    async def main():
        async with serving(handler_cancellation=cancel) as running:
            loop = asyncio.get_running_loop()
            for _ in range(5):
                async with raw_connection(running, "GET /endless HTTP/1.1") as sock:
                    assert (await loop.sock_recv(sock, 100)).startswith(b"HTTP/1.1 200")
                    for _ in range(10):
                        assert await loop.sock_recv(sock, 10_000)
                    if how == "reset":
                        reset(sock)
                # Without cancellation it must be the next write that fails.
                expected = (ConnectionError, asyncio.CancelledError) if cancel else ConnectionError
                assert isinstance(await running.app.gave_up.get(), expected)
            await ask_many(running, 2, 10)

    run(main())


def test_reset_mid_upload(run, serving):
    async def main():
        async with serving() as running:
            loop = asyncio.get_running_loop()
            for _ in range(10):
                running.app.entered.clear()
                request = "POST /upload HTTP/1.1\r\nContent-Length: 10000000"
                async with raw_connection(running, request) as sock:
                    await loop.sock_sendall(sock, bytes(1_000_000))
                    await running.app.entered.wait()
                    reset(sock)
                assert await running.app.gave_up.get()
            await ask_many(running, 2, 10)

    run(main())


def test_client_gives_up_waiting(run, serving):
    async def main():
        async with serving() as running, running.session() as session:
            for _ in range(5):
                with pytest.raises(asyncio.TimeoutError):
                    await session.get("/slow", timeout=aiohttp.ClientTimeout(total=0.02))
                assert (await get_json(session, "/number/3"))["number"] == 3
            running.app.release.set()

    run(main())


def test_graceful_shutdown(run, serving):
    async def main():
        async with serving() as running, running.session() as session:
            loop = asyncio.get_running_loop()
            async with raw_connection(running, "GET /number/1 HTTP/1.1") as idle:
                in_flight = asyncio.create_task(get_json(session, "/slow"))
                await running.app.entered.wait()
                cleanup = asyncio.create_task(running.runner.cleanup())
                await running.app.stopping.wait()
                received = b""
                while piece := await loop.sock_recv(idle, 10_000):  # up to EOF: it was idle
                    received += piece
                assert received.endswith(b'{"number": 1, "text": "x"}')
            assert not in_flight.done()
            running.app.release.set()
            assert await in_flight == {"slow": "done"}
            await cleanup
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", running.port)

    run(main())


def test_tls(run, serving, tls, post_big):
    async def main():
        async with serving(tls) as running:
            await ask_many(running, 10, 30)
            await post_big(running, "/echo")
            await post_big(running, "/duplex")

    run(main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_websocket_echo(run, serving, tls, big, assert_same, secure):
    async def main():
        async with serving(tls if secure else None) as running:

            async def talk(number):
                async with running.session() as session, session.ws_connect("/socket", max_msg_size=0) as ws:
                    for i in range(100):
                        await ws.send_str(f"{number}: {i}")
                        await ws.send_bytes(big[i : i * 100])
                        assert await ws.receive_str() == f"{number}: {i}"
                        assert_same(await ws.receive_bytes(), big[i : i * 100])
                    if number == 0:
                        await ws.send_bytes(big)
                        assert_same(await ws.receive_bytes(), big)
                    await ws.send_str("leave")
                    message = await ws.receive()
                    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4001)
                    assert message.extra == "as you wish"

            await asyncio.gather(*map(talk, range(10)))

    run(main())


@pytest.fixture
def sendfile_calls(loop_factory, monkeypatch):
    """A list that gets one item for each call of the loop's sendfile()."""
    with contextlib.closing(loop_factory()) as loop:
        loop_class = type(loop)
    original, calls = loop_class.sendfile, []

    def counted(self, *args, **kwargs):
        calls.append(args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(loop_class, "sendfile", counted)
    return calls


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_file(run, serving, sendfile_calls, tls, big, assert_same, secure):
    async def main():
        async with serving(tls if secure else None) as running:

            async def fetch(start):
                headers = {"Range": f"bytes={start}-"} if start else {}
                async with running.session() as session:
                    for _ in range(2):
                        async with session.get("/file", headers=headers) as response:
                            assert response.status == (206 if start else 200)
                            assert_same(await response.read(), big[start:FILE_SIZE])
                        assert (await get_json(session, "/number/5"))["number"] == 5  # same connection

            await asyncio.gather(*map(fetch, (0, 0, 1, 4_999_999)))

    run(main())
    assert len(sendfile_calls) == 8


def test_client_leaves_mid_file(run, serving):
    async def main():
        async with serving() as running:
            loop = asyncio.get_running_loop()
            for _ in range(5):
                # Small, so that most of the file is still to be sent when the client goes.
                async with raw_connection(running, "GET /file HTTP/1.1", buffer_size=4_096) as sock:
                    assert (await loop.sock_recv(sock, 100)).startswith(b"HTTP/1.1 200")
                    reset(sock)
            await ask_many(running, 2, 10)

    run(main())
