"""An engine that does things by halves, and waits in between."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from aioqemu_loop.files import opening
from aioqemu_loop.files.engine import engine_of


class Choppy:
    """Reads and writes are short and take some turns of the loop; they can be cancelled before or after that."""

    def __init__(self, engine: Any, chance: random.Random) -> None:
        self._engine = engine
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def _wait(self) -> None:
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)

    async def read(self, fd: int, size: int, offset: int = -1) -> bytes:
        await self._wait()
        size = self._chance.randint(1, max(1, size)) if size else 0
        return os.read(fd, size) if offset < 0 else os.pread(fd, size, offset)

    async def readinto(self, fd: int, buffer: memoryview, offset: int = -1) -> int:
        data = await self.read(fd, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    async def write(self, fd: int, data: Any, offset: int = -1) -> int:
        await self._wait()
        part = bytes(data)[: self._chance.randint(1, len(data))]
        done = os.write(fd, part) if offset < 0 else os.pwrite(fd, part, offset)
        try:
            await self._wait()
        except asyncio.CancelledError as exc:
            exc.done = done
            raise
        return done


@pytest.fixture
def choppy(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """From here on files.open() makes files with such an engine. Returns its source of chance."""
    chance = random.Random(5)
    monkeypatch.setattr(opening, "engine_of", lambda loop: Choppy(engine_of(loop), chance))
    return chance
