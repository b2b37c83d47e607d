"""copyfile(): inside the kernel where it can, in pieces, so that it can be cancelled."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from aioqemu_loop.files.engine import Engine, engine_of

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

# Bytes: some milliseconds each. Clones of extents (btrfs, XFS) take no time at any size.
PIECE = 8 << 20
COPY_PIECE = 1 << 20
# What the kernel says of files between which it cannot copy: other file systems, /proc, too old.
CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY}


async def copyfile(src: StrOrBytesPath, dst: StrOrBytesPath, *, follow_symlinks: bool = True) -> StrOrBytesPath:
    """Copy the content of the file `src` to the file `dst`, which is made or overwritten; returns `dst`.

    Errors are shutil.copyfile()'s: OSError, shutil.SameFileError, shutil.SpecialFileError. Where it fails or is
    cancelled on the way, part of the content is in `dst`. Without `follow_symlinks` a link is copied as a link.
    """
    engine = engine_of(asyncio.get_running_loop())
    if await engine.call(_refuse_or_link, src, dst, follow_symlinks):
        return dst
    source = await engine.open(src, os.O_RDONLY)
    try:
        if stat.S_ISDIR((await engine.stat(source)).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(src))
        target = await engine.open(dst, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            await _copy(engine, source, target)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, os.fspath(src), None, os.fspath(dst)) from None
        finally:
            await engine.close(target)
    finally:
        await engine.close(source)
    return dst


def _refuse_or_link(src: StrOrBytesPath, dst: StrOrBytesPath, follow_symlinks: bool) -> bool:
    """Whether `src` is a link that was copied as such."""
    try:
        same = os.path.samefile(src, dst)
    except OSError:
        same = False
    if same:
        raise shutil.SameFileError(f"{src!r} and {dst!r} are the same file")
    for path in (src, dst):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISFIFO(mode):
            raise shutil.SpecialFileError(f"`{os.fspath(path)!s}` is a named pipe")
    if not follow_symlinks and os.path.islink(src):
        os.symlink(os.readlink(os.fsdecode(src)), dst)
        return True
    return False


async def _copy(engine: Engine, source: int, target: int) -> None:
    """The rest of one file to the other; the positions count what was done when another way is tried."""
    ways: tuple[Callable[[int, int], int], ...] = (
        lambda source, target: os.copy_file_range(source, target, PIECE),
        lambda source, target: os.sendfile(target, source, None, PIECE),
    )
    for way in ways:
        try:
            # Some kernels copy nothing from files that tell no size: at the first 0 see whether there is something.
            while await engine.call(way, source, target):
                pass
        except OSError as exc:
            if exc.errno not in CANNOT:
                raise
    while data := memoryview(await engine.read(source, COPY_PIECE)):
        while data:
            data = data[await engine.write(target, data) :]
