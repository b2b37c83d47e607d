"""Local files that are cached: opened, read and closed without waiting, and without needless system calls."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files
from aioqemu_loop.files.engine import engine_of

from ..fdmon.tracing import names, strace

PAGE = 4096

OPEN_READ_CLOSE = """
    import os, sys
    import aioqemu_loop
    from aioqemu_loop import files

    async def main():
        for number in range(20):
            if number == 10:
                os.write(2, b"BEGIN")
            async with files.open(sys.argv[1], "rb") as file:
                assert len(await file.read()) == 4096
        os.write(2, b"END")

    loop = aioqemu_loop.new_event_loop(fdmon=sys.argv[2])
    loop.run_until_complete(main())
    loop.close()
"""


@pytest.mark.parametrize("fdmon", ["io_uring", "epoll"])
def test_system_calls_of_a_small_file_that_is_cached(tmp_path: Path, fdmon: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    calls = Counter(names(strace(OPEN_READ_CLOSE, str(path), fdmon)))
    assert calls["preadv2"] == 10  # the end is known without a second one
    assert not calls["ioctl"]
    assert calls["openat"] <= 2  # where the kernel could not say at once, as somebody renamed something just then
    of_files = sum(calls[name] for name in ("openat2", "close", "fstat", "newfstatat", "fstatfs", "fcntl", "lseek"))
    assert of_files <= 10 * 12  # the rest is the loop's, some hundred microseconds apart


def cut_cache(path: Path, at: int) -> None:
    """Have the bytes from `at` on wait for the device."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        file.read()
        os.posix_fadvise(file.fileno(), at, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("size", [0, 1, 8 * PAGE, 64 * PAGE - 1, 64 * PAGE + 1])
@pytest.mark.parametrize("cached", [0, 4])
def test_whole_files_whatever_is_cached_of_them(run: Any, tmp_path: Path, size: int, cached: int) -> None:
    path = tmp_path / "file"
    data = os.urandom(size)

    async def main() -> None:
        for start in (0, PAGE, size):
            for buffering in (0, -1):
                path.write_bytes(data)
                cut_cache(path, cached * PAGE)
                async with files.open(path, "rb", buffering) as file:
                    await file.seek(start)
                    assert await file.read() == data[start:]
                    assert await file.tell() == max(size, start)
                    assert await file.read() == b""
        assert await files.read_bytes(path) == data

    run(main())


def test_what_is_read_ahead_comes_before_the_rest(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(100_000)
    path.write_bytes(data)

    async def main() -> None:
        async with files.open(path, "rb") as file:
            assert await file.read(10) == data[:10]
            assert await file.read() == data[10:]
        async with files.open(path, "rb+") as both:
            await both.write(b"new")
            assert await both.read() == data[3:]  # and what was written is written
            assert path.read_bytes() == b"new" + data[3:]

    run(main())


def test_files_that_are_longer_than_they_say(run: Any) -> None:
    async def main() -> None:
        assert os.stat("/proc/self/status").st_size == 0
        assert b"VmRSS" in await files.read_bytes("/proc/self/status")
        for buffering in (0, -1):
            async with files.open("/proc/self/status", "rb", buffering) as file:
                assert b"VmRSS" in await file.read()

    run(main())


class Changing:
    """An engine under which the file changes its size right after a look at that."""

    def __init__(self, engine: Any, path: Path, size: int) -> None:
        self._engine = engine
        self._path = path
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def rest_now(self, fd: int) -> None:
        return None

    async def facts(self, fd: int) -> Any:
        facts = await self._engine.facts(fd)
        os.truncate(self._path, self._size)
        return facts


def test_a_file_that_changes_its_size_while_it_is_read(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        for size in (10, 30):
            path.write_bytes(b"x" * 20)
            async with files.open(path, "rb") as file:
                file.raw._engine = Changing(file.raw._engine, path, size)  # type: ignore[assignment]
                assert await file.read() == (b"x" * 20 + bytes(10))[:size]

    run(main())


def test_the_position_of_a_file_that_appends(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")

    async def main() -> None:
        for mode, buffering in (("ab", 0), ("ab", -1), ("a+b", -1), ("a", -1)):
            before = path.stat().st_size
            async with files.open(path, mode, buffering) as file:
                assert await file.tell() == before
                await file.write("x" if mode == "a" else b"x")
                assert await file.tell() == before + 1
                assert await file.seek(0, os.SEEK_END) == before + 1

    run(main())


def test_what_was_no_file_when_it_was_looked_at(run: Any, tmp_path: Path) -> None:
    """Directories, pipes and devices do not take the short way."""
    os.mkfifo(tmp_path / "pipe")

    async def main() -> None:
        engine = engine_of(asyncio.get_running_loop())
        for path in (tmp_path, tmp_path / "pipe", "/dev/null", "/proc/self/status"):
            assert engine.open_now(str(path), os.O_RDONLY) is None
        for path in (tmp_path, str(tmp_path)):
            with pytest.raises(IsADirectoryError) as caught:
                await files.open(path, "rb")
            assert caught.value.filename == os.fspath(path)
            with pytest.raises(IsADirectoryError) as caught:
                await files.read_bytes(path)
            assert caught.value.filename == os.fspath(path)

    run(main())


def test_a_large_file_without_a_name_is_closed_by_a_thread(run: Any, tmp_path: Path) -> None:
    """Its blocks are freed then, which takes long."""

    async def main() -> None:
        engine = engine_of(asyncio.get_running_loop())
        for size, quick in ((1 << 20, True), (32 << 20, False)):
            path = tmp_path / "file"
            path.touch()
            os.truncate(path, size)
            file: Any = await files.open(path, "rb")
            fd = file.fileno()
            path.unlink()
            other = os.dup(fd)
            assert engine.close_now(other) is quick
            if not quick:
                os.close(other)
            await file.close()
            with pytest.raises(OSError):
                os.fstat(fd)

    run(main())
