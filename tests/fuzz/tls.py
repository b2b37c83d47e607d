"""TLS with a hostile peer: our transport and the standard library's see the same bytes, and must end in the same way.

Both stand on a transport that does nothing but note what it is told. The peer is the ssl module between two memory
buffers: it shakes hands, sends text and close_notify, and what it sends is cut, changed, doubled, swapped and put
together with bytes of the fuzzer's. What it sends first may be nothing but those.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import tempfile
from asyncio import protocols, sslproto
from pathlib import Path
from typing import Any

import aioqemu_loop
from aioqemu_loop.transports.tls import TLSTransport
from tests.fuzz.choices import Choices

SEEDS = [
    b"\x00\x01\x00\x10",
    b"\x01\x00" + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    b"\x01\x01" + b"GET / HTTP/1.0\r\n\r\n",
    b"\x01\x01\x18\x03\x02\x00\x03\x01\x40\x00",  # a heartbeat that says it is longer
    b"\x00\x00\x01\x05\x01\x20\x03\x00\x04\x00",
    b"\x00\x01\x01\x05\x05\x02\x10\x01\x05\x02\x00\x06\x00\x07\x00",
]


TRIES = 12


class Below(asyncio.Transport):
    """The transport below. What TLS writes to it is in `sent`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.ended: Any = None  # how: "close", or what it was aborted with

    def write(self, data: Any) -> None:
        if self.ended is None:
            self.sent += data

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def close(self) -> None:
        self.ended = self.ended or "close"

    def abort(self) -> None:
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        self.ended = self.ended or kind_of(exc)

    def is_closing(self) -> bool:
        return self.ended is not None

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Protocol(asyncio.Protocol):
    """Notes what the application hears."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.heard: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.text += data

    def eof_received(self) -> None:
        self.heard.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.heard.append(("lost", kind_of(exc)))


def kind_of(exc: BaseException | None) -> Any:
    return (type(exc).__name__, getattr(exc, "reason", None) or getattr(exc, "errno", None)) if exc else "abort"


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    from tools.certificates import localhost_tls

    with tempfile.TemporaryDirectory() as folder:
        return localhost_tls(Path(folder))


@functools.cache
def loop_of_ours() -> aioqemu_loop.Loop:
    return aioqemu_loop.new_event_loop(fdmon="poll")


def end() -> None:
    """Closes it; who uses this target later gets a new one."""
    loop_of_ours().close()
    loop_of_ours.cache_clear()


def ours(loop: Any, protocol: Any, context: Any, waiter: Any, server_side: bool) -> Any:
    return TLSTransport(
        loop.context,
        loop,
        protocol,
        context,
        waiter,
        server_side=server_side,
        server_hostname=None if server_side else "localhost",
    )


def theirs(loop: Any, protocol: Any, context: Any, waiter: Any, server_side: bool) -> Any:
    return sslproto.SSLProtocol(loop, protocol, context, waiter, server_side, None if server_side else "localhost")


class Side:
    """One of the two that are compared, with a peer of its own."""

    def __init__(self, make: Any, server_side: bool, version: ssl.TLSVersion) -> None:
        self.loop = loop_of_ours()
        self.errors: list[Any] = []
        self.loop.set_exception_handler(lambda _, details: self.errors.append(kind_of(details.get("exception"))))
        pair = contexts()
        ours_context, peer_context = pair if server_side else pair[::-1]
        self.below = Below()
        self.protocol = Protocol()
        self.waiter = self.loop.create_future()
        self.tls = make(self.loop, self.protocol, ours_context, self.waiter, server_side)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # The transport that the application holds.
        self.application = self.tls if make is ours else self.tls._get_app_transport()
        peer_context.maximum_version = version
        self.peer = peer_context.wrap_bio(
            self.incoming, self.outgoing, not server_side, "localhost" if server_side else None
        )
        self.tls.connection_made(self.below)
        self.turn()

    def turn(self) -> None:
        for _ in range(3):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def of_peer(self, call: Any, *arguments: Any) -> bytes:
        """What the peer sends when this method is called. It may have seen rubbish itself."""
        self.incoming.write(bytes(self.below.sent))
        self.below.sent.clear()
        with contextlib.suppress(ssl.SSLError, OSError, ValueError):
            call(*arguments)
        return self.outgoing.read()

    def shake_hands(self) -> None:
        for _ in range(4):
            self.feed(self.of_peer(self.peer.do_handshake))

    def feed(self, data: bytes) -> None:
        if data and self.below.ended is None:
            if isinstance(self.tls, asyncio.BufferedProtocol):
                protocols._feed_data_to_buffered_proto(self.tls, data)
            else:
                self.tls.data_received(data)
        self.turn()

    def eof(self) -> None:
        if self.below.ended is None and not self.tls.eof_received():
            self.below.close()
        self.turn()

    def outcome(self) -> dict[str, Any]:
        """What has come of it, once the transport below is gone."""
        waiting = not self.waiter.done()
        if not self.waiter.done():
            self.waiter.cancel()
        failure = None if self.waiter.cancelled() else self.waiter.exception()
        ended = self.below.ended
        self.tls.connection_lost(None)
        self.application.close()
        self.turn()
        return {
            "handshake": "waits" if waiting else kind_of(failure) if failure else "done",
            "text": bytes(self.protocol.text),
            "text's size": len(self.protocol.text),
            "heard": self.protocol.heard,
            "ended": ended,
            "errors": self.errors,
        }


def changed(choices: Choices, data: bytes) -> bytes:
    """What the network, or somebody in it, may make of what the peer has sent."""
    how = choices.below(8)
    at = choices.below(len(data) + 1) if len(data) < 65536 else 0
    if how == 1:
        return data[:at]
    if how == 2 and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 + choices.below(255))]) + data[at + 1 :]
    if how == 3:
        return data[:at] + choices.bytes() + data[at:]
    if how == 4:
        return data + data
    if how == 5:
        return data[at:] + data[:at]
    if how == 6:
        return data[:at] + data[at + 1 + choices.below(5) :]
    return data


def program(choices: Choices) -> list[tuple[Any, ...]]:
    """What happens, step by step: both sides are given the same."""
    steps: list[tuple[Any, ...]] = []
    while choices and len(steps) < 12:
        kind = choices.below(8)
        if kind == 0:
            steps.append(("raw", choices.bytes()))
        elif kind == 7:
            steps.append(("eof",))
        elif kind == 6:
            steps.append(("close",))
        elif kind == 4:
            steps.append(("write", b"y" * (1 + choices.below(20000))))
        else:
            call = ("write", b"x" * (1 + choices.below(40000))) if kind < 5 else ("unwrap",)
            steps.append(("peer", call, choices.take(3 + choices.below(4))))
    return steps


def play(make: Any, hands: bool, server_side: bool, version: ssl.TLSVersion, steps: Any, size: int) -> dict[str, Any]:
    side = Side(make, server_side, version)
    if hands:
        side.shake_hands()
    for name, *rest in steps:
        if name == "raw":
            side.feed(rest[0])
        elif name == "eof":
            side.eof()
        elif name in ("close", "write"):
            if not side.application.is_closing():
                getattr(side.application, name)(*rest)
            side.turn()
        else:
            (call, *arguments), how = rest
            data = changed(Choices(how), side.of_peer(getattr(side.peer, call), *arguments))
            for at in range(0, len(data), size):
                side.feed(data[at : at + size])
    return side.outcome()


def coarsen(outcome: dict[str, Any], hands: bool) -> None:
    """Leave out what differs from one session to the next."""
    if isinstance(outcome["ended"], tuple):
        outcome["ended"] = outcome["ended"][0]
    if not hands:
        outcome["handshake"] = outcome["handshake"] == "done"
        outcome["ended"] = ...


def target(data: bytes) -> None:
    choices = Choices(data)
    hands = choices.below(4) != 1
    server_side = bool(choices.below(2))
    version = choices.of([ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
    size = choices.of([1 << 20, 1000, 16384, 64])
    steps = program(choices)
    arguments = (hands, server_side, version, steps, size)
    tampered = any(step[0] == "peer" for step in steps)
    # Ciphertext differs from one session to the next, and where a record was cut it is taken for lengths and types: the
    # two may differ by chance, but not time and again.
    for _ in range(TRIES if tampered else 1):
        mine, other = play(ours, *arguments), play(theirs, *arguments)
        if tampered:
            coarsen(mine, hands)
            coarsen(other, hands)
        if mine == other:
            return
    shown = "\n".join(repr(each)[:300] for each in (*arguments[:3], *steps, size))
    raise AssertionError(f"{shown}\nours:   {str(mine)[-600:]}\nstdlib: {str(other)[-600:]}")
