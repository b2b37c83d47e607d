import asyncio
import socket
from collections.abc import Callable
from contextvars import Context
from typing import Any

from typing_extensions import Self

from aioqemu_loop.context.aio_context import AioContext
from aioqemu_loop.context.sources import OwnedHandler

class Listener(OwnedHandler):
    def __new__(
        cls,
        context: AioContext,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        make_tls: Callable[[socket.socket, asyncio.BaseProtocol, Any, Any, Any], None] | None,
        server: Any,
        backlog: int,
        py_context: Context | None,
        hand_over: Callable[[socket.socket, Any, Context | None], None] | None = None,
    ) -> Self: ...
    def close(self) -> None: ...
