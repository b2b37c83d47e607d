"""Buffers that are not simply bytes, on every way to write: the bytes that arrive, or the types of the exceptions, are
those of asyncio's loop, where that makes no mistake."""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import functools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import PATIENCE


class Structure(ctypes.Structure):
    _fields_ = (("one", ctypes.c_uint16), ("other", ctypes.c_uint16))


def released() -> memoryview:
    view = memoryview(b"abcdefgh")
    view.release()
    return view


# Contiguous or not, items of one byte or more, dimensions, read-only or not, empty, no buffer at all.
BUFFERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"abcdefgh",
    "bytearray": lambda: bytearray(b"abcdefgh"),
    "view": lambda: memoryview(b"abcdefgh"),
    "part": lambda: memoryview(b"abcdefgh")[2:6],
    "strided": lambda: memoryview(b"abcdefgh")[::2],
    "reversed": lambda: memoryview(b"abcdefgh")[::-1],
    "strided and writable": lambda: memoryview(bytearray(b"abcdefgh"))[::2],
    "words": lambda: memoryview(b"abcdefgh").cast("H"),
    "strided words": lambda: memoryview(b"abcdefgh").cast("H")[::2],
    "2 x 4": lambda: memoryview(b"abcdefgh").cast("B", (2, 4)),
    "2 x 2 words": lambda: memoryview(bytearray(b"abcdefgh")).cast("H", (2, 2)),
    "scalar": lambda: memoryview(b"abcd").cast("I", ()),
    "empty view": lambda: memoryview(b""),
    "empty part": lambda: memoryview(b"abcdefgh")[4:4],
    "empty and strided": lambda: memoryview(b"abcdefgh")[6:2:2],
    "released": released,
    "array": lambda: array.array("B", b"abcdefgh"),
    "array of words": lambda: array.array("H", b"abcdefgh"),
    "view of an array": lambda: memoryview(array.array("I", b"abcdefgh")),
    "empty array": lambda: array.array("H"),
    "ctypes": lambda: (ctypes.c_uint32 * 2)(1, 2),
    "view of ctypes": lambda: memoryview((ctypes.c_uint32 * 2)(1, 2)),
    "view of structures": lambda: memoryview((Structure * 2)((1, 2), (3, 4))),
    "text": lambda: "abcdefgh",
    "list": lambda: [97, 98],
    "None": lambda: None,
}


class Noting(asyncio.DatagramProtocol, asyncio.Protocol):
    """What a writer is told."""

    def __init__(self) -> None:
        self.told: list[BaseException] = []
        self.lost = asyncio.get_running_loop().create_future()

    def error_received(self, exc: Exception) -> None:
        self.told.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.told.append(exc)
        self.lost.set_result(None)


class Collecting(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.end = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.end.set_result(bytes(self.data))


def write(transport: Any, buffer: Any) -> None:
    transport.write(b"<")
    transport.write(buffer)
    if not transport.is_closing():
        transport.write(b">")


def write_behind_much(transport: Any, buffer: Any) -> None:
    transport.write(bytes(MUCH))
    write(transport, buffer)


def writelines(transport: Any, buffer: Any) -> None:
    transport.writelines([b"<", buffer, b">"])


def write_one_line(transport: Any, buffer: Any) -> None:
    transport.writelines([buffer])


MUCH = 400_000  # bytes that no socket takes at once
WAYS = (write, write_behind_much, writelines, write_one_line)


def patience(loop: asyncio.AbstractEventLoop) -> float:
    """asyncio's loop makes mistakes after which it would wait for ever."""
    return 0.2 if isinstance(loop, asyncio.SelectorEventLoop) else PATIENCE


async def stream(way: Callable[[Any, Any], None], kind: str, tls: Any, buffer: Any) -> tuple[list[Any], bytes]:
    loop = asyncio.get_running_loop()
    server, client = {"ssl": tls[0]}, {"ssl": tls[1], "server_hostname": "localhost"}
    if kind != "tls":
        server = client = {}
    if kind == "pipe":
        reading, writing = os.pipe()
        transport, writer = await loop.connect_write_pipe(Noting, os.fdopen(writing, "wb", 0))
        end, reader = await loop.connect_read_pipe(Collecting, os.fdopen(reading, "rb", 0))
    else:
        one, other = socket.socketpair()
        accepted = asyncio.ensure_future(loop.connect_accepted_socket(Collecting, one, **server))
        transport, writer = await loop.create_connection(Noting, sock=other, **client)
        end, reader = await accepted
    try:
        way(transport, buffer)
    except Exception as exc:
        writer.told.append(exc)
    transport.close()
    try:
        await asyncio.wait_for(asyncio.shield(reader.end), patience(loop))
    except asyncio.TimeoutError:
        writer.told.append(TimeoutError())
        transport.abort()
        end.close()
    arrived = await reader.end
    await writer.lost
    end.close()
    return writer.told, arrived.lstrip(b"\0")


async def datagram(way: str, kind: str, tls: Any, buffer: Any) -> tuple[list[Any], bytes]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        address = {"remote_addr": peer.getsockname()} if kind == "connected" else {"local_addr": ("127.0.0.1", 0)}
        transport, writer = await loop.create_datagram_endpoint(Noting, **address)
        try:
            transport.sendto(buffer, None if kind == "connected" else peer.getsockname())
        except Exception as exc:
            writer.told.append(exc)
        transport.close()
        await writer.lost
        peer.setblocking(False)
        arrived = b"nothing"
        with contextlib.suppress(BlockingIOError):
            arrived = peer.recv(1000)
    return writer.told, arrived


async def sock(way: str, kind: str, tls: Any, buffer: Any) -> tuple[list[Any], bytes]:
    loop = asyncio.get_running_loop()
    told: list[BaseException] = []
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        try:
            await asyncio.wait_for(loop.sock_sendall(one, buffer), patience(loop))
        except Exception as exc:
            told.append(exc)
        one.close()
        return told, other.recv(1000)


def outcome(loop: asyncio.AbstractEventLoop, attempt: Any, buffer: Any) -> Any:
    """The bytes that arrived, or the types of the exceptions: raised, told to the protocol or the exception handler."""
    told: list[Any] = []
    loop.set_exception_handler(lambda _, details: told.append(details["exception"]))
    raised, arrived = loop.run_until_complete(attempt(buffer))
    return {type(exc) for exc in (*raised, *told)} or arrived


NOT_CONTIGUOUS = ("strided", "reversed", "strided and writable", "strided words", "empty and strided")
# asyncio's loop counts items where it means bytes, and so fails (TimeoutError: sock_sendall() never ends, nor does
# close() after writelines() on 3.13), or has an assertion where others raise TypeError.
MISTAKES = {IndexError, AssertionError, TimeoutError, asyncio.TimeoutError}
# What 3.14's writelines() makes of what is false: it does not look at it. Ours refuses it as the other Pythons' do.
PASSED_OVER = (b"", b"<>")


def agree(name: str, ours: Any, reference: Any) -> bool:
    if ours == reference:
        return True
    buffer = BUFFERS[name]()
    if name in NOT_CONTIGUOUS:  # the types of a socket's send(), and of b"".join() or bytearray.extend()
        passed_over = name == "empty and strided" and reference in PASSED_OVER
        return ours == {BufferError} and (passed_over or reference == {TypeError})
    if name == "released":
        return ours == {ValueError} and reference == {TypeError}
    if name == "None" and reference in PASSED_OVER:
        return ours == {TypeError}
    if not isinstance(ours, bytes):
        return ours == {TypeError} and reference == {AssertionError} and not isinstance(buffer, memoryview)
    # It has no length, but bytes (as in other Pythons, where asyncio fails only later).
    indexes = name == "scalar" and reference == {TypeError}
    wrong = isinstance(reference, set) and reference <= MISTAKES
    return (wrong or indexes) and ours.strip(b"<>") == memoryview(buffer).tobytes()


STREAMS = [(functools.partial(stream, way), kind) for way in WAYS for kind in ("unix", "tls", "pipe")]
OTHERS = [(functools.partial(datagram, "sendto"), "connected"), (functools.partial(datagram, "sendto"), "free")]
OTHERS += [(functools.partial(sock, "sock_sendall"), "socket")]
ATTEMPTS = {
    f"{getattr(attempt.args[0], '__name__', attempt.args[0])}, {kind}": (attempt, kind)
    for attempt, kind in STREAMS + OTHERS
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_odd_buffers_are_sent_or_refused_as_by_asyncio(loop: Any, tls: Any, what: str) -> None:
    if what.endswith("tls") and sys.version_info < (3, 11):
        pytest.skip("3.10's SSLProtocol is another one")
    attempt = functools.partial(*ATTEMPTS[what], tls)
    for name, make in BUFFERS.items():
        reference = asyncio.SelectorEventLoop()  # a new one: its mistakes leave things behind
        try:
            ours, theirs = outcome(loop, attempt, make()), outcome(reference, attempt, make())
        finally:
            reference.close()
        assert agree(name, ours, theirs), f"{name}: {ours}, with asyncio {theirs}"
