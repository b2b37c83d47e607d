import asyncio
from typing import Any

from typing_extensions import Self

from aioqemu_loop.context.aio_context import AioContext

class ReadPipeTransport(asyncio.ReadTransport):
    def __new__(
        cls,
        context: AioContext,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
    ) -> Self: ...

class WritePipeTransport(asyncio.WriteTransport):
    def __new__(
        cls,
        context: AioContext,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
    ) -> Self: ...
