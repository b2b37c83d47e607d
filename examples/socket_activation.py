"""An echo server that systemd starts with the first connection: the listening sockets are inherited (LISTEN_FDS).

Units for it are in docs/integrations.md. By hand: systemd-socket-activate -l 8888 python examples/socket_activation.py
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import aioqemu_loop

FIRST_FD = 3  # SD_LISTEN_FDS_START: sd_listen_fds(3)


def inherited_sockets() -> list[socket.socket]:
    """Those that systemd passed to this process; none where it was started in another way."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    os.environ.pop("LISTEN_FDNAMES", None)
    sockets = [socket.socket(fileno=fd) for fd in range(FIRST_FD, FIRST_FD + count)]
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main() -> None:
    sockets = inherited_sockets()
    if not sockets:
        raise SystemExit("no socket was passed; start me by systemd, or by systemd-socket-activate")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    servers = [await asyncio.start_server(handle, sock=sock) for sock in sockets]
    print(f"serving on {len(servers)} inherited socket(s)", flush=True)
    await stopped.wait()
    for server in servers:
        server.close()
        await server.wait_closed()


if __name__ == "__main__":
    aioqemu_loop.run(main())
