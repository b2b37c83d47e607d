"""Several tasks on one file, some of them cancelled: nothing is lost, doubled or torn."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files

RECORDS = [f"{number:05}".encode() * (1 + number % 40) + b"\n" for number in range(400)]


def test_reads_of_many_tasks_share_the_file_in_the_order_they_came(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(RECORDS))

    async def main() -> None:
        for mode, buffering in (("rb", -1), ("rb", 50), ("rb", 0), ("r+b", -1)):
            async with files.open(path, mode, buffering) as file:
                assert await asyncio.gather(*(file.readline() for _ in RECORDS)) == RECORDS
        async with files.open(path, newline="\n") as text:
            lines = await asyncio.gather(*(text.readline() for _ in RECORDS))
        assert lines == [record.decode() for record in RECORDS]

    run(main())


def test_writes_of_many_tasks_follow_one_another(run: Any, tmp_path: Path, choppy: random.Random) -> None:
    async def main() -> None:
        for mode, buffering in (("wb", -1), ("wb", 100), ("w+b", 100), ("ab", 100)):
            path = tmp_path / f"{mode}{buffering}"
            async with files.open(path, mode, buffering) as file:
                sizes = await asyncio.gather(*(file.write(record) for record in RECORDS))
            assert sizes == [len(record) for record in RECORDS]
            assert path.read_bytes() == b"".join(RECORDS)
        async with files.open(tmp_path / "text", "w", 100) as text:
            await asyncio.gather(*(text.write(record.decode()) for record in RECORDS))
        assert (tmp_path / "text").read_bytes() == b"".join(RECORDS)

    run(main())


async def cancel_some(tasks: list[asyncio.Task[Any]], chance: random.Random) -> None:
    while not all(task.done() for task in tasks):
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        chance.choice(tasks).cancel()
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["wb", "ab", "w+b", "w"])
def test_cancelled_writes_are_there_as_a_whole_or_not_at_all(
    run: Any, tmp_path: Path, choppy: random.Random, mode: str, seed: int
) -> None:
    choppy.seed(seed)
    path = tmp_path / "file"

    async def main() -> None:
        file = await files.open(path, mode, 64)
        records = RECORDS if "b" in mode else [record.decode() for record in RECORDS]
        tasks = [asyncio.ensure_future(file.write(record)) for record in records]
        tasks += [asyncio.ensure_future(file.flush()) for _ in range(10)]
        canceller = asyncio.ensure_future(cancel_some(tasks, choppy))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await canceller
        await file.close()
        written = path.read_bytes().splitlines(keepends=True)
        assert set(written) <= set(RECORDS)
        assert written == sorted(set(written))  # once each, and in order
        assert 0 < len(written) < len(RECORDS)
        for record, result in zip(RECORDS, results[: len(RECORDS)], strict=True):
            if isinstance(result, int):
                assert record in written
            else:
                assert isinstance(result, asyncio.CancelledError)

    run(main())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operation", ["read", "readline", "readinto", "readall", "text", "text lines"])
def test_cancelled_reads_take_nothing(
    run: Any, tmp_path: Path, choppy: random.Random, operation: str, seed: int
) -> None:
    choppy.seed(seed)
    path = tmp_path / "file"
    content = b"".join(RECORDS)
    path.write_bytes(content)

    async def read_some(file: Any, got: list[bytes]) -> None:
        if operation == "read":
            got.append(await file.read(700))
        elif operation == "readline":
            got.append(await file.readline())
        elif operation == "readall":
            got.append(await (file.read(300) if choppy.randrange(2) else file.readall()))
        elif operation == "text":
            got.append((await file.read(choppy.choice((300, 2000, 2000, 20_000)))).encode())
        elif operation == "text lines":
            got.append((await file.readline()).encode())
        else:
            space = bytearray(700)
            got.append(bytes(space[: await file.readinto(space)]))

    async def main() -> None:
        got: list[bytes] = []
        cancelled = 0
        arguments = {"text": ("r",), "text lines": ("r",), "readall": ("rb", 0)}.get(operation, ("rb", 64))
        file: Any = await files.open(path, *arguments)
        while True:
            count = len(got)
            task = asyncio.ensure_future(read_some(file, got))
            for _ in range(choppy.randrange(5)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            cancelled += task.cancelled()
            if len(got) > count and not got[-1]:
                break
        await file.close()
        assert b"".join(got) == content
        assert cancelled

    run(main())


def test_a_text_position_is_right_after_a_cancelled_read(run: Any, tmp_path: Path, choppy: random.Random) -> None:
    path = tmp_path / "file"
    text = "".join(f"{number} é漢\n" for number in range(5000))
    path.write_text(text, encoding="utf-8")

    async def main() -> None:
        async with files.open(path, encoding="utf-8") as file:
            before = await file.read(1000)
            for _ in range(20):
                task = asyncio.ensure_future(file.read(30_000))
                for _ in range(choppy.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    before += task.result()
                position = await file.tell()
                assert await file.read(5) == text[len(before) :][:5]
                await file.seek(position)
                assert await file.read(5) == text[len(before) :][:5]
                await file.seek(position)

    run(main())


def test_close_waits_for_what_is_under_way(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def main() -> None:
        for mode, buffering in (("rb", -1), ("rb", 0)):
            file: Any = await files.open(path, mode, buffering)
            raw = getattr(file, "raw", file)
            fd, may_read, engine = raw.fileno(), asyncio.Event(), raw._engine

            class Late:
                close, close_now = engine.close, engine.close_now

                async def read(self, fd: int, size: int, offset: int = -1, may_read: Any = may_read) -> bytes:
                    await may_read.wait()
                    return os.pread(fd, size, max(0, offset))

            raw._engine = Late()
            reads = [asyncio.ensure_future(read) for read in (file.pread(5, 2), file.pread(5, 2), file.read(3))]
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(file.close())
            for _ in range(5):
                await asyncio.sleep(0)
            os.fstat(fd)
            assert not closing.done()
            may_read.set()
            await closing
            assert await asyncio.gather(*reads) == [b"ntent", b"ntent", b"con"]
            with pytest.raises(ValueError, match="closed file"):
                await file.pread(1, 0)

    run(main())


def test_two_closes_at_once(run: Any, tmp_path: Path, choppy: random.Random) -> None:
    async def main() -> None:
        for mode in ("wb", "w"):
            file = await files.open(tmp_path / "file", mode)
            await file.write(b"x" * 100 if "b" in mode else "x" * 100)
            await asyncio.gather(file.close(), file.close(), file.aclose())
            assert (tmp_path / "file").read_bytes() == b"x" * 100

    run(main())


def test_a_cancelled_close_writes_and_closes_all_the_same(run: Any, tmp_path: Path, choppy: random.Random) -> None:
    async def main() -> None:
        for turns in range(12):
            file = await files.open(tmp_path / "file", "wb", 1000)
            await file.write(b"x" * 900)
            task = asyncio.ensure_future(file.close())
            for _ in range(1 + turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert file.closed
            assert (tmp_path / "file").read_bytes() == b"x" * 900

    run(main())


def test_a_task_that_is_cancelled_while_it_waits_for_its_turn(run: Any) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        async with files.open(reading, "rb") as file:
            first, second, third = (asyncio.ensure_future(file.readline()) for _ in range(3))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.wait([second])
            assert second.cancelled() and not first.done() and not third.done()
            os.write(writing, b"one\ntwo\n")
            assert await asyncio.gather(first, third) == [b"one\n", b"two\n"]
        os.close(writing)

    run(main())


def test_positional_reads_and_writes_beside_the_buffer(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with files.open(path, "r+b") as file:
            assert await file.read(2) == b"01"
            assert await file.pwrite(b"XY", 2) == 2
            assert await file.read(3) == b"XY4"
            await file.write(b"abc")
            assert await file.pread(20, 4) == b"4abc89"
            assert await file.tell() == 8
            space = [bytearray(2), bytearray(3)]
            assert await file.preadv(space, 1) == 5
            assert space == [bytearray(b"1X"), bytearray(b"Y4a")]
            assert await file.pwritev([b"<", b">>"], 7) == 3
            assert await file.read() == b">>"
            await file.write(b"!")
            await file.fdatasync()
            assert path.read_bytes() == b"01XY4ab<>>!"
            await file.write(b"!")
            await file.fsync()
            assert path.read_bytes() == b"01XY4ab<>>!!"
            with pytest.raises(OSError, match="Invalid argument"):
                await file.pread(1, -1)

    run(main())
