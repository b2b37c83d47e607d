"""One web server in one process: `python -m bench.web LOOP APP [--tls PEM]`, APP is "uvicorn" or "aiohttp".

GET / answers with a few bytes of plain text, GET /10KiB with so many. Prints "ready ADDRESS" when clients may connect;
serves until it is killed. uvicorn parses with httptools and runs a bare ASGI application.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from bench import loops, servers, syscalls

BODIES = {"/": b"Hello, World!", "/10KiB": b"x" * 10240}

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def asgi(scope: dict[str, Any], receive: Callable[[], Awaitable[object]], send: Send) -> None:
    body = BODIES[scope["path"]]
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve_uvicorn(listener: socket.socket, pem: str | None, ready: Callable[[], None]) -> None:
    import uvicorn

    config = uvicorn.Config(
        asgi,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=servers.BACKLOG,
        ssl_certfile=pem,
        ssl_keyfile=pem,
    )
    config.load()
    ready()  # a moment early: the kernel queues the clients
    await uvicorn.Server(config).serve(sockets=[listener])


async def serve_aiohttp(listener: socket.socket, pem: str | None, ready: Callable[[], None]) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=BODIES[request.path], content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get(path, answer) for path in BODIES])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=servers.BACKLOG, ssl_context=servers.tls_context(pem)).start()
    ready()
    await asyncio.Event().wait()


APPS = {"uvicorn": serve_uvicorn, "aiohttp": serve_aiohttp}


async def main(app: str, pem: str | None) -> None:
    listener, name = servers.listen("127.0.0.1:0")
    await APPS[app](listener, pem, lambda: print(f"ready {name}", flush=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop")
    parser.add_argument("app", choices=APPS)
    parser.add_argument("--tls", metavar="PEM")
    words = parser.parse_args()
    syscalls.allow_tracing()
    loops.run(words.loop, main(words.app, words.tls))
