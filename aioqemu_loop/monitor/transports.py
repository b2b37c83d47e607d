"""Transports and listening sockets, described."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.naming import address_name
from aioqemu_loop.monitor.standard import type_name
from aioqemu_loop.transports.tls import TLSTransport


def describe_transport(handler: tuple[int, Any]) -> dict[str, Any] | None:
    """handler: (fd, owner), which is a transport, or a server or socket that listens, or None. Returns None where it
    was closed meanwhile."""
    fd, owner = handler
    if isinstance(owner, asyncio.AbstractServer | socket.socket):
        return _describe_listener(fd, owner)
    protocol = None if owner is None else owner.get_protocol()
    if protocol is None:
        return None
    buffered = probes.buffered(owner)
    tls: Any = protocol if type(protocol) is TLSTransport else None
    upper = owner
    if tls is not None:
        upper = tls
        buffered += probes.buffered(tls)
        protocol = tls.get_protocol()
    return {
        "fd": fd,
        "kind": _kind(owner),
        "local": address_name(owner.get_extra_info("sockname")),
        "peer": address_name(owner.get_extra_info("peername")),
        "buffered": buffered,
        "reading-paused": not (upper.is_reading() or upper.is_closing()) if hasattr(upper, "is_reading") else False,
        "writing-paused": bool(getattr(upper, "_protocol_paused", False)),
        "closing": upper.is_closing(),
        "tls": None if tls is None else _describe_tls(tls),
        "protocol": type_name(protocol),
    }


def innermost_protocol(owner: Any) -> Any:
    """The program's: that above TLS. The owner itself where it is a server or socket that listens."""
    if isinstance(owner, asyncio.AbstractServer | socket.socket):
        return owner
    protocol = owner.get_protocol()
    tls: Any = protocol if type(protocol) is TLSTransport else None
    return protocol if tls is None else tls.get_protocol()


def _describe_listener(fd: int, owner: Any) -> dict[str, Any] | None:
    try:
        sock = next(sock for sock in getattr(owner, "sockets", (owner,)) if sock.fileno() == fd)
        local = sock.getsockname()
    except (StopIteration, OSError):
        return None
    return {
        "fd": fd,
        "kind": "unix-listener" if sock.family == socket.AF_UNIX else "tcp-listener",
        "local": address_name(local),
        "peer": None,
        "buffered": 0,
        "reading-paused": False,
        "writing-paused": False,
        "closing": False,
        "tls": None,
        "protocol": None,
    }


def _kind(transport: Any) -> str:
    """ "tcp", "udp", "unix", "unix-datagram", "read-pipe", "write-pipe"."""
    name = type(transport).__name__
    if name.endswith("PipeTransport"):
        return "read-pipe" if name.startswith("Read") else "write-pipe"
    sock = transport.get_extra_info("socket")
    unix = sock is not None and sock.family == socket.AF_UNIX
    if name == "DatagramTransport":
        return "unix-datagram" if unix else "udp"
    return "unix" if unix else "tcp"


def _describe_tls(tls: Any) -> dict[str, Any]:
    cipher = tls.get_extra_info("cipher")
    return {"version": cipher[1], "cipher": cipher[0]} if cipher else {"version": None, "cipher": None}
