import asyncio
import socket
from typing import Any

from typing_extensions import Self

from aioqemu_loop.context.aio_context import AioContext

class DatagramTransport(asyncio.DatagramTransport):
    def __new__(
        cls,
        context: AioContext,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
    ) -> Self: ...
