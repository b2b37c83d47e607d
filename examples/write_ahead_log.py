"""A key-value store that survives `kill -9` and power cuts: what `set()` has returned for is on the disk.

    python examples/write_ahead_log.py /tmp/store.log

Each change is a line at the end of a log. Many tasks wait while one fdatasync is under way, and the next one is for all
of them (group commit), so a thousand changes take some dozens of syncs. Opening the store reads the log up to the first
line that is torn, and cuts off what comes from there on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zlib
from collections.abc import Iterator

import aioqemu_loop
from aioqemu_loop import files

TASKS, CHANGES = 100, 10  # of each task


def line_of(key: str, value: str) -> bytes:
    text = json.dumps([key, value]).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def whole_lines(data: bytes) -> Iterator[bytes]:
    for line in data.splitlines(keepends=True):
        checksum, _, text = line[:-1].partition(b" ")
        if line[-1:] != b"\n" or checksum != b"%08x" % zlib.crc32(text):
            return
        yield line


def sync_folder(path: str) -> None:
    """So that a new file's name is on the disk, too."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Store:
    """`values` is what was set. `Store.open(path)` makes one."""

    def __init__(self, file: files.AsyncFileIO, values: dict[str, str]) -> None:
        self.values = values
        self.syncs = 0
        self._file = file
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._more = asyncio.Event()
        self._error: OSError | None = None
        self._committer = asyncio.create_task(self._commit())

    @classmethod
    async def open(cls, path: str) -> Store:
        file = await files.open(path, "a+b", buffering=0)
        await file.seek(0)
        data = await file.read()
        lines = list(whole_lines(data))
        await file.truncate(sum(map(len, lines)))
        await file.fsync()
        await asyncio.to_thread(sync_folder, os.path.dirname(os.path.abspath(path)))
        return cls(file, dict(json.loads(line.partition(b" ")[2]) for line in lines))

    async def set(self, key: str, value: str) -> None:
        """Returns when the change is on the disk. After an OSError it may be or not, and the store takes no more."""
        if self._error:
            raise self._error
        durable = asyncio.get_running_loop().create_future()
        self._waiting.append((line_of(key, value), durable))
        self._more.set()
        await durable
        self.values[key] = value

    async def close(self) -> None:
        self._committer.cancel()
        await asyncio.wait([self._committer])
        await self._file.close()

    async def _commit(self) -> None:
        while not self._error:
            await self._more.wait()
            self._more.clear()
            batch, self._waiting = self._waiting, []
            try:
                rest = b"".join(line for line, _ in batch)
                while rest:
                    rest = rest[await self._file.write(rest) :]
                await self._file.fdatasync()
                self.syncs += 1
            except OSError as error:  # trying again would lie: the kernel forgets what it could not write
                self._error = error
                batch += self._waiting
            for _, durable in batch:
                if not durable.cancelled():
                    durable.set_exception(self._error) if self._error else durable.set_result(None)


async def main(path: str) -> None:
    store = await Store.open(path)
    print(f"{len(store.values)} values found")

    async def client(number: int) -> None:
        for i in range(CHANGES):
            await store.set(f"client {number}", f"change {i}")

    await asyncio.gather(*(client(number) for number in range(TASKS)))
    print(f"{TASKS * CHANGES} changes acknowledged, {store.syncs} syncs")
    await store.close()


if __name__ == "__main__":
    aioqemu_loop.run(main(sys.argv[1]))
