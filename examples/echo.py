"""An echo server, as short as it gets; with --once it asks itself and ends.

python examples/echo.py [--once] [--port 8888] [--fdmon epoll]     # and then: nc localhost 8888
"""

from __future__ import annotations

import argparse
import asyncio

import aioqemu_loop


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def ask(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def main(port: int, once: bool) -> None:
    async with await asyncio.start_server(handle, "127.0.0.1", port) as server:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, aioqemu_loop.Loop)
        port = server.sockets[0].getsockname()[1]
        print(f"port {port}, on {loop.fdmon}", flush=True)
        if not once:
            await server.serve_forever()
        print((await ask(port, b"hello, loop")).decode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--fdmon", default="auto")
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    try:
        aioqemu_loop.run(main(arguments.port, arguments.once), fdmon=arguments.fdmon)
    except KeyboardInterrupt:
        print("stopped")
