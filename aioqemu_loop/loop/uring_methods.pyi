import os
from typing import Any

from typing_extensions import Buffer

from aioqemu_loop.loop.core import LoopCore

class RingOperations:
    def __init__(self, loop: LoopCore) -> None: ...
    async def splice(
        self,
        src: int,
        dst: int,
        count: int,
        *,
        offset_src: int | None = None,
        offset_dst: int | None = None,
        flags: int = 0,
    ) -> int: ...
    async def tee(self, src: int, dst: int, count: int, flags: int = 0) -> int: ...
    async def waitid(self, idtype: int, id: int, options: int) -> os.waitid_result | None: ...
    async def futex_wait(self, buffer: Buffer, expected: int, offset: int = 0) -> None: ...
    async def futex_wake(self, buffer: Buffer, count: int = 1, offset: int = 0) -> int: ...
    async def openat2(
        self,
        path: str | bytes | os.PathLike[Any],
        flags: int,
        mode: int = 0,
        *,
        resolve: int = 0,
        dir_fd: int | None = None,
    ) -> int: ...
