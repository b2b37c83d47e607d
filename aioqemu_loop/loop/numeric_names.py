"""getaddrinfo() of addresses that are numbers: nothing to look up, so no thread is asked.

The answers are those of the C library, in its order; what is unusual in any way is left to it.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

_getaddrinfo = socket.getaddrinfo
_IGNORED_FLAGS = int(socket.AI_PASSIVE | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
_STREAM = (socket.SOCK_STREAM, socket.IPPROTO_TCP)
_DGRAM = (socket.SOCK_DGRAM, socket.IPPROTO_UDP)
# (type, proto) asked for -> what the C library answers.
_KINDS: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (0, 0): (_STREAM, _DGRAM, (socket.SOCK_RAW, 0)),
    (socket.SOCK_STREAM, 0): (_STREAM,),
    (socket.SOCK_STREAM, socket.IPPROTO_TCP): (_STREAM,),
    (0, socket.IPPROTO_TCP): (_STREAM,),
    (socket.SOCK_DGRAM, 0): (_DGRAM,),
    (socket.SOCK_DGRAM, socket.IPPROTO_UDP): (_DGRAM,),
}


def numeric_addresses(
    host: object, port: object, family: int, type: int, proto: int, flags: int
) -> list[AddressInfo] | None:
    """What socket.getaddrinfo() returns, or None where that has to be asked.

    `host`: a str as inet_pton(3) takes it, without a scope; `port`: an int from 0 to 65535, or None.
    """
    if socket.getaddrinfo is not _getaddrinfo:  # somebody's replacement wants to be called
        return None
    if not isinstance(host, str) or flags & ~_IGNORED_FLAGS:
        return None
    kinds = _KINDS.get((type, proto))
    if kinds is None:
        return None
    if port is None:
        port = 0
    elif port.__class__ is not int or not 0 <= port <= 0xFFFF:
        return None
    own_family: socket.AddressFamily = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family and family != own_family:
        return None
    try:
        packed = socket.inet_pton(own_family, host)
    except (OSError, ValueError):
        return None
    if own_family == socket.AF_INET:
        address: tuple[Any, ...] = (host, port)
    else:
        address = (socket.inet_ntop(own_family, packed), port, 0, 0)
    sys.audit("socket.getaddrinfo", host, port, family, type, proto)
    return [(own_family, kind, number, "", address) for kind, number in kinds]
