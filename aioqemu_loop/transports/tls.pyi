import asyncio
import ssl
from asyncio import sslproto
from typing import Any

from typing_extensions import Self

from aioqemu_loop.context.aio_context import AioContext

class SSLTransport(sslproto._SSLProtocolTransport): ...

# At run time its instances pass isinstance() for SSLTransport: __class__ answers so.
class TLSTransport:
    def __new__(
        cls,
        context: AioContext,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        call_connection_made: bool = True,
        writing_paused: bool = False,
    ) -> Self: ...
    def attach(self, below: Any) -> None: ...
    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
