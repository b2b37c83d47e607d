"""Name resolution."""

from __future__ import annotations

import asyncio
import socket

from tools.compatibility.peers import raised_by
from tools.compatibility.registry import topic

probe = topic("Name resolution")


@probe("getaddrinfo says what socket.getaddrinfo says")
async def getaddrinfo():
    loop = asyncio.get_running_loop()
    for args, keywords in (
        (("127.0.0.1", 80), {}),
        (("127.0.0.1", 80), {"type": socket.SOCK_STREAM}),
        (("127.0.0.1", "80"), {"family": socket.AF_INET, "proto": socket.IPPROTO_UDP}),
        (("::1", 80), {"type": socket.SOCK_DGRAM}),
        (("localhost", 80), {"type": socket.SOCK_STREAM}),
        ((b"localhost", None), {"type": socket.SOCK_STREAM}),
        ((None, 80), {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}),
    ):
        assert await loop.getaddrinfo(*args, **keywords) == socket.getaddrinfo(*args, **keywords), f"{args} {keywords}"


@probe("getaddrinfo keeps scope ids")
async def scope_ids():
    result = await asyncio.get_running_loop().getaddrinfo("fe80::1%lo", 80, type=socket.SOCK_STREAM)
    scope = result[0][4][3]
    assert scope == socket.if_nametoindex("lo"), f"scope {scope}"


@probe("getaddrinfo of a name that does not exist raises socket.gaierror")
async def unknown():
    loop = asyncio.get_running_loop()
    await raised_by(socket.gaierror, loop.getaddrinfo("name.invalid", 80))
    await raised_by(socket.gaierror, loop.getaddrinfo("localhost", 80, flags=socket.AI_NUMERICHOST))


@probe("getnameinfo")
async def getnameinfo():
    loop = asyncio.get_running_loop()
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")
    assert await loop.getnameinfo(("::1", 80), flags) == ("::1", "80")
    assert await loop.getnameinfo(("127.0.0.1", 80)) == socket.getnameinfo(("127.0.0.1", 80), 0)
