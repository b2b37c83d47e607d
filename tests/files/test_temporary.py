"""Temporary files and directories, streams and files that exist already, sendfile()."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files


@pytest.mark.parametrize("mode", ["w+b", "w+", "r+b", "r+"])
def test_files_without_a_name(run: Any, tmp_path: Path, mode: str) -> None:
    async def main() -> None:
        data: Any = b"line\n" if "b" in mode else "line\n"
        async with files.TemporaryFile(mode, dir=tmp_path) as file:
            await file.write(data)
            await file.seek(0)
            assert [line async for line in file] == [data]
            assert os.listdir(tmp_path) == []
            assert file.name == file.fileno()
        assert file.closed

    run(main())


def test_files_with_a_name(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.NamedTemporaryFile("w+", suffix=".s", prefix="p", dir=tmp_path, encoding="utf-8") as file:
            path = Path(file.name)
            assert path.parent == tmp_path and path.name.startswith("p") and path.suffix == ".s"
            assert path.stat().st_mode & 0o777 == 0o600
            await file.write("é")
            await file.flush()
            assert path.read_bytes() == "é".encode() and file.delete
        assert not path.exists()
        file = await files.NamedTemporaryFile(dir=tmp_path)
        await file.close()
        assert os.listdir(tmp_path) == []
        async with files.NamedTemporaryFile(dir=tmp_path, delete_on_close=False) as file:
            await file.write(b"x")
            await file.close()
            assert Path(file.name).read_bytes() == b"x"
        assert os.listdir(tmp_path) == []
        async with files.NamedTemporaryFile(dir=tmp_path, delete=False) as file:
            assert not file.delete
        assert os.listdir(tmp_path) == [Path(file.name).name]
        os.unlink(file.name)
        async with files.NamedTemporaryFile(dir=tmp_path) as file:
            os.unlink(file.name)  # somebody else did it
        file = await files.NamedTemporaryFile(dir=tmp_path)
        with pytest.warns(ResourceWarning):
            del file
            gc.collect()
        assert os.listdir(tmp_path) == []

    run(main())


def test_bad_arguments_leave_nothing(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        for make in (files.TemporaryFile, files.NamedTemporaryFile):
            for options in ({"mode": "q"}, {"encoding": "utf-8"}, {"mode": "w", "newline": "x"}):
                with pytest.raises(ValueError):
                    make(dir=tmp_path, **options)
            with pytest.raises(ValueError, match="unbuffered"):
                await make("w", 0, dir=tmp_path)
            with pytest.raises(FileNotFoundError):
                await make(dir=tmp_path / "missing")
        assert os.listdir(tmp_path) == []

    run(main())


def test_files_in_memory(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        for mode, data in (("w+b", b"content\n"), ("w+", "content\n")):
            async with files.SpooledTemporaryFile(20, mode, dir=tmp_path) as file:
                assert await file.write(data) == 8
                assert not file.wrapped.on_disk
                await file.write(data)
                await file.write(data)
                assert file.wrapped.on_disk
                await file.seek(0)
                assert [line async for line in file] == [data] * 3
            assert file.closed
        async with files.SpooledTemporaryFile() as file:
            await file.writelines([b"x" * 1000] * 3)
            assert not file.wrapped.on_disk and await file.tell() == 3000
            os.fstat(await file.fileno())
            await file.seek(0)
            assert await file.read() == b"x" * 3000

    run(main())


def test_directories(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.TemporaryDirectory("s", "p", tmp_path) as name:
            assert Path(name).is_dir() and Path(name).name[0] + name[-1] == "ps"
            (Path(name) / "file").touch()
        assert os.listdir(tmp_path) == []
        directory = await files.TemporaryDirectory(dir=tmp_path)
        assert Path(directory.name).is_dir()
        await directory.close()
        await directory.cleanup()
        assert os.listdir(tmp_path) == []
        with pytest.raises(FileNotFoundError):
            await files.TemporaryDirectory(dir=tmp_path / "missing")
        with pytest.raises(ValueError, match="not made"):
            print(files.TemporaryDirectory().name)
        if sys.version_info >= (3, 12):
            async with files.TemporaryDirectory(dir=tmp_path, delete=False) as name:
                pass
            os.rmdir(name)
        else:
            with pytest.raises(TypeError, match=r"3\.12"):
                files.TemporaryDirectory(delete=False)
        fd, path = await files.mkstemp(dir=tmp_path)
        os.close(fd)
        assert os.listdir(tmp_path) == [Path(path).name]
        assert os.path.isdir(await files.mkdtemp(dir=tmp_path))
        assert await files.gettempdir() == tempfile.gettempdir()

    run(main())


def test_files_that_exist_already(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one\ntwo\n")

    async def main() -> None:
        async with files.wrap(open(tmp_path / "file", "rb")) as file:
            assert file.readable() and await file.seekable() and file.fileno() > 2
            assert await file.readline() == b"one\n"
            assert [line async for line in file] == [b"two\n"]
            assert await file.seek(0) == 0 and await file.read(3) == b"one"
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            await file.read()
        memory = files.wrap(io.StringIO())
        await memory.write("x")
        assert memory.getvalue() == "x"
        await memory.aclose()
        for bad in (int, [1], 5, None, io.FileIO, lambda: 5):
            with pytest.raises(TypeError):
                files.wrap(bad)

    run(main())


def test_the_standard_streams(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), "utf-8"))
            await getattr(files, name).write("é")
            await getattr(files, name).flush()
            await getattr(files, name + "_bytes").write(b"x")
            assert getattr(sys, name).buffer.getvalue() == "éx".encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\nthree"), "utf-8"))
        assert await files.stdin_bytes.readline() == b"one\n"
        assert [line async for line in files.stdin] == ["two\n", "three"]

    run(main())


def test_sendfile(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(300_000)
    path.write_bytes(content)

    async def main() -> None:
        received = bytearray()
        done = asyncio.Event()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.extend(await reader.read())
            writer.close()
            done.set()

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"head")
        async with files.open(path, "rb") as file, files.open(path, "rb", 0) as raw:
            assert await file.read(10) == content[:10]
            assert await files.sendfile(writer, file) == len(content)
            assert await file.read() == b""
            assert await files.sendfile(writer.transport, file, 5, 10) == 10
            assert await file.read(3) == content[15:18]
            assert await files.sendfile(writer, raw, 299_990, 100) == 10
        async with files.open(path, "r+b") as file:
            await file.seek(0, os.SEEK_END)
            await file.write(b"not written yet")
            assert await files.sendfile(writer, file, len(content)) == 15
            with pytest.raises(ValueError, match="closed"):
                await file.close()
                await files.sendfile(writer, file)
        with open(path, "rb") as plain:
            assert await files.sendfile(writer, plain, 0, 3) == 3
        async with files.open(path, encoding="latin-1") as text:
            with pytest.raises(ValueError, match="binary mode"):
                await files.sendfile(writer, text)
        writer.close()
        await writer.wait_closed()
        await done.wait()
        expected = b"head" + content + content[5:15] + content[-10:] + b"not written yet" + content[:3]
        assert bytes(received) == expected
        server.close()
        await server.wait_closed()

    run(main())


def test_sendfile_between_file_descriptors(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")

    async def main() -> None:
        async with files.open(tmp_path / "file", "rb") as source, files.open(tmp_path / "copy", "wb") as target:
            assert await files.sendfile(target.fileno(), source.fileno(), 2, 5) == 5
        assert (tmp_path / "copy").read_bytes() == b"23456"

    run(main())
