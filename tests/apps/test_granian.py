"""granian in our loop, by its embeddable server: threads in Rust serve HTTP and call into the loop from outside.

Its command line knows a fixed set of loops; `granian --loop asyncio` makes ours where a policy says so.
"""

import asyncio
import contextlib
import socket

import pytest

pytest.importorskip("httpx")
embed = pytest.importorskip("granian.server.embed")
constants = pytest.importorskip("granian.constants")
websockets_client = pytest.importorskip("websockets.asyncio.client")

from . import asgi  # noqa: E402, after it is known that httpx is there

HAS_FDS_OF_ITS_OWN = True  # a listener and a socket pair, on any loop


@pytest.fixture(params=["http/1.1", "https/1.1", "h2"])
def protocol(request):
    return request.param


class Running:
    def __init__(self, application, server, task, port, protocol, tls):
        self.application, self.server, self.task, self.port = application, server, task, port
        self.protocol, self.tls = protocol, tls
        self.secure = "" if protocol == "http/1.1" else "s"

    def client(self):
        http2 = self.protocol == "h2"
        return asgi.client_of(f"http{self.secure}://localhost:{self.port}", self.tls, http2=http2, http1=not http2)

    def websocket(self):
        options = {"ssl": self.tls.client()} if self.secure else {}
        url = f"ws{self.secure}://localhost:{self.port}"
        return websockets_client.connect(url, proxy=None, max_size=None, compression=None, **options)


@pytest.fixture
def serving(protocol, assert_ours, tls):
    """async with serving() as running: the server and the means to ask it."""

    @contextlib.asynccontextmanager
    async def serving():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        files = {} if protocol == "http/1.1" else {"ssl_cert": tls.cert, "ssl_key": tls.key}
        application = asgi.Application(assert_ours)
        asgi_lifespan = constants.Interfaces.ASGI
        server = embed.Server(application, port=port, interface=asgi_lifespan, log_enabled=False, **files)
        task = asyncio.create_task(server.serve())
        started = asyncio.create_task(application.started.wait())
        await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        try:
            yield Running(application, server, task, port, protocol, tls)
        finally:
            server.stop()
            await task
            assert application.stopped

    return serving


def test_requests(run, serving, protocol):
    async def main():
        async with serving() as running, running.client() as client:
            await asgi.ask_many(client)
            assert (await client.get("/number/1")).http_version == ("HTTP/2" if protocol == "h2" else "HTTP/1.1")

    run(main())


def test_big_bodies(run, serving, big):
    async def main():
        async with serving() as running, running.client() as client:
            await asgi.post_big(client, big[:1_000_000])

    run(main())


def test_clients_leave_in_the_middle(run, serving, protocol):
    if protocol == "h2":
        pytest.skip("granian hangs in send() when an HTTP/2 client resets a stream, on the stdlib's loop too")

    async def main():
        async with serving() as running, running.client() as client:
            await asgi.leave_in_the_middle(client, running.application)
            await asgi.give_up(client, running.application)

    run(main())


def test_websockets(run, serving, big, protocol):
    if protocol == "h2":
        pytest.skip("the websockets library speaks HTTP/1.1")

    async def main():
        async with serving() as running:
            await asyncio.gather(*(asgi.talk_by_websocket(running.websocket, number) for number in range(6)))
            async with running.websocket() as connection:
                await connection.send(big[:1_000_000])
                assert await connection.recv() == big[:1_000_000]

    run(main())
