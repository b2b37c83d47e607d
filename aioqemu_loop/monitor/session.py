"""One client: greeting, negotiation, commands in the order in which they come, events.

Its answers wait for it to read them before the next command is looked at; events do not wait: what finds no room is
dropped and counted.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from typing import TYPE_CHECKING, Any

from aioqemu_loop.monitor.command import find_command
from aioqemu_loop.monitor.errors import LimitExceeded, QMPError, command_not_found
from aioqemu_loop.monitor.parser import JSONStream, parse
from aioqemu_loop.monitor.trace import TraceFeed
from aioqemu_loop.monitor.version import version_info

if TYPE_CHECKING:
    from aioqemu_loop.monitor.monitor import Monitor

READ_SIZE = 16 * 1024
# Bytes of output for a client that does not read, beyond which it gets no events; how many it loses until it is closed.
EVENT_ROOM = 256 * 1024
MAX_UNREAD = 10_000
# Seconds until a client that does not negotiate, or does not read its answer, is closed.
NEGOTIATION_PATIENCE = 60.0
ANSWER_PATIENCE = 60.0


class Session:
    def __init__(self, monitor: Monitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.monitor = monitor
        self.trace = TraceFeed(self)
        self._lost_events = 0  # since it was told last
        self._unread_events = 0  # those that found no room, one after the other
        self._negotiated = False
        self._reader = reader
        self._writer = writer
        self._stream = JSONStream()

    async def serve(self) -> None:
        """Until the client goes, or breaks the rules."""
        patience = asyncio.get_running_loop().call_later(NEGOTIATION_PATIENCE, self._close_unless_negotiated)
        try:
            self._write({"QMP": {"version": version_info(), "capabilities": []}})
            while data := await self._reader.read(READ_SIZE):
                self._stream.feed(data)
                if not await self._answer_all():
                    break
        except OSError:
            self.abort()
        finally:
            patience.cancel()
            self.trace.stop()
            self._writer.close()

    def _close_unless_negotiated(self) -> None:
        if not self._negotiated:
            self.abort()

    async def _until_read(self) -> None:
        """Until most of the output is taken. Raises ConnectionError where the client is too slow, too."""
        patience = asyncio.get_running_loop().call_later(ANSWER_PATIENCE, self.abort)
        try:
            await self._writer.drain()
        finally:
            patience.cancel()

    async def _answer_all(self) -> bool:
        """What is complete in the input. False: the connection is to be closed."""
        while True:
            await self.monitor.budget.wait()
            try:
                text = self._stream.next()
            except LimitExceeded as exc:
                self._write(exc.as_answer())
                return False
            if text is None:
                return True
            answer, goes_on = await self._answer(text)
            self._write(answer)
            await self._until_read()
            if not goes_on:
                return False

    async def _answer(self, text: bytes) -> tuple[dict[str, Any], bool]:
        """(answer, whether the connection goes on)."""
        try:
            request = parse(text)
        except QMPError as exc:
            # A web page can have a browser send lines to a port: none of them is to be taken for a command.
            return exc.as_answer(), self._negotiated or not self.monitor.is_tcp
        try:
            answer: dict[str, Any] = {"return": await self._execute(request)}
        except QMPError as exc:
            answer = exc.as_answer()
        except Exception as exc:  # the program changes while it is looked at
            answer = QMPError(f"internal error: {type(exc).__name__}: {exc}").as_answer()
        if isinstance(request, dict) and "id" in request:
            answer["id"] = request["id"]
        return answer, True

    async def _execute(self, request: object) -> Any:
        if not isinstance(request, dict):
            raise QMPError("QMP input must be a JSON object")
        for name in request:
            if name not in ("execute", "arguments", "id"):
                raise QMPError(f"QMP input member '{name}' is unexpected")
        if "execute" not in request:
            raise QMPError("QMP input lacks member 'execute'")
        name = request["execute"]
        if not isinstance(name, str):
            raise QMPError("QMP input member 'execute' must be a string")
        arguments = request.get("arguments", {})
        if not isinstance(arguments, dict):
            raise QMPError("QMP input member 'arguments' must be an object")
        if name == "qmp_capabilities":
            return self._negotiate(arguments)
        if not self._negotiated:
            raise command_not_found("Expecting capabilities negotiation with 'qmp_capabilities'")
        answer = find_command(name).call(self, arguments)
        return await answer if inspect.isawaitable(answer) else answer

    def _negotiate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._negotiated:
            raise command_not_found("Capabilities negotiation is already complete, command ignored")
        for name in arguments:
            if name != "enable":
                raise QMPError(f"Parameter '{name}' is unexpected")
        wanted = arguments.get("enable", [])
        if not isinstance(wanted, list):
            raise QMPError("Invalid parameter type for 'enable', expected: array")
        if wanted:
            raise QMPError(f"Capability {json.dumps(wanted[0])} is not offered")
        self._negotiated = True
        return {}

    # -- output --

    def _write(self, message: dict[str, Any]) -> None:
        self._writer.write(encode(message) + b"\r\n")

    def send_event(self, name: str, data: dict[str, Any], when: float | None = None) -> None:
        """when: seconds since the epoch; None: now."""
        if not self._negotiated or self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > EVENT_ROOM:
            self.lose_events(1)
            self._unread_events += 1
            if self._unread_events > MAX_UNREAD:
                self.abort()
            return
        self._unread_events = 0
        if self._lost_events:
            self._write(_event("EVENTS_LOST", {"count": self._lost_events}, None))
            self._lost_events = 0
        self._write(_event(name, data, when))

    def lose_events(self, count: int) -> None:
        """The client is told so with the next event that it gets."""
        self._lost_events += count

    def abort(self) -> None:
        self._writer.transport.abort()


def encode(message: dict[str, Any]) -> bytes:
    """As JSON."""
    return _text(message).encode()


def _text(value: Any) -> str:
    """A list goes piece by piece, because the encoder does not let go of the GIL."""
    if isinstance(value, list):
        return f"[{', '.join([json.dumps(item) for item in value])}]"
    if isinstance(value, dict):
        return f"{{{', '.join([f'{json.dumps(name)}: {_text(item)}' for name, item in value.items()])}}}"
    return json.dumps(value)


def _event(name: str, data: dict[str, Any], when: float | None) -> dict[str, Any]:
    seconds, part = divmod(time.time() if when is None else when, 1)
    return {
        "event": name,
        "data": data,
        "timestamp": {"seconds": int(seconds), "microseconds": int(part * 1e6)},
    }
