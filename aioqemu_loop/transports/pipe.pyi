import asyncio
from typing import Any

from aioqemu_loop.context.aio_context import AioContext

class ReadPipeTransport(asyncio.ReadTransport):
    def __init__(
        self,
        context: AioContext,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
    ) -> None: ...

class WritePipeTransport(asyncio.WriteTransport):
    def __init__(
        self,
        context: AioContext,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
    ) -> None: ...
