"""Disks that are full or broken, file descriptors that are gone, files that nobody closed."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files


def test_a_full_disk(run: Any) -> None:
    async def main() -> None:
        file = await files.open("/dev/full", "wb", 100)
        await file.write(b"x" * 60)
        for _ in range(2):  # it is still there the second time
            with pytest.raises(OSError, match="No space left") as caught:
                await file.flush()
            assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            await file.write(b"y" * 60)
        with pytest.raises(OSError, match="No space left"):
            await file.close()
        assert file.closed
        async with files.open("/dev/full", "w", 1) as text:
            with pytest.raises(OSError, match="No space left"):
                await text.write("a line\n")
            with pytest.raises(OSError, match="No space left"):
                await text.close()
            assert text.closed
        async with files.open("/dev/full", "wb", 0) as raw:
            with pytest.raises(OSError, match="No space left"):
                await raw.write(b"x")
            with pytest.raises(OSError, match="No space left"):
                await raw.pwrite(b"x", 7)

    run(main())


def test_what_cannot_be_read(run: Any) -> None:
    async def main() -> None:
        async with files.open("/proc/self/mem", "rb") as file:
            for read in (file.read(10), file.readline(), file.pread(10, 0), file.peek(), file.readinto(bytearray(5))):
                with pytest.raises(OSError, match="Input/output error") as caught:
                    await read
                assert caught.value.errno == errno.EIO
        with pytest.raises(IsADirectoryError):
            await files.read_bytes("/")

    run(main())


def test_a_file_descriptor_that_others_closed(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    async def main() -> None:
        for mode in ("rb", "wb"):
            file = await files.open(tmp_path / "file", mode)
            os.close(file.fileno())
            if mode == "wb":
                await file.write(b"x")
            with pytest.raises(OSError, match="Bad file descriptor"):
                await (file.read() if mode == "rb" else file.flush())
            with pytest.raises(OSError, match="Bad file descriptor"):
                await file.close()
            assert file.closed

    run(main())


def test_a_file_that_was_removed_goes_on(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "file", "w+") as file:
            (tmp_path / "file").unlink()
            await file.write("content")
            await file.seek(0)
            assert await file.read() == "content"

    run(main())


@pytest.mark.parametrize(("mode", "buffering"), [("rb", 0), ("wb", 0), ("rb", -1), ("wb", -1), ("r+b", -1), ("w", -1)])
def test_files_that_nobody_closed_are_told_written_and_closed(
    run: Any, tmp_path: Path, mode: str, buffering: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def main() -> None:
        file: Any = await files.open(path, mode, buffering)
        fd = file.fileno()
        if mode != "rb":
            await file.write("new" if mode == "w" else b"new")
        text = repr(file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del file
            gc.collect()
        assert [str(warning.message) for warning in caught] == [f"unclosed file {text}"]
        assert caught[0].category is ResourceWarning
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main())
    assert path.read_bytes() == {"rb": b"content", "r+b": b"newtent"}.get(mode, b"new")


def test_files_in_a_cycle_are_written_too(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        file: Any = await files.open(tmp_path / "file", "w")
        await file.write("content")
        file.itself = file
        file.buffer.above = file
        file.buffer.raw.above = file
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del file
            gc.collect()
        assert (tmp_path / "file").read_bytes() == b"content"

    run(main())


def test_detached_layers_live_on(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        text = await files.open(tmp_path / "file", "w+", encoding="utf-8")
        await text.write("é")
        buffer = text.detach()
        assert (tmp_path / "file").read_bytes() == "é".encode()
        await buffer.write(b"x")
        raw = buffer.detach()
        assert (tmp_path / "file").read_bytes() == "éx".encode()
        await raw.write(b"y")
        for gone in (text, buffer):
            with pytest.raises(ValueError, match="has been detached"):
                await gone.close()
        del text, buffer
        gc.collect()
        assert not raw.closed
        await raw.close()
        assert (tmp_path / "file").read_bytes() == "éxy".encode()

    run(main())


def test_a_reader_of_a_pipe_that_never_writes_can_be_given_up(run: Any) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        writer = await files.open(writing, "wb", 10_000_000)
        await writer.write(bytes(1_000_000))
        task = asyncio.ensure_future(writer.close())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.to_thread(os.read, reading, 1 << 20)  # until then a thread may be at it
        os.close(reading)
        await asyncio.wait([task])
        assert writer.closed

    run(main())
