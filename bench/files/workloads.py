"""What is done with files, by name. `inside.py` runs one of them on one way, at one depth."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases.clock import Clock
from bench.files.ways import BLOCK

DEPTHS = (1, 8, 64)
BATCH = 16  # operations between two looks at the clock
OFFSETS = 16384  # random places that the tasks go through again and again
RECORD = b"r" * 100
SMALL = b"s" * 4096


@dataclass
class Job:
    library: Any  # of bench.files.ways
    clock: Clock
    depth: int  # tasks at once
    folder: Path  # empty, its own
    data: str  # a large file that is only read
    size: int  # bytes of it, and of what is written sequentially
    count: int  # of small files

    def names(self, kind: str) -> list[str]:
        return [str(self.folder / f"{kind}{number}") for number in range(self.count)]

    def make(self, kind: str) -> list[str]:
        """Small files that are there before the clock starts."""
        names = self.names(kind)
        for name in names:
            Path(name).write_bytes(SMALL)
        return names

    async def together(self, task: Callable[[int], Awaitable[None]]) -> None:
        self.clock.start()
        await asyncio.gather(*(task(number) for number in range(self.depth)))

    async def until_time_is_up(self, one: Callable[[], Awaitable[object]]) -> None:
        await one()
        while self.clock.another(1):
            await one()


Case = Callable[[Job], Awaitable[None]]


@dataclass(frozen=True)
class Workload:
    name: str
    operation: str
    case: Case
    depths: tuple[int, ...] = DEPTHS
    fio: tuple[str, ...] = ()  # how fio does the same; it only knows some


async def random_cached(job: Job) -> None:
    with open(job.data, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
    await _random(job, job.library.reader)


async def random_direct(job: Job) -> None:
    with open(job.data, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    await _random(job, job.library.direct_reader)


async def _random(job: Job, reader: Callable[[str], Any]) -> None:
    draw = random.Random(job.size)
    offsets = [draw.randrange(job.size // BLOCK) * BLOCK for _ in range(OFFSETS)]
    pieces = [offsets[i : i + BATCH] for i in range(0, OFFSETS, BATCH)]
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(reader(job.data)) for _ in range(job.depth)]

        async def task(number: int) -> None:
            read_at = readers[number]
            begin = number * len(pieces) // job.depth
            for piece in itertools.cycle(pieces[begin:] + pieces[:begin]):
                for offset in piece:
                    await read_at(offset)
                if not job.clock.another(BATCH):
                    return

        await job.together(task)


def sequential_read(size: int) -> Case:
    async def case(job: Job) -> None:
        share = max(size, job.size // job.depth)
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(job.library.open(job.data, "rb")) for _ in range(job.depth)]

            async def task(number: int) -> None:
                while True:
                    await opened[number].seek(number * share % job.size)
                    for _ in range(max(1, share // size // BATCH)):
                        for _ in range(BATCH):
                            await opened[number].read(size)
                        if not job.clock.another(BATCH):
                            return

            await job.together(task)

    return case


def sequential_write(size: int) -> Case:
    """New files, which end with the measured time or when they have all the bytes."""
    data = b"w" * size

    async def case(job: Job) -> None:
        writes = max(1, job.size // job.depth // size)

        async def task(number: int) -> None:
            async with job.library.open(str(job.folder / f"written{number}"), "wb") as file:
                for _ in range(max(1, writes // BATCH)):
                    for _ in range(BATCH):
                        await file.write(data)
                    if not job.clock.another(BATCH):
                        break
            job.clock.stop()  # after the close, which may have something to write

        await job.together(task)

    return case


async def small_write(job: Job) -> None:
    """New files: open, write, close."""

    async def one(name: str) -> None:
        async with job.library.open(name, "wb") as file:
            await file.write(SMALL)

    await _each_once(job, job.names("new"), one)


async def small_write_bytes(job: Job) -> None:
    await _each_once(job, job.names("new"), lambda name: job.library.write_bytes(name, SMALL))


async def small_read(job: Job) -> None:
    async def one(name: str) -> None:
        async with job.library.open(name, "rb") as file:
            await file.read()

    await _again_and_again(job, job.make("old"), one)


async def small_read_bytes(job: Job) -> None:
    await _again_and_again(job, job.make("old"), job.library.read_bytes)


async def append_log(job: Job) -> None:
    async with job.library.log(str(job.folder / "log")) as append:
        await job.together(lambda _: job.until_time_is_up(lambda: append(RECORD)))


async def stat(job: Job) -> None:
    await _again_and_again(job, job.make("old"), job.library.stat)


async def open_close(job: Job) -> None:
    async def one(name: str) -> None:
        async with job.library.open(name, "rb"):
            pass

    await _again_and_again(job, job.make("old"), one)


async def mkdir_rmdir(job: Job) -> None:
    async def task(number: int) -> None:
        path = str(job.folder / f"folder{number}")
        for call in itertools.cycle((job.library.mkdir, job.library.rmdir)):
            await call(path)
            if not job.clock.another(1):
                return

    await job.together(task)


async def rename(job: Job) -> None:
    async def task(number: int) -> None:
        here, there = str(job.folder / f"a{number}"), str(job.folder / f"b{number}")
        Path(here).touch()
        for names in itertools.cycle(((here, there), (there, here))):
            await job.library.rename(*names)
            if not job.clock.another(1):
                return

    await job.together(task)


async def unlink(job: Job) -> None:
    await _each_once(job, job.make("old"), job.library.unlink)


async def _each_once(job: Job, names: list[str], one: Callable[[str], Awaitable[object]]) -> None:
    left = iter(names)

    async def task(_: int) -> None:
        for name in left:
            await one(name)
            job.clock.another(1)

    await job.together(task)
    job.clock.stop()


async def _again_and_again(job: Job, names: list[str], one: Callable[[str], Awaitable[object]]) -> None:
    endless: Iterator[str] = itertools.cycle(names)
    await job.together(lambda _: job.until_time_is_up(lambda: one(next(endless))))


def _fio(rw: str, size: int, direct: bool = False) -> tuple[str, ...]:
    return (f"--rw={rw}", f"--bs={size}", f"--direct={int(direct)}", "--invalidate=0")


_SIZES = {"4KiB": 4096, "64KiB": 65536, "1MiB": 1 << 20}
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("random/cached", "4 KiB read", random_cached, fio=_fio("randread", BLOCK)),
        *(
            Workload(f"sequential/read-{name}", "read", sequential_read(size), fio=_fio("read", size))
            for name, size in _SIZES.items()
        ),
        *(Workload(f"sequential/write-{name}", "write", sequential_write(size)) for name, size in _SIZES.items()),
        Workload("small/read", "file", small_read),
        Workload("small/read_bytes", "file", small_read_bytes),
        Workload("small/write", "file", small_write),
        Workload("small/write_bytes", "file", small_write_bytes),
        Workload("log/append", "record", append_log),
        Workload("metadata/stat", "call", stat),
        Workload("metadata/open+close", "file", open_close),
        Workload("metadata/mkdir+rmdir", "call", mkdir_rmdir),
        Workload("metadata/rename", "call", rename),
        Workload("metadata/unlink", "call", unlink),
        # The last: it empties the page cache of the large file.
        Workload("random/direct", "4 KiB read", random_direct, fio=_fio("randread", BLOCK, direct=True)),
    )
}
