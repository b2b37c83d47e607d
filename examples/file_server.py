"""A server for the files of a folder, by HTTP/1.1 and sendfile(2): their bytes never pass through Python.

python examples/file_server.py [--port 8080] FOLDER
python examples/file_server.py --once FOLDER      # fetches each file from itself and ends
"""

from __future__ import annotations

import argparse
import asyncio
import stat
from pathlib import Path
from urllib.parse import quote, unquote

import aioqemu_loop
from aioqemu_loop import files

HEADER_TIMEOUT_S = 10.0


class Refused(Exception):
    """With the status line of the answer."""


class FileServer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEADER_TIMEOUT_S)
                try:
                    await self.answer(head.decode("latin-1").split("\r\n", 1)[0], writer)
                except Refused as refused:
                    writer.write(f"HTTP/1.1 {refused}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, request: str, writer: asyncio.StreamWriter) -> None:
        method, _, rest = request.partition(" ")
        if method not in ("GET", "HEAD"):
            raise Refused("405 Method Not Allowed")
        path = self.path_of(unquote(rest.partition(" ")[0].partition("?")[0]))
        try:
            async with files.open(path, "rb") as file:
                found = await files.stat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise Refused("404 Not Found")
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {found.st_size}\r\n\r\n".encode())
                if method == "GET" and found.st_size:
                    await files.sendfile(writer, file, 0, found.st_size)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError) as exc:
            raise Refused("404 Not Found") from exc

    def path_of(self, url_path: str) -> Path:
        path = (self.folder / url_path.lstrip("/")).resolve()  # links and .. may not lead out of the folder
        if not path.is_relative_to(self.folder):
            raise Refused("403 Forbidden")
        return path


async def fetch(port: int, name: str) -> tuple[str, bytes]:
    """Status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /{quote(name)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = await reader.readexactly(int(head.rpartition("Content-Length: ")[2]))
    writer.close()
    await writer.wait_closed()
    return head.split("\r\n", 1)[0].partition(" ")[2], body


async def main(folder: Path, port: int, once: bool) -> None:
    async with await asyncio.start_server(FileServer(folder).serve, "127.0.0.1", port) as server:
        port = server.sockets[0].getsockname()[1]
        print("port", port, flush=True)
        if not once:
            await server.serve_forever()
        for name in sorted(path.name for path in folder.iterdir()):
            status, body = await fetch(port, name)
            print(f"{name}: {status}, {len(body)} bytes")
        print(f"../etc/passwd: {(await fetch(port, '../etc/passwd'))[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    try:
        aioqemu_loop.run(main(arguments.folder, arguments.port, arguments.once))
    except KeyboardInterrupt:
        print("stopped")
