"""An HTTP server with aiohttp (pip install aiohttp): JSON, a stream, and a WebSocket.

python examples/http_server.py [--port 8080]
python examples/http_server.py --once         # asks itself and ends
"""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
from aiohttp import web

import aioqemu_loop


async def hello(request: web.Request) -> web.Response:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioqemu_loop.Loop)
    return web.json_response({"hello": request.match_info["name"], "fdmon": loop.fdmon})


async def count(request: web.Request) -> web.StreamResponse:
    """A line every 10 ms."""
    response = web.StreamResponse()
    await response.prepare(request)
    for i in range(int(request.query.get("to", 5))):
        await response.write(b"%d\n" % i)
        await asyncio.sleep(0.01)
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data.upper())
    return socket


def application() -> web.Application:
    made = web.Application()
    made.add_routes([web.get("/hello/{name}", hello), web.get("/count", count), web.get("/socket", echo)])
    return made


async def ask(port: int) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/hello/loop") as response:
            print((await response.json())["hello"])
        async with session.get("/count", params={"to": 3}) as response:
            print((await response.text()).split())
        async with session.ws_connect("/socket") as socket:
            await socket.send_str("over a websocket")
            print(await socket.receive_str())


async def main(port: int, once: bool) -> None:
    runner = web.AppRunner(application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    port = runner.addresses[0][1]
    print("port", port, flush=True)
    try:
        if once:
            await ask(port)
        else:
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    try:
        aioqemu_loop.run(main(arguments.port, arguments.once))
    except KeyboardInterrupt:
        print("stopped")
