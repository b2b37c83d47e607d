"""hypercorn in our loop by its serve(), over HTTP/1.1, HTTP/2 and websockets, with and without TLS."""

import asyncio
import contextlib
import logging
import socket

import pytest

pytest.importorskip("h2")
pytest.importorskip("httpx")
hypercorn = pytest.importorskip("hypercorn.config")
hypercorn_asyncio = pytest.importorskip("hypercorn.asyncio")
websockets_client = pytest.importorskip("websockets.asyncio.client")

from . import asgi  # noqa: E402, after it is known that httpx is there

# What hypercorn leaves to the loop's exception handler when a client goes away in the middle; on any loop.
KNOWN_ERRORS = ("Unhandled exception in client_connected_cb",)


@pytest.fixture
def only_known_errors(caplog):
    """only_known_errors(): what was logged as an error is hypercorn's own, and not held against the test."""

    def only_known_errors():
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert [error for error in errors if not error.startswith(KNOWN_ERRORS)] == []
        caplog.clear()

    return only_known_errors


class Running:
    def __init__(self, application, task, stop, address, protocol, tls):
        self.application, self.task, self.stop, self.address = application, task, stop, address
        self.protocol, self.tls = protocol, tls
        self.secure = "" if protocol == "http/1.1" else "s"

    def client(self):
        url = f"http{self.secure}://localhost:{self.address[1]}"
        http2 = self.protocol == "h2"
        return asgi.client_of(url, self.tls, http2=http2, http1=not http2)

    def websocket(self):
        options = {"ssl": self.tls.client()} if self.secure else {}
        url = f"ws{self.secure}://localhost:{self.address[1]}"
        return websockets_client.connect(url, proxy=None, max_size=None, compression=None, **options)


@pytest.fixture(params=["http/1.1", "https/1.1", "h2"])
def protocol(request):
    return request.param


@pytest.fixture
def serving(protocol, assert_ours, tls):
    """async with serving() as running: the server and the means to ask it."""

    @contextlib.asynccontextmanager
    async def serving():
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        config = hypercorn.Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.errorlog = config.accesslog = None
        config.graceful_timeout = 20
        config.websocket_max_message_size = 2**25
        if protocol != "http/1.1":
            config.certfile, config.keyfile = str(tls.cert), str(tls.key)
        application, stop = asgi.Application(assert_ours), asyncio.Event()
        serve = hypercorn_asyncio.serve(application, config, shutdown_trigger=stop.wait)
        task = asyncio.create_task(serve)
        try:
            yield Running(application, task, stop, address, protocol, tls)
        finally:
            stop.set()
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


# hypercorn spawns a task in a group that has ended, and so never awaits its coroutine.
@pytest.mark.filterwarnings("ignore:coroutine 'TCPServer._idle_timeout' was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <coroutine object TCPServer._idle_timeout")
def test_clients_leave_in_the_middle(run, serving, protocol, only_known_errors):
    if protocol == "h2":
        pytest.skip("hypercorn hangs in send() when an HTTP/2 client resets a stream, on the stdlib's loop too")

    async def main():
        async with serving() as running, running.client() as client:
            await asgi.leave_in_the_middle(client, running.application)
            await asgi.give_up(client, running.application)

    run(main())
    only_known_errors()


def test_websockets(run, serving, big, protocol, only_known_errors):
    if protocol == "h2":
        pytest.skip("the websockets library speaks HTTP/1.1")

    async def main():
        async with serving() as running:
            await asyncio.gather(*(asgi.talk_by_websocket(running.websocket, number) for number in range(6)))
            async with running.websocket() as connection:
                await connection.send(big[:1_000_000])
                assert await connection.recv() == big[:1_000_000]

    run(main())
    only_known_errors()


def test_shutdown_waits_for_a_request(run, serving):
    async def main():
        async with serving() as running, running.client() as client:
            request = asyncio.create_task(client.get("/slow"))
            await running.application.entered.wait()
            running.stop.set()
            await asyncio.sleep(0.01)
            assert not running.task.done()
            running.application.release.set()
            assert (await request).content == b"done"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*running.address)

    run(main())
