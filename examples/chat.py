"""A chat: what one says, all the others read. Slow readers are dropped, so that nobody waits for them.

python examples/chat.py [--port 8889]     # and then, in several terminals: nc localhost 8889
python examples/chat.py --once            # two guests talk, and it ends
"""

from __future__ import annotations

import argparse
import asyncio

import aioqemu_loop

BUFFER_MAX = 256 * 1024  # bytes that may wait for a guest


class Room:
    def __init__(self) -> None:
        self.guests: dict[asyncio.StreamWriter, str] = {}

    def say(self, line: str, speaker: asyncio.StreamWriter | None = None) -> None:
        for guest in list(self.guests):
            if guest is speaker:
                continue
            if guest.transport.get_write_buffer_size() > BUFFER_MAX:
                guest.transport.abort()
            else:
                guest.write(f"{line}\n".encode())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"Your name? ")
            name = (await reader.readline()).decode(errors="replace").strip()
            if not name:
                return
            self.guests[writer] = name
            self.say(f"* {name} is here, we are {len(self.guests)}")
            while line := await reader.readline():
                self.say(f"{name}: {line.decode(errors='replace').rstrip()}", writer)
        except (ConnectionError, ValueError):  # gone, or a line that is too long
            pass
        finally:
            if name := self.guests.pop(writer, ""):
                self.say(f"* {name} has left")
            writer.close()


async def talk(port: int) -> None:
    """Two guests, one after the other, and what the first one reads."""
    ada_reads, ada = await asyncio.open_connection("127.0.0.1", port)
    ada.write(b"Ada\n")
    await ada_reads.readuntil(b"we are 1\n")
    _, bob = await asyncio.open_connection("127.0.0.1", port)
    bob.write(b"Bob\nhello\n")
    bob.write_eof()
    for _ in range(3):
        print((await ada_reads.readline()).decode().rstrip())
    for guest in (ada, bob):
        guest.close()
        await guest.wait_closed()


async def main(port: int, once: bool) -> None:
    room = Room()
    async with await asyncio.start_server(room.serve, "127.0.0.1", port) as server:
        port = server.sockets[0].getsockname()[1]
        print("port", port, flush=True)
        if not once:
            await server.serve_forever()
        await talk(port)
        while room.guests:  # until the server has seen that Ada is gone, too
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    try:
        aioqemu_loop.run(main(arguments.port, arguments.once))
    except KeyboardInterrupt:
        print("stopped")
