"""tornado: HTTP server and client, websockets and raw streams. Its sockets are its own, watched by add_handler."""

import asyncio
import contextlib
import hashlib

import pytest

tornado = pytest.importorskip("tornado")
httpclient = pytest.importorskip("tornado.httpclient")
httpserver = pytest.importorskip("tornado.httpserver")
ioloop = pytest.importorskip("tornado.ioloop")
iostream = pytest.importorskip("tornado.iostream")
netutil = pytest.importorskip("tornado.netutil")
tcpclient = pytest.importorskip("tornado.tcpclient")
tcpserver = pytest.importorskip("tornado.tcpserver")
web = pytest.importorskip("tornado.web")
websocket = pytest.importorskip("tornado.websocket")

MAX = 2**25


class Number(web.RequestHandler):
    def get(self, number):
        self.application.assert_ours()
        assert ioloop.IOLoop.current().asyncio_loop is asyncio.get_running_loop()
        self.write({"number": int(number), "text": "x" * int(number)})


class Echo(web.RequestHandler):
    def post(self):
        self.write(self.request.body)


@web.stream_request_body
class Digest(web.RequestHandler):
    def prepare(self):
        self.digest = hashlib.sha256()

    def data_received(self, data):
        self.digest.update(data)

    def post(self):
        self.write(self.digest.hexdigest())


class Endless(web.RequestHandler):
    async def get(self):
        try:
            while True:
                self.write(b"piece of data " * 1000)
                await self.flush()
        except iostream.StreamClosedError:
            self.application.left.set()


class Thread(web.RequestHandler):
    async def get(self, number):
        result = await ioloop.IOLoop.current().run_in_executor(None, lambda: int(number) * 2)
        self.write({"number": result})


class Socket(websocket.WebSocketHandler):
    def on_message(self, message):
        if message == "leave":
            self.close(4001, "as you wish")
        else:
            self.write_message(message, binary=isinstance(message, bytes))


class Serving:
    def __init__(self, assert_ours, tls):
        self.tls = tls
        self.application = web.Application(
            [
                (r"/number/(\d+)", Number),
                (r"/echo", Echo),
                (r"/digest", Digest),
                (r"/endless", Endless),
                (r"/thread/(\d+)", Thread),
                (r"/socket", Socket),
            ],
            websocket_max_message_size=MAX,
            log_function=lambda handler: None,
        )
        self.application.assert_ours = assert_ours
        self.left = self.application.left = asyncio.Event()

    async def __aenter__(self):
        options = {"ssl_options": self.tls.server()} if self.tls else {}
        self.server = httpserver.HTTPServer(self.application, max_buffer_size=MAX, **options)
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        self.server.add_sockets(sockets)
        self.address = sockets[0].getsockname()
        secure = "s" if self.tls else ""
        self.url = f"http{secure}://localhost:{self.address[1]}"
        self.client = httpclient.AsyncHTTPClient(force_instance=True, max_clients=8, max_body_size=MAX)
        return self

    async def __aexit__(self, *_):
        self.client.close()
        self.server.stop()
        await self.server.close_all_connections()

    def request(self, path, **options):
        if self.tls:
            options["ssl_options"] = self.tls.client()
        return httpclient.HTTPRequest(self.url + path, request_timeout=30, **options)

    async def fetch(self, path, **options):
        return await self.client.fetch(self.request(path, **options))

    async def websocket(self):
        request = self.request("/socket")
        request.url = request.url.replace("http", "ws", 1)
        return await websocket.websocket_connect(request, max_message_size=MAX)


@pytest.fixture(params=["tcp", "tls"])
def serving(request, assert_ours, tls):
    """async with serving() as running: an HTTP server and a client for it."""
    return lambda: Serving(assert_ours, tls if request.param == "tls" else None)


def test_requests(run, serving):
    async def main():
        async with serving() as running:

            async def worker(number):
                for i in range(number, number + 10):
                    answer = await running.fetch(f"/number/{i}")
                    assert answer.body == b'{"number": %d, "text": "%s"}' % (i, b"x" * i)

            await asyncio.gather(*map(worker, range(10)))

    run(main())


def test_keep_alive_and_pipelined_requests(run, assert_ours):
    async def main():
        async with Serving(assert_ours, None) as running:
            reader, writer = await asyncio.open_connection(*running.address)
            for i in range(200):
                writer.write(f"GET /number/{i} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            for i in range(200):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                assert await reader.readexactly(length) == b'{"number": %d, "text": "%s"}' % (i, b"x" * i)
            writer.close()
            await writer.wait_closed()

    run(main())


def test_big_bodies(run, serving, big, assert_same):
    async def main():
        async with serving() as running:
            post = {"method": "POST", "body": big, "headers": {"Content-Type": "application/octet-stream"}}
            answer = await running.fetch("/digest", **post)
            assert answer.body.decode() == hashlib.sha256(big).hexdigest()
            assert_same((await running.fetch("/echo", **post)).body, big)

    run(main())


def test_worker_threads(run, serving):
    async def main():
        async with serving() as running:
            answers = await asyncio.gather(*(running.fetch(f"/thread/{i}") for i in range(50)))
            assert [answer.body for answer in answers] == [b'{"number": %d}' % (2 * i) for i in range(50)]

    run(main())


def test_client_leaves_in_the_middle(run, serving):
    async def main():
        async with serving() as running:
            for _ in range(5):
                running.left.clear()
                context = running.tls and running.tls.client()
                reader, writer = await asyncio.open_connection("localhost", running.address[1], ssl=context)
                writer.write(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await reader.readexactly(200_000)
                writer.transport.abort()
                await running.left.wait()
            assert (await running.fetch("/number/1")).body

    run(main())


def test_timeout(run, serving):
    async def main():
        async with serving() as running:
            for _ in range(3):
                running.left.clear()
                request = running.request("/endless", streaming_callback=lambda piece: None)
                request.request_timeout = 0.05
                with pytest.raises(httpclient.HTTPError, match="Timeout"):
                    await running.client.fetch(request)
                await running.left.wait()

    run(main())


def test_websockets(run, serving, big, assert_same):
    async def main():
        async with serving() as running:

            async def talk(number):
                connection = await running.websocket()
                for i in range(50):
                    message = f"{number}: {i} " * i if i % 2 else bytes([number]) * i
                    await connection.write_message(message, binary=isinstance(message, bytes))
                    assert await connection.read_message() == message
                await connection.write_message("leave")
                assert await connection.read_message() is None
                assert (connection.close_code, connection.close_reason) == (4001, "as you wish")
                connection.close()

            await asyncio.gather(*map(talk, range(6)))
            connection = await running.websocket()
            await connection.write_message(big, binary=True)
            assert_same(await connection.read_message(), big)
            connection.close()
            assert await connection.read_message() is None

    run(main())


class EchoServer(tcpserver.TCPServer):
    async def handle_stream(self, stream, address):
        with contextlib.suppress(iostream.StreamClosedError):
            while True:
                await stream.write(await stream.read_bytes(65536, partial=True))


def test_raw_streams(run, big, assert_same):
    async def main():
        server = EchoServer()
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        client = tcpclient.TCPClient()

        async def talk(data):
            stream = await client.connect("127.0.0.1", sockets[0].getsockname()[1])
            stream.write(data)  # sent while the answer comes back
            assert_same(await stream.read_bytes(len(data)), data)
            stream.close()

        await asyncio.gather(*(talk(big[i * 1_000_000 : (i + 1) * 1_000_000]) for i in range(10)))
        client.close()
        server.stop()

    run(main())


def test_periodic_callback(run, assert_ours):
    async def main():
        enough = asyncio.Event()
        calls = []

        def call():
            assert_ours()
            calls.append(None)
            if len(calls) == 20:
                enough.set()

        periodic = ioloop.PeriodicCallback(call, 1)
        periodic.start()
        await enough.wait()
        periodic.stop()

    run(main())
