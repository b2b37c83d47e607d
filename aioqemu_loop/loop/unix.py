"""Unix stream sockets: create_unix_connection and create_unix_server."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl as ssl_module
import stat
import sys
from asyncio import base_events, tasks
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import BaseProtocol, Server

    from aioqemu_loop.loop.loop import Loop

Path = str | bytes | os.PathLike[str]
# asyncio removes the socket file of a server that it closes from 3.13 on.
CLEANUP_SOCKET = sys.version_info >= (3, 13)
# Detectors of blocking calls replace os.stat, and allow those that asyncio makes at these places.
_status = os.stat


def tls_timeouts(handshake: float | None, shutdown: float | None) -> dict[str, Any]:
    """The keywords that this Python's asyncio has for them (ssl_shutdown_timeout came with 3.11)."""
    timeouts: dict[str, Any] = {"ssl_handshake_timeout": handshake}
    if sys.version_info >= (3, 11):
        timeouts["ssl_shutdown_timeout"] = shutdown
    return timeouts


def _check_tls_arguments(ssl: object, **arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None and not ssl:
            raise ValueError(f"{name} is only meaningful with ssl")


def _check_stream_socket(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def _is_abstract(path: str | bytes) -> bool:
    return path[:1] in ("\0", b"\0")


async def create_unix_connection(
    loop: Loop,
    protocol_factory: Callable[[], BaseProtocol],
    path: Path | None,
    ssl: bool | ssl_module.SSLContext | None,
    sock: socket.socket | None,
    server_hostname: str | None,
    ssl_handshake_timeout: float | None,
    ssl_shutdown_timeout: float | None,
) -> tuple[Any, Any]:
    if ssl and server_hostname is None:
        raise ValueError("you have to pass server_hostname when using ssl")
    _check_tls_arguments(
        ssl,
        server_hostname=server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    if path is not None:
        if sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, os.fspath(path))
        except BaseException:
            sock.close()
            raise
    elif sock is None:
        raise ValueError("no path and sock were specified")
    else:
        _check_stream_socket(sock)
        sock.setblocking(False)
    return await loop._create_connection_transport(
        sock,
        protocol_factory,
        ssl,
        server_hostname,
        **tls_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout),
    )


def _bind(path: str | bytes) -> socket.socket:
    if not _is_abstract(path):
        try:
            if stat.S_ISSOCK(_status(path).st_mode):
                os.remove(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


async def create_unix_server(
    loop: Loop,
    protocol_factory: Callable[[], BaseProtocol],
    path: Path | None,
    sock: socket.socket | None,
    backlog: int,
    ssl: ssl_module.SSLContext | None,
    ssl_handshake_timeout: float | None,
    ssl_shutdown_timeout: float | None,
    start_serving: bool,
    cleanup_socket: bool,
) -> Server:
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    _check_tls_arguments(ssl, ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout)
    if path is not None:
        if sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        sock = _bind(os.fspath(path))
    elif sock is None:
        raise ValueError("path was not specified, and no sock specified")
    else:
        _check_stream_socket(sock)
    if cleanup_socket:
        address = sock.getsockname()
        if address and not _is_abstract(address):
            with contextlib.suppress(FileNotFoundError):
                loop._unix_server_sockets[sock] = _status(address).st_ino
    sock.setblocking(False)
    timeouts = tls_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout).values()
    server = base_events.Server(loop, [sock], protocol_factory, ssl, backlog, *timeouts)
    if start_serving:
        server._start_serving()  # type: ignore[attr-defined]
        await tasks.sleep(0)
    return server


def remove_socket_file(path: str, inode: int) -> None:
    """Remove a closed server's socket file, if it is still that server's."""
    try:
        if _status(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        logger.error("Unable to clean up listening UNIX socket %r: %r", path, exc)
