"""What os, os.path and shutil do, awaitable: results and exceptions are theirs."""

from __future__ import annotations

import asyncio
import inspect
import mmap
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files

FOLDERS: list[tuple[str, tuple[Any, ...]]] = [
    ("mkdir", ("{}/new",)),
    ("mkdir", ("{}/new",)),
    ("mkdir", ("{}/missing/new",)),
    ("makedirs", ("{}/a/b/c",)),
    ("makedirs", ("{}/a/b/c",)),
    ("rename", ("{}/missing", "{}/x")),
    ("rename", ("{}/file", "{}/renamed")),
    ("replace", ("{}/renamed", "{}/file")),
    ("replace", ("{}/file", "{}/a")),
    ("link", ("{}/file", "{}/a/linked")),
    ("link", ("{}/file", "{}/a/linked")),
    ("symlink", ("file", "{}/soft")),
    ("readlink", ("{}/soft",)),
    ("readlink", ("{}/file",)),
    ("listdir", ("{}/a",)),
    ("listdir", ("{}/missing",)),
    ("access", ("{}/file", os.R_OK)),
    ("access", ("{}/missing", os.R_OK)),
    ("renames", ("{}/a/linked", "{}/q/r/moved")),
    ("remove", ("{}/q/r/moved",)),
    ("unlink", ("{}/missing",)),
    ("unlink", ("{}/a",)),
    ("rmdir", ("{}/a",)),
    ("rmdir", ("{}/file",)),
    ("removedirs", ("{}/a/b/c",)),
    ("stat", ("{}/missing",)),
    ("stat", (None,)),
    ("lstat", ("{}/missing",)),
    ("statvfs", ("{}/missing",)),
    ("scandir", ("{}/missing",)),
]


async def told(obtain: Any) -> Any:
    try:
        result = obtain()
        return await result if inspect.isawaitable(result) else result
    except Exception as exc:
        return type(exc), str(exc), getattr(exc, "filename", None), getattr(exc, "filename2", None)


def test_the_same_steps_as_with_os(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("ours", "theirs"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "file").write_bytes(b"content")

    def arguments(kind: str, given: tuple[Any, ...]) -> list[Any]:
        return [arg.format(kind) if isinstance(arg, str) else arg for arg in given]

    async def main() -> None:
        for name, given in FOLDERS:
            expected = await told(lambda n=name, a=given: getattr(os, n)(*arguments("theirs", a)))
            got = await told(lambda n=name, a=given: getattr(files, n)(*arguments("ours", a)))
            assert repr(got).replace("ours", "theirs") == repr(expected), (name, given)
        trees = [sorted(str(path)[len(kind) :] for path in Path(kind).rglob("*")) for kind in ("ours", "theirs")]
        assert trees[0] == trees[1]
        assert await files.getcwd() == str(tmp_path)
        assert await files.stat("ours/file") == os.stat("ours/file")
        assert await files.lstat("ours/soft") == os.lstat("ours/soft")
        assert await files.stat("ours/soft", follow_symlinks=False) == os.lstat("ours/soft")
        assert (await files.statvfs("ours")).f_bsize == os.statvfs("ours").f_bsize

    monkeypatch.chdir(tmp_path)
    run(main())


def test_names_and_docs_are_kept() -> None:
    assert files.mkdir.__name__ == "mkdir"
    assert inspect.iscoroutinefunction(files.mkdir) and inspect.iscoroutinefunction(files.ospath.exists)


def test_ospath(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nowhere")

    async def main() -> None:
        names = ("exists", "lexists", "isfile", "isdir", "islink", "ismount", "abspath", "realpath")
        names += ("getsize", "getmtime", "getatime", "getctime")
        for name in names:
            for path in ("file", "link", "broken", "missing", "."):
                got = await told(lambda n=name, p=path: getattr(files.ospath, n)(tmp_path / p))
                assert got == await told(lambda n=name, p=path: getattr(os.path, n)(tmp_path / p)), (name, path)
        assert await files.ospath.samefile(tmp_path / "file", tmp_path / "link")
        fd = await files.open_fd(tmp_path / "file", os.O_RDONLY)
        assert not os.get_inheritable(fd)
        assert await files.ospath.sameopenfile(fd, fd)
        os.close(fd)
        with pytest.raises(FileNotFoundError) as caught:
            await files.open_fd(tmp_path / "missing", os.O_RDONLY)
        assert caught.value.filename == tmp_path / "missing" or caught.value.filename == str(tmp_path / "missing")

    run(main())


def test_directories(run: Any, tmp_path: Path) -> None:
    names = {f"file{number}" for number in range(700)}
    for name in names:
        (tmp_path / name).touch()

    async def main() -> None:
        assert {entry.name async for entry in files.scandir(tmp_path)} == names
        assert {name async for name in files.iterdir(tmp_path)} == names
        assert {entry.name for entry in await files.scandir(str(tmp_path))} == names
        async with files.scandir(os.fsencode(tmp_path)) as entries:
            async for entry in entries:
                assert os.fsdecode(entry.name) in names and entry.is_file()
                break
        with pytest.raises(NotADirectoryError):
            async for _ in files.scandir(tmp_path / "file1"):
                pass

    run(main())


def test_whole_files(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        for size in (0, 1, 5000, (1 << 20) + 1, 3 << 20):
            data = os.urandom(size)
            assert await files.write_bytes(path, memoryview(data)) == size
            assert path.read_bytes() == data
            assert await files.read_bytes(path) == data
        assert await files.write_text(path, "é\n漢\n", "utf-16", newline="\r\n") == 4
        assert path.read_bytes() == "é\r\n漢\r\n".encode("utf-16")
        assert await files.read_text(path, "utf-16") == "é\n漢\n"
        assert await files.read_text(path, "utf-16", newline="") == "é\r\n漢\r\n"
        assert (await files.read_bytes("/proc/self/stat")).startswith(str(os.getpid()).encode())
        assert "Name:" in await files.read_text("/proc/self/status")
        for call in (files.read_bytes(tmp_path), files.read_text(tmp_path), files.write_bytes(tmp_path, b"")):
            with pytest.raises(IsADirectoryError) as caught:
                await call
            assert str(caught.value.filename) == str(tmp_path)
        with pytest.raises(FileNotFoundError):
            await files.read_bytes(tmp_path / "missing")
        before = path.read_bytes()
        for bad, error in (
            (files.write_text(path, b"x"), TypeError),
            (files.write_text(path, "é", "ascii"), UnicodeEncodeError),
            (files.write_text(path, "x", "no such"), LookupError),
            (files.write_bytes(path, "x"), TypeError),
        ):
            with pytest.raises(error):
                await bad
        assert path.read_bytes() == before
        with pytest.raises(OSError, match="No space left"):
            await files.write_bytes("/dev/full", b"x")
        with pytest.raises(OSError, match="No space left"):
            await files.write_bytes("/dev/full", bytes(2 << 20))

    run(main())


def test_copyfile(run: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = os.urandom((20 << 20) + 5)
    source.write_bytes(data)

    async def main() -> None:
        assert await files.copyfile(source, target) == target
        assert target.read_bytes() == data
        (tmp_path / "small").write_bytes(b"small")
        await files.copyfile(str(tmp_path / "small"), os.fsencode(target))
        assert target.read_bytes() == b"small"
        await files.copyfile("/proc/self/status", target)
        assert b"Name:" in target.read_bytes()
        (tmp_path / "link").symlink_to("source")
        await files.copyfile(tmp_path / "link", tmp_path / "copied", follow_symlinks=False)
        assert os.readlink(tmp_path / "copied") == "source"
        os.mkfifo(tmp_path / "pipe")
        for src, dst in (
            ("missing", "target"),
            ("source", "missing/target"),
            ("source", "source"),
            ("link", "source"),
            ("pipe", "target"),
            ("source", "pipe"),
            (".", "target2"),
            ("source", "."),
        ):
            pair = str(tmp_path / src), str(tmp_path / dst)
            with pytest.raises((OSError, shutil.Error)) as theirs:
                shutil.copyfile(*pair)
            with pytest.raises((OSError, shutil.Error)) as ours:
                await files.copyfile(*pair)
            assert type(ours.value) is type(theirs.value), pair
            assert str(ours.value) == str(theirs.value)
        assert source.read_bytes() == data
        with pytest.raises(OSError, match="No space left") as caught:
            await files.copyfile(source, "/dev/full")
        assert (caught.value.filename, caught.value.filename2) == (str(source), "/dev/full")

    run(main())


def test_a_copy_can_be_cancelled(run: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(1 << 30)

    async def main() -> None:
        copying = asyncio.ensure_future(files.copyfile(source, target))
        while not (target.exists() and target.stat().st_size):
            await asyncio.sleep(0)
        copying.cancel()
        await asyncio.wait([copying])
        assert copying.cancelled()
        assert target.stat().st_size < 1 << 30

    run(main())


def test_room_and_advice(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "file", "w+b") as file:
            await files.fallocate(file, 0, 10_000)
            assert os.fstat(file.fileno()).st_size == 10_000
            await files.fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            await files.fadvise(file.fileno(), 0, 10, os.POSIX_FADV_DONTNEED)
            with pytest.raises(OSError, match="Invalid argument"):
                await files.fallocate(file, 0, 0)
        with pytest.raises(ValueError, match="closed"):
            await files.fallocate(file, 0, 10)

    run(main())


def test_aligned_memory() -> None:
    import ctypes

    for size, alignment in ((1, 1), (4096, 4096), (5000, 512), (100, 1 << 16), (1 << 20, 1 << 21)):
        space = files.aligned_buffer(size, alignment)
        assert (len(space), space.readonly, bytes(space[:4])) == (size, False, bytes(min(4, size)))
        assert ctypes.addressof(ctypes.c_char.from_buffer(space)) % alignment == 0
    assert ctypes.addressof(ctypes.c_char.from_buffer(files.aligned_buffer(5))) % mmap.PAGESIZE == 0
    for size, alignment in ((0, 4096), (-1, 4096), (5, 3), (5, 0), (5, -4096)):
        with pytest.raises(ValueError, match="must be"):
            files.aligned_buffer(size, alignment)


def test_direct_io(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(64 * 1024)
    path.write_bytes(data)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")

    async def main() -> None:
        space = files.aligned_buffer(16 * 1024)
        async with files.open(path, "r+b", 0, flags=os.O_DIRECT) as file:
            assert await file.readinto(space) == len(space)
            assert space == data[: len(space)]
            assert await file.preadv([space], 32 * 1024) == len(space)
            assert space == data[32 * 1024 : 48 * 1024]
            assert await file.pwrite(space, 0) == len(space)
        assert path.read_bytes()[: len(space)] == bytes(space)

    run(main())


def test_stat_of_a_file_descriptor(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "file", "wb") as file:
            assert stat.S_ISREG((await files.stat(file.fileno())).st_mode)

    run(main())
