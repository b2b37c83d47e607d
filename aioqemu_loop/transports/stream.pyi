import asyncio
import socket
from asyncio import transports
from contextvars import Context
from typing import Any

from aioqemu_loop.context.aio_context import AioContext

class SocketTransport(transports._FlowControlMixin, transports.Transport): ...

# At run time its instances pass isinstance() for SocketTransport: __class__ answers so.
class StreamTransport:
    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None: ...
    @property
    def _protocol_paused(self) -> bool: ...
    @property
    def _conn_lost(self) -> int: ...
    def _force_close(self, exc: BaseException | None) -> None: ...

def make_stream_transport(
    context: AioContext,
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    protocol: asyncio.BaseProtocol,
    waiter: asyncio.Future[None] | None,
    extra: dict[str, Any],
    server: Any,
    py_context: Context | None,
) -> SocketTransport: ...
