"""files.Path: pathlib's answers, awaitable where the file system is asked."""

from __future__ import annotations

import inspect
import os
import pathlib
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files

PATHS = ("", ".", "/", "a", "a/b.c", "/a/b.tar.gz", "../x", "a//b/", ".hidden", "a/./b", "~/x", "name.")


def test_every_name_of_pathlib_is_there() -> None:
    names = {name for name in dir(pathlib.Path) if not name.startswith("_")}
    assert names - set(dir(files.Path)) <= {"link_to"}


def test_every_name_of_anyio_is_there() -> None:
    anyio = pytest.importorskip("anyio")
    for name in dir(anyio.Path):
        if name.startswith("_") or name == "limiter":
            continue
        ours, theirs = getattr(files.Path, name), getattr(anyio.Path, name)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs) or name == "open", name


def plain(value: Any) -> Any:
    if isinstance(value, files.Path):
        return str(value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, (tuple, list)) or "parents" in type(value).__name__.lower():
        return [plain(item) for item in value]
    return value


def outcome(obtain: Any) -> Any:
    try:
        return plain(obtain())
    except Exception as exc:
        return type(exc), str(exc).replace("PosixPath", "Path")


def test_the_letters_of_a_path() -> None:
    attributes = ("parts", "drive", "root", "anchor", "parent", "parents", "name", "suffix", "suffixes", "stem")
    calls: list[tuple[str, tuple[Any, ...]]] = [("as_posix", ()), ("as_uri", ()), ("is_absolute", ())]
    calls += [("joinpath", ("x", "/y")), ("with_name", ("n",)), ("with_suffix", (".s",)), ("match", ("*.c",))]
    calls += [("relative_to", ("a",)), ("is_relative_to", ("a",)), ("with_name", ("",)), ("with_suffix", ("s",))]
    calls += [("__truediv__", ("x",)), ("__rtruediv__", ("x",)), ("__fspath__", ()), ("__bytes__", ()), ("__str__", ())]
    for text in PATHS:
        ours, theirs = files.Path(text), pathlib.Path(text)
        for name in attributes:
            assert outcome(lambda o=ours, n=name: getattr(o, n)) == outcome(lambda o=theirs, n=name: getattr(o, n))
        for name, arguments in calls:
            got, expected = (outcome(lambda p=path, n=name, a=arguments: getattr(p, n)(*a)) for path in (ours, theirs))
            assert got == expected, (text, name)
        assert hash(ours) == hash(files.Path(theirs)) and ours == theirs and ours == files.Path(ours)
        assert pickle.loads(pickle.dumps(ours)) == ours
        assert open is not ours.open and os.fspath(ours) == os.fspath(theirs)
    assert files.Path("a", files.Path("b"), pathlib.Path("c")) == files.Path("a/b/c")
    assert sorted(files.Path(text) for text in PATHS) == sorted(pathlib.Path(text) for text in PATHS)
    assert repr(files.Path("a/b")) == "Path('a/b')"
    assert "x" / files.Path("y") == files.Path("x/y") != "x/y"
    for bad in (5, None, b"x"):
        with pytest.raises(TypeError):
            files.Path(bad)
        with pytest.raises(TypeError):
            files.Path("a") / bad


class Own(files.Path):
    """Results are of a subclass."""


def test_questions_and_changes(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        top = Own(tmp_path)
        folder = top / "a" / "b"
        with pytest.raises(FileNotFoundError) as caught:
            await folder.mkdir()
        assert caught.value.filename == str(folder)
        await folder.mkdir(parents=True)
        await folder.mkdir(exist_ok=True)
        file = folder / "file"
        assert not await file.exists()
        await file.touch()
        with pytest.raises(FileExistsError):
            await file.touch(exist_ok=False)
        assert await file.write_text("é\n", "utf-8") == 2
        assert await file.read_text("utf-8") == "é\n"
        assert await file.write_bytes(b"content") == 7
        assert await file.read_bytes() == b"content"
        async with file.open("rb") as opened, await file.open() as text:
            assert await opened.read() == b"content" and await text.read() == "content"
        link = top / "link"
        await link.symlink_to(file)
        assert await link.readlink() == file and await link.is_symlink() and not await file.is_symlink()
        assert (await link.lstat()).st_mode != (await link.stat()).st_mode
        assert await link.stat() == await file.stat(follow_symlinks=False)
        assert await link.resolve() == await file.resolve() and await link.samefile(file)
        assert await link.is_file() and not await link.is_dir() and await folder.is_dir()
        if sys.version_info >= (3, 13):
            assert not await link.is_file(follow_symlinks=False)
        other = top / "other"
        await other.hardlink_to(file)
        assert (await other.stat()).st_nlink == 2
        await other.chmod(0o600)
        assert (await file.stat()).st_mode & 0o777 == 0o600
        moved = await other.rename(top / "moved")
        assert type(moved) is Own and await moved.exists() and not await other.exists()
        assert await moved.replace(str(other)) == other
        await other.unlink()
        with pytest.raises(FileNotFoundError):
            await other.unlink()
        await other.unlink(missing_ok=True)
        with pytest.raises(OSError, match="not empty"):
            await folder.rmdir()
        await file.unlink()
        await folder.rmdir()
        assert await link.is_symlink() and not await link.exists() and await link.exists(follow_symlinks=False)
        assert await top.owner() == tmp_path.owner() and await top.group() == tmp_path.group()
        for question in ("is_mount", "is_socket", "is_fifo", "is_block_device", "is_char_device"):
            assert await getattr(files.Path("/dev/null"), question)() == getattr(Path("/dev/null"), question)()
        assert not await link.is_junction()
        assert await Own.cwd() == Path.cwd() and await Own.home() == Path.home()
        assert await Own("x").absolute() == Path("x").absolute()
        assert await Own("~/x").expanduser() == Path("~/x").expanduser()
        with pytest.raises(NotImplementedError):
            await link.lchmod(0o600)

    run(main())


def test_what_is_below(run: Any, tmp_path: Path) -> None:
    for name in ("a/b/c.txt", "a/d.txt", "e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    async def main() -> None:
        top = Own(tmp_path)
        found = [path async for path in top.iterdir()]
        assert set(found) == set(tmp_path.iterdir()) and {type(path) for path in found} == {Own}
        for pattern in ("*", "**/*.txt", "a/*", "nothing*"):
            assert {path async for path in top.glob(pattern)} == set(tmp_path.glob(pattern))
            assert {path async for path in top.rglob(pattern)} == set(tmp_path.rglob(pattern))
        with pytest.raises(FileNotFoundError):
            async for _ in (top / "missing").iterdir():
                pass
        with pytest.raises((ValueError, NotImplementedError)):
            async for _ in top.glob(""):
                pass
        if sys.version_info >= (3, 12):
            steps = [step async for step in top.walk()]
            assert [plain(step) for step in steps] == [plain(step) for step in tmp_path.walk()]
            async for _, folders, _ in top.walk():
                folders.clear()
                steps.clear()
            assert not steps

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="pathlib copies from Python 3.14 on")
def test_copying_and_moving(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        file = files.Path(tmp_path / "file")
        await file.write_text("content")
        copy = await file.copy(tmp_path / "copy")
        assert await copy.read_text() == "content"
        await files.Path(tmp_path / "folder").mkdir()
        assert await copy.copy_into(tmp_path / "folder") == tmp_path / "folder" / "copy"
        assert await (await copy.move(tmp_path / "moved")).move_into(tmp_path / "folder") == tmp_path / "folder/moved"
        assert file.info.is_file()

    run(main())
