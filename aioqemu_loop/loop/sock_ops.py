"""The sock_* methods: try the system call, wait until the socket is ready where it would block, try again.

A cancelled one loses nothing: between two awaits the system call has either happened or not.
"""

from __future__ import annotations

import socket
from asyncio import base_events
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioqemu_loop.loop.loop import Loop


def check(loop: Loop, sock: socket.socket) -> None:
    """Raise TypeError for an SSLSocket, and in debug mode ValueError for a blocking socket."""
    base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
    if loop.get_debug() and sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")


async def ready(loop: Loop, sock: socket.socket, *, write: bool) -> None:
    """Wait until the socket is readable or writable."""
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    fd = sock.fileno()
    handle = loop._add_writer(fd, wake) if write else loop._add_reader(fd, wake)
    try:
        await waiter
    finally:
        if not handle.cancelled():  # else somebody else has set a callback for this socket meanwhile
            if write:
                loop.remove_writer(fd)
            else:
                loop.remove_reader(fd)


async def _retry(loop: Loop, sock: socket.socket, write: bool, operation: str, *args: Any) -> Any:
    check(loop, sock)
    while True:
        try:
            return getattr(sock, operation)(*args)
        except (BlockingIOError, InterruptedError):
            await ready(loop, sock, write=write)


async def recv(loop: Loop, sock: socket.socket, nbytes: int) -> bytes:
    result: bytes = await _retry(loop, sock, False, "recv", nbytes)
    return result


async def recv_into(loop: Loop, sock: socket.socket, buf: Any) -> int:
    result: int = await _retry(loop, sock, False, "recv_into", buf)
    return result


async def recvfrom(loop: Loop, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
    result: tuple[bytes, Any] = await _retry(loop, sock, False, "recvfrom", bufsize)
    return result


async def recvfrom_into(loop: Loop, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
    result: tuple[int, Any] = await _retry(loop, sock, False, "recvfrom_into", buf, nbytes or len(buf))
    return result


async def sendto(loop: Loop, sock: socket.socket, data: Any, address: Any) -> int:
    result: int = await _retry(loop, sock, True, "sendto", data, address)
    return result


async def sendall(loop: Loop, sock: socket.socket, data: Any) -> None:
    """How much was sent when it is cancelled or fails is not told, as in asyncio."""
    with memoryview(data) as view, view.cast("B") as left:
        sent = 0
        while sent < len(left):
            sent += await _retry(loop, sock, True, "send", left[sent:])


async def accept(loop: Loop, sock: socket.socket) -> tuple[socket.socket, Any]:
    conn, address = await _retry(loop, sock, False, "accept")
    conn.setblocking(False)
    return conn, address


async def connect(loop: Loop, sock: socket.socket, address: Any) -> None:
    check(loop, sock)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        resolved = await loop._ensure_resolved(address, family=sock.family, type=sock.type, proto=sock.proto, loop=loop)
        address = resolved[0][4]
    try:
        sock.connect(address)
    except (BlockingIOError, InterruptedError):
        loop._ensure_fd_no_transport(sock)
        await ready(loop, sock, write=True)
        err = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if err:
            raise OSError(err, f"Connect call failed {address}") from None
