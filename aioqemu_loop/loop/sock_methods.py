"""The sock_* methods: try the system call, wait until the socket is ready where it would block, try again.

A cancelled one loses nothing: between two awaits the system call has either happened or not.
"""

from __future__ import annotations

import functools
import socket
from asyncio import base_events
from typing import IO, TYPE_CHECKING, Any

from aioqemu_loop.loop import sendfile
from aioqemu_loop.loop.core import LoopCore
from aioqemu_loop.loop.sock_calls import SockWaiter, call, recv, recv_into, send


def _check(loop: LoopCore, sock: socket.socket) -> None:
    """Raise TypeError for an SSLSocket, and in debug mode ValueError for a blocking socket."""
    base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
    if loop._debug and sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")


async def _ready(loop: LoopCore, sock: socket.socket, write: bool) -> None:
    """Wait until the socket is readable or writable."""
    waiter = SockWaiter(loop, sock.fileno(), write)
    try:
        await waiter
    finally:
        waiter.stop()


class SockMethods(LoopCore):
    """A part of Loop."""

    if TYPE_CHECKING:  # BaseEventLoop has it

        async def _ensure_resolved(self, address: Any, **kwargs: Any) -> list[Any]: ...

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        _check(self, sock)
        while (data := recv(self, sock, nbytes)) is None:
            await _ready(self, sock, False)
        return data

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        _check(self, sock)
        while (count := recv_into(self, sock, buf)) is None:
            await _ready(self, sock, False)
        return count

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        _check(self, sock)
        while (result := call(sock.recvfrom, bufsize)) is None:
            await _ready(self, sock, False)
        return result  # type: ignore[no-any-return]

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        _check(self, sock)
        while (result := call(sock.recvfrom_into, buf, nbytes or len(buf))) is None:
            await _ready(self, sock, False)
        return result  # type: ignore[no-any-return]

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        _check(self, sock)
        while (count := call(sock.sendto, data, address)) is None:
            await _ready(self, sock, True)
        return count  # type: ignore[no-any-return]

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """How much was sent when it is cancelled or fails is not told, as in asyncio."""
        _check(self, sock)
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        sent = send(self, sock, data, 0) or 0
        while sent < size:
            await _ready(self, sock, True)
            sent += send(self, sock, data, sent) or 0

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        _check(self, sock)
        while (result := call(sock.accept)) is None:
            await _ready(self, sock, False)
        result[0].setblocking(False)
        return result  # type: ignore[no-any-return]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        _check(self, sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError):
            await _ready(self, sock, True)
            err = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if err:
                raise OSError(err, f"Connect call failed {address}") from None

    async def _sock_sendfile_native(self, sock: socket.socket, file: IO[bytes], offset: int, count: int | None) -> int:
        wait = functools.partial(_ready, self, sock, True)
        return await sendfile.send_file(sock.fileno, file, offset, count, wait)
