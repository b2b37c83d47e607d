"""files.Path: pathlib.Path whose methods that use the file system are awaitable."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from aioqemu_loop.files import opening, os_functions, ospath, whole
from aioqemu_loop.files.os_functions import call, in_batches
from aioqemu_loop.files.pure_path import PurePath

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, StrPath
    from typing_extensions import Self


class Path(PurePath):
    """A path. What only looks at its letters is as in pathlib; what asks the file system is awaitable, or `async for`.

    The methods are those of the running Python's pathlib.Path (and anyio's, which are the same).
    """

    __slots__ = ()

    # --- where things are -----------------------------------------------------------------------------

    @classmethod
    async def cwd(cls) -> Self:
        """The current directory."""
        return cls(await call(os.getcwd))

    @classmethod
    async def home(cls) -> Self:
        """The user's home directory."""
        return cls(await call(pathlib.Path.home))

    async def absolute(self) -> Self:
        """The path from the root on."""
        return type(self)(await call(self._path.absolute))

    async def expanduser(self) -> Self:
        """With the home directory in place of ~ or ~user. RuntimeError if there is none."""
        return type(self)(await call(self._path.expanduser))

    async def resolve(self, strict: bool = False) -> Self:
        """Absolute, without links and `..`; `strict`: FileNotFoundError where it does not exist."""
        return type(self)(await call(self._path.resolve, strict))

    async def readlink(self) -> Self:
        """Where the link leads."""
        return type(self)(await call(self._path.readlink))

    # --- what it is -----------------------------------------------------------------------------------

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat()."""
        return await os_functions.stat(self._path, follow_symlinks=follow_symlinks)

    async def lstat(self) -> os.stat_result:
        """stat() of a link itself."""
        return await os_functions.stat(self._path, follow_symlinks=False)

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is something; without `follow_symlinks`, also a link that leads nowhere."""
        return await (ospath.exists if follow_symlinks else ospath.lexists)(self._path)

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory, or a link to one."""
        return await self._is(ospath.is_directory, self._path.is_dir, follow_symlinks)

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file, or a link to one."""
        return await self._is(ospath.is_regular, self._path.is_file, follow_symlinks)

    async def _is(
        self, question: Callable[[os.stat_result], bool], original: Callable[[], bool], follow_symlinks: bool
    ) -> bool:
        if not follow_symlinks and await self.is_symlink():
            return False
        return await ospath.ask(self._path, question, lambda _: original())

    async def is_block_device(self) -> bool:
        return await call(self._path.is_block_device)

    async def is_char_device(self) -> bool:
        return await call(self._path.is_char_device)

    async def is_fifo(self) -> bool:
        return await call(self._path.is_fifo)

    async def is_junction(self) -> bool:
        """False: there are none on Linux."""
        return False

    async def is_mount(self) -> bool:
        return await call(self._path.is_mount)

    async def is_socket(self) -> bool:
        return await call(self._path.is_socket)

    async def is_symlink(self) -> bool:
        return await ospath.ask(self._path, ospath.is_link, lambda _: self._path.is_symlink(), follow_symlinks=False)

    async def samefile(self, other_path: StrPath) -> bool:
        """Whether both are the same file."""
        return await call(self._path.samefile, os.fspath(other_path))

    async def owner(self, *, follow_symlinks: bool = True) -> str:
        """The name of the user whose file it is. KeyError if it has none."""
        return await self._whose(pathlib.Path.owner, follow_symlinks)

    async def group(self, *, follow_symlinks: bool = True) -> str:
        """The name of the group whose file it is. KeyError if it has none."""
        return await self._whose(pathlib.Path.group, follow_symlinks)

    async def _whose(self, question: Callable[..., str], follow_symlinks: bool) -> str:
        if follow_symlinks:
            return await call(question, self._path)
        return await call(question, self._path, follow_symlinks=False)  # Python 3.13

    # --- what is below it -----------------------------------------------------------------------------

    async def _paths(self, make: Callable[[], Iterator[pathlib.Path]]) -> AsyncIterator[Self]:
        iterator = await call(lambda: iter(make()))
        async for path in in_batches(iterator):
            yield type(self)(path)

    def iterdir(self) -> AsyncIterator[Self]:
        """`async for path in ...`: what is in the directory, in no order."""
        return self._paths(self._path.iterdir)

    def glob(self, pattern: StrPath, **options: Any) -> AsyncIterator[Self]:
        """`async for path in ...`: what matches the pattern. Options as pathlib's of the running Python."""
        return self._paths(lambda: self._path.glob(pattern, **options))  # type: ignore[arg-type, unused-ignore]

    def rglob(self, pattern: StrPath, **options: Any) -> AsyncIterator[Self]:
        """glob() in all directories below, too."""
        return self._paths(lambda: self._path.rglob(pattern, **options))  # type: ignore[arg-type, unused-ignore]

    if sys.version_info >= (3, 12):

        async def walk(
            self,
            top_down: bool = True,
            on_error: Callable[[OSError], object] | None = None,
            follow_symlinks: bool = False,
        ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
            """`async for directory, directory_names, file_names in ...`, as pathlib.Path.walk().

            What is taken out of directory_names, top down, is not visited. `on_error` is called in the executor.
            """
            steps = self._path.walk(top_down, on_error, follow_symlinks)
            while step := await call(next, steps, None):
                yield type(self)(step[0]), step[1], step[2]

    # --- changes --------------------------------------------------------------------------------------

    async def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        """Set the mode bits."""
        await call(os.chmod, self._path, mode, follow_symlinks=follow_symlinks)

    async def lchmod(self, mode: int) -> None:
        """chmod() of a link itself. NotImplementedError where links have no mode, as on Linux."""
        await call(self._path.lchmod, mode)

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a directory; with `parents` those above, too."""
        if parents or exist_ok:
            await call(self._path.mkdir, mode, parents, exist_ok)
        else:
            await os_functions.mkdir(self._path, mode)

    async def rmdir(self) -> None:
        """Remove an empty directory."""
        await os_functions.rmdir(self._path)

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make the file, or set its times to now."""
        await call(self._path.touch, mode, exist_ok)

    async def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file or link."""
        try:
            await os_functions.unlink(self._path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def rename(self, target: StrPath) -> Self:
        """Rename; returns the new path. An existing file is replaced."""
        await os_functions.rename(self._path, target)
        return type(self)(target)

    async def replace(self, target: StrPath) -> Self:
        """Rename; returns the new path. An existing file or empty directory is replaced."""
        await os_functions.replace(self._path, target)
        return type(self)(target)

    async def symlink_to(self, target: StrPath, target_is_directory: bool = False) -> None:
        """Make it a symbolic link to `target`."""
        await os_functions.symlink(target, self._path, target_is_directory)

    async def hardlink_to(self, target: StrPath) -> None:
        """Make it another name of the file `target`."""
        await os_functions.link(target, self._path)

    if sys.version_info >= (3, 14):

        async def copy(self, target: StrPath, **options: Any) -> Self:
            """Copy the file or directory tree; returns the copy."""
            return type(self)(await call(self._path.copy, pathlib.Path(target), **options))

        async def copy_into(self, target_dir: StrPath, **options: Any) -> Self:
            """copy() to the same name in another directory."""
            return type(self)(await call(self._path.copy_into, pathlib.Path(target_dir), **options))

        async def move(self, target: StrPath) -> Self:
            """Move the file or directory tree, also to other file systems."""
            return type(self)(await call(self._path.move, pathlib.Path(target)))

        async def move_into(self, target_dir: StrPath) -> Self:
            """move() to the same name in another directory."""
            return type(self)(await call(self._path.move_into, pathlib.Path(target_dir)))

    # --- content --------------------------------------------------------------------------------------

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> opening.Opening[Any]:
        """As files.open()."""
        return opening.open(self._path, mode, buffering, encoding, errors, newline)

    async def read_bytes(self) -> bytes:
        """All that is in the file."""
        return await whole.read_bytes(self._path)

    async def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """All that is in the file, decoded."""
        return await whole.read_text(self._path, encoding, errors, newline)

    async def write_bytes(self, data: ReadableBuffer) -> int:
        """Make the file, or what was in it, `data`."""
        return await whole.write_bytes(self._path, data)

    async def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Make the file, or what was in it, `data`, encoded."""
        return await whole.write_text(self._path, data, encoding, errors, newline)
