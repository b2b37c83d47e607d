"""files.open(): the same arguments, refusals and files as io.open()'s."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files

BAD: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("{}/missing",), {}),
    (("{}/missing/below", "w"), {}),
    (("{}",), {}),
    (("{}", "w"), {}),
    (("{}/file/below", "rb"), {}),
    (("{}/file", "x"), {}),
    (("",), {}),
    (("a\0b",), {}),
    ((-1,), {}),
    ((9999,), {}),
    ((None,), {}),
    ((1.5,), {}),
    (([],), {}),
    *[
        (("{}/file", mode), {})
        for mode in ("", "q", "rw", "rr", "r+w", "bt", "rbt", "+", "b", "rb ", "a+x", "ra", "r++")
    ],
    (("{}/file", None), {}),
    (("{}/file", b"r"), {}),
    (("{}/file", "rb"), {"encoding": "utf-8"}),
    (("{}/file", "rb"), {"errors": "strict"}),
    (("{}/file", "rb"), {"newline": ""}),
    (("{}/file", "r"), {"newline": "x"}),
    (("{}/file", "r"), {"newline": 5}),
    (("{}/file", "r"), {"encoding": "no such"}),
    (("{}/file", "r"), {"encoding": "hex"}),
    (("{}/file", "r"), {"encoding": 5}),
    (("{}/file", "r"), {"encoding": "utf-8", "errors": 5}),
    (("{}/file", "r", 0), {}),
    (("{}/file", "r"), {"closefd": False}),
    (("{}/file", "r"), {"opener": lambda path, flags: -3}),
    (("{}/file", "r"), {"opener": lambda path, flags: 9999}),
    (("{}/file", "r"), {"opener": lambda path, flags: "x"}),
    (("{}/file", "r"), {"opener": lambda path, flags: 1 / 0}),
    (("{}/file", "r"), {"opener": 5}),
    (("{}/pipe", "r+b"), {"opener": lambda path, flags: os.open(path, flags | os.O_NONBLOCK)}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content\n")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def told(exc: BaseException) -> Any:
    text = "null" if "embedded null" in str(exc) else str(exc)  # os.open() and io differ
    return type(exc), text, getattr(exc, "errno", None), getattr(exc, "filename", None)


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_io_refuses_is_refused_in_its_words(run: Any, folder: Path, number: int) -> None:
    arguments, options = BAD[number]
    arguments = tuple(arg.format(folder) if isinstance(arg, str) else arg for arg in arguments)

    async def main() -> None:
        with pytest.raises(Exception) as theirs, open(*arguments, **options):
            pass
        with pytest.raises(Exception) as ours:
            async with files.open(*arguments, **options):
                pass
        assert told(ours.value) == told(theirs.value)

    run(main())
    assert (folder / "file").read_bytes() == b"content\n"


def test_what_is_returned_can_be_awaited_and_entered(run: Any, folder: Path) -> None:
    async def main() -> None:
        file = await files.open(folder / "file")
        async with file:
            assert await file.read() == "content\n"
        assert file.closed
        async with files.open(folder / "file", "rb") as other, await files.open(folder / "file", "rb", 0) as raw:
            assert await other.read(3) == b"con"
            assert await raw.read(3) == b"con"
        assert other.closed and raw.closed
        opening = files.open(folder / "file")
        assert await opening is await opening
        await (await opening).close()

    run(main())


def test_classes_names_and_modes_are_those_of_io(run: Any, folder: Path) -> None:
    async def main() -> None:
        for mode in ("rb", "wb", "ab", "r+b", "w+b", "a+b", "r", "w", "a", "r+", "w+", "a+", "rt", "tr", "xb", "x+"):
            for buffering in (-1, 0, 300):
                if buffering == 0 and "b" not in mode:
                    continue
                for path in (folder / "file", os.fsencode(folder / "file"), str(folder / "file")):
                    if "x" in mode:
                        (folder / "file").unlink()
                    with open(path, mode, buffering) as theirs:
                        if "x" in mode:
                            (folder / "file").unlink()
                        async with files.open(path, mode, buffering) as ours:
                            assert type(ours).__name__ == "Async" + type(theirs).__name__
                            assert (ours.name, ours.mode) == (theirs.name, theirs.mode)
                            assert getattr(ours, "encoding", None) == getattr(theirs, "encoding", None)
                            expected = repr(theirs).replace("_io.", "aioqemu_loop.files.Async")
                            assert repr(ours) == expected

    run(main())


def test_closefd_and_numbers(run: Any, folder: Path) -> None:
    async def main() -> None:
        fd = os.open(folder / "file", os.O_RDWR)
        async with files.open(fd, "r+b", closefd=False) as file:
            assert file.name == fd
            await file.write(b"CON")
        assert os.pread(fd, 10, 0) == b"CONtent\n"
        async with files.open(fd, "rb") as file:
            assert await file.read() == b"tent\n"  # the position is the fd's
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main())


def test_opener_and_flags(run: Any, folder: Path) -> None:
    async def main() -> None:
        below = os.open(folder, os.O_RDONLY)
        seen = []

        def opener(path: str, flags: int) -> int:
            seen.append(flags)
            return os.open(path, flags, dir_fd=below)

        async with files.open("file", "rb", opener=opener, flags=os.O_NOATIME) as file:
            assert await file.read() == b"content\n"
            assert not os.get_inheritable(file.fileno())
        os.close(below)
        assert seen == [os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME]
        async with files.open(folder / "new", "wb", flags=os.O_EXCL) as file:
            await file.write(b"x")
        with pytest.raises(FileExistsError) as caught:
            await files.open(folder / "new", "wb", flags=os.O_EXCL)
        assert caught.value.filename == str(folder / "new")

    run(main())


def test_line_buffering_in_binary_mode_is_warned_of(run: Any, folder: Path) -> None:
    with pytest.warns(RuntimeWarning, match="line buffering") as caught:
        opening = files.open(folder / "file", "rb", 1)
    assert caught[0].filename == __file__

    async def main() -> None:
        async with opening as file:
            assert await file.readline() == b"content\n"

    run(main())


def test_default_encoding_is_warned_of_where_asked_for(folder: Path) -> None:
    code = f"import aioqemu_loop.files as files; files.open({str(folder / 'file')!r})"
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "EncodingWarning: 'encoding' argument not specified" in result.stderr


def test_pipes(run: Any, folder: Path) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        async with files.open(reading, "rb") as reader, files.open(writing, "wb") as writer:
            assert not await reader.seekable() and not await writer.seekable()
            with pytest.raises(OSError, match="Illegal seek"):
                await reader.tell()
            await writer.write(b"one\ntwo\nthree")
            await writer.flush()
            assert await reader.readline() == b"one\n"
            assert await reader.read1() == b"two\nthree"
            await writer.write(bytes(range(256)))
            await writer.close()
            assert await reader.read() == bytes(range(256))
            assert await reader.read() == b""

    run(main())


def test_reading_line_by_line_from_a_raw_pipe_takes_no_more(run: Any) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        os.write(writing, b"one\ntwo\nthree")
        os.close(writing)
        async with files.open(reading, "rb", 0) as reader:
            assert await reader.readline() == b"one\n"
            assert os.read(reading, 4) == b"two\n"
            assert await reader.readline(2) == b"th"
            assert await reader.readall() == b"ree"

    run(main())


def test_non_blocking_pipes_answer_as_io_does(run: Any) -> None:
    async def main() -> None:
        for library in ("ours", "theirs"):
            reading, writing = os.pipe2(os.O_NONBLOCK)
            if library == "ours":
                reader: Any = await files.open(reading, "rb")
                writer: Any = await files.open(writing, "wb", 1000)
                assert await reader.read(5) is None
                assert await reader.read() is None
                assert await reader.readinto(bytearray(5)) is None
                assert await reader.readline() == b""
                await writer.write(b"x" * 10)
                await writer.flush()
                assert await reader.read(50) == b"x" * 10
                with pytest.raises(BlockingIOError) as caught:
                    await writer.write(bytes(200_000))
                await reader.close()
                with pytest.raises(BrokenPipeError):
                    await writer.close()
                ours = caught.value
            else:
                with open(reading, "rb"):
                    sync = open(writing, "wb", 1000)  # noqa: SIM115
                    with pytest.raises(BlockingIOError) as caught:
                        sync.write(bytes(200_000))
                with pytest.raises(BrokenPipeError):
                    sync.close()
                assert (ours.errno, ours.characters_written) == (caught.value.errno, caught.value.characters_written)
                assert str(ours) == str(caught.value)

    run(main())


def test_terminals_are_line_buffered(run: Any) -> None:
    async def main() -> None:
        controller, terminal = pty.openpty()
        async with files.open(terminal, "w", closefd=False) as file:
            assert await file.isatty() and file.line_buffering and not await file.seekable()
            await file.write("one\n")
            await file.write("two")
            assert os.read(controller, 100) == b"one\r\n"
        assert os.read(controller, 100) == b"two"
        os.write(controller, b"typed\n")
        async with files.open(terminal, "r", closefd=False) as file:
            assert await file.readline() == "typed\n"
        with pytest.raises(ValueError, match="not seekable"):
            await files.open(terminal, "r+", closefd=False)
        os.close(controller)
        os.close(terminal)

    run(main())


@pytest.mark.parametrize("buffering", [1 << 31, 1 << 70, -(1 << 40), "1", None, 1.5])
def test_buffers_of_impossible_sizes_are_refused_at_once(tmp_path: Path, buffering: Any) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    with pytest.raises((OverflowError, TypeError)) as theirs:
        open(path, "r+", buffering)  # noqa: SIM115
    with pytest.raises(theirs.type):
        files.open(path, "r+", buffering)
    assert path.read_text() == "text"
