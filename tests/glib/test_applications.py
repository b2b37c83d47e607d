"""A GLib application and asyncio servers in one thread: aiohttp and uvicorn answer thousands of requests while a GLib
timeout fires on time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics

import pytest

from ..processor import undisturbed
from .helpers import ticking

HOST = "127.0.0.1"
TICK_MS = 10
REQUESTS = 2000  # of each server
CLIENTS = 8


@pytest.fixture
def ticks():
    """Moments at which a GLib timeout of 10 ms fired."""
    with ticking(TICK_MS) as moments:
        yield moments


def assert_on_time(ticks, seconds):
    """Nearly all of them, and with no long gap."""
    assert len(ticks) >= 0.5 * seconds * 1000 / TICK_MS
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    assert statistics.median(gaps) < 0.02
    assert max(gaps) < 0.5


async def request_all(port, answer):
    """HTTP/1.1 over connections that stay, by the loop's own streams."""

    async def client(count):
        reader, writer = await asyncio.open_connection(HOST, port)
        for _ in range(count):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            assert await reader.readexactly(length) == answer
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(REQUESTS // CLIENTS) for _ in range(CLIENTS)))


@contextlib.asynccontextmanager
async def aiohttp_server():
    web = pytest.importorskip("aiohttp.web")

    async def answer(request):
        await asyncio.sleep(0)
        return web.Response(text="aiohttp")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    yield site._server.sockets[0].getsockname()[1]
    await runner.cleanup()


@contextlib.asynccontextmanager
async def uvicorn_server():
    uvicorn = pytest.importorskip("uvicorn")

    async def app(scope, receive, send):
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]},
        )
        await send({"type": "http.response.body", "body": b"uvicorn"})

    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=0, log_level="error", lifespan="off", ws="none"))
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


class TestServers:
    @pytest.mark.timeout(120)
    def test_thousands_of_requests_and_a_timeout_of_glibs(self, run, ticks):
        async def main():
            async with aiohttp_server() as first, uvicorn_server() as second:
                ticks.clear()
                begin = undisturbed()
                await asyncio.gather(request_all(first, b"aiohttp"), request_all(second, b"uvicorn"))
                return undisturbed() - begin

        assert_on_time(ticks, run(main()))
