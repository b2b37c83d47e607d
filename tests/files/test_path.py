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


from_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="pathlib copies from Python 3.14 on")

COPIES: list[tuple[str, str, str, dict[str, bool]]] = [
    ("file", "copy", "copy", {}),
    ("file", "copy", "copy", {}),
    ("file", "copy", "file", {}),
    ("file", "copy", "kept", {"preserve_metadata": True}),
    ("file", "copy", "tree", {}),
    ("file", "copy", "missing/copy", {}),
    ("missing", "copy", "copy", {}),
    ("link", "copy", "of link", {}),
    ("link", "copy", "link too", {"follow_symlinks": False}),
    ("tree", "copy", "tree too", {"follow_symlinks": False}),
    ("tree", "copy", "tree too", {}),
    ("tree", "copy", "tree/inside", {}),
    ("file", "copy", "copy", {"no_such_option": True}),
    ("file", "copy_into", "tree", {}),
    ("tree", "copy_into", "tree too", {"preserve_metadata": True}),
    ("file", "copy_into", "missing", {}),
    ("..", "copy_into", "tree", {}),
    ("/", "copy_into", "tree", {}),
    ("copy", "move", "moved", {}),
    ("copy", "move", "moved", {}),
    ("file", "move", "file", {}),
    ("file", "move", "tree", {}),
    ("tree too", "move", "tree/moved", {}),
    ("tree", "move", "tree/moved", {}),
    ("moved", "move_into", "tree", {}),
    ("moved", "move_into", "tree", {}),
    ("/", "move_into", "tree", {}),
]


def all_below(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Mode, time (where the tests set it to one of the past) and content of all that is in the folder."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        past = status.st_mtime if status.st_mtime < 1e9 else None
        found[str(path.relative_to(folder))] = status.st_mode, past, content
    return found


@from_3_14
def test_the_same_copies_as_with_pathlib(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        (folder / "tree" / "below").mkdir(parents=True)
        (folder / "tree" / "below" / "leaf").write_bytes(b"leaf")
        (folder / "tree" / "link").symlink_to("below/leaf")
        (folder / "file").write_bytes(b"content")
        (folder / "file").chmod(0o640)
        (folder / "link").symlink_to("file")
        for path in (folder / "file", folder / "tree"):
            os.utime(path, (1e8, 1e8))

    async def outcome_of(path: Any, method: str, target: Any, options: dict[str, bool]) -> Any:
        try:
            result = getattr(path, method)(target, **options)
            return str(await result if inspect.isawaitable(result) else result)
        except Exception as exc:
            return type(exc), str(exc), getattr(exc, "filename", None), getattr(exc, "filename2", None)

    async def main() -> None:
        for number, (name, method, target, options) in enumerate(COPIES):
            kind = (str, Path, files.Path)[number % 3]
            monkeypatch.chdir(tmp_path / "ours")
            got = await outcome_of(files.Path(name), method, kind(target), options)
            monkeypatch.chdir(tmp_path / "theirs")
            expected = await outcome_of(Path(name), method, target, options)
            assert got == expected, (name, method, target)
            assert all_below(tmp_path / "ours") == all_below(tmp_path / "theirs"), (name, method, target)

    run(main())


@from_3_14
def test_what_copies_and_moves_return(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        top = Own(tmp_path)
        file, folder = top / "file", top / "folder"
        await folder.mkdir()
        await file.write_text("content")
        copy = await file.copy(top / "copy")
        inner = await copy.copy_into(folder)
        moved = await copy.move(str(top / "moved"))
        into = await moved.move_into(tmp_path / "folder")
        for path, expected in ((copy, "copy"), (inner, "folder/copy"), (moved, "moved"), (into, "folder/moved")):
            assert type(path) is Own and path == top / expected
        assert await into.read_text() == "content" and not await moved.exists() and not await copy.exists()
        for method in (file.copy, file.copy_into, file.move, file.move_into):
            for bad in (5, None, b"x"):
                with pytest.raises(TypeError):
                    await method(bad)
        assert await file.read_text() == "content"

    run(main())


@from_3_14
def test_info(tmp_path: Path) -> None:
    """It is pathlib's, of this path: what it has seen it does not ask again."""
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").touch()
    names = ("", "file", "link", "missing")
    for question in ("exists", "is_dir", "is_file", "is_symlink"):
        answers = [getattr((files.Path(tmp_path) / name).info, question)() for name in names]
        assert answers == [getattr(tmp_path / name, question)() for name in names]
    file = files.Path(tmp_path / "file")
    assert file.info is file.info and file.info.is_file()
    (tmp_path / "file").unlink()
    assert file.info.is_file() and not files.Path(file).info.exists()
