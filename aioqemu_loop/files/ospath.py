"""What os.path does with the file system, awaitable."""

from __future__ import annotations

import os.path
import stat as modes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aioqemu_loop.files.os_functions import awaitable, call, stat

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

    AnyPath = StrOrBytesPath | int

abspath = awaitable(os.path.abspath)
ismount = awaitable(os.path.ismount)
realpath = awaitable(os.path.realpath)
samefile = awaitable(os.path.samefile)
sameopenfile = awaitable(os.path.sameopenfile)


async def ask(
    path: Any, question: Callable[[os.stat_result], bool], original: Callable[..., bool], follow_symlinks: bool = True
) -> bool:
    """question(what stat says); False where there is nothing; what original(path) says where stat fails otherwise."""
    try:
        details = await stat(path, follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError):
        return await call(original, path)
    return question(details)


def is_directory(details: os.stat_result) -> bool:
    return modes.S_ISDIR(details.st_mode)


def is_regular(details: os.stat_result) -> bool:
    return modes.S_ISREG(details.st_mode)


def is_link(details: os.stat_result) -> bool:
    return modes.S_ISLNK(details.st_mode)


def is_there(details: os.stat_result) -> bool:
    return True


async def exists(path: AnyPath) -> bool:
    """As os.path.exists()."""
    return await ask(path, is_there, os.path.exists)


async def lexists(path: StrOrBytesPath) -> bool:
    """As os.path.lexists()."""
    return await ask(path, is_there, os.path.lexists, follow_symlinks=False)


async def isdir(path: AnyPath) -> bool:
    """As os.path.isdir()."""
    return await ask(path, is_directory, os.path.isdir)


async def isfile(path: AnyPath) -> bool:
    """As os.path.isfile()."""
    return await ask(path, is_regular, os.path.isfile)


async def islink(path: StrOrBytesPath) -> bool:
    """As os.path.islink()."""
    return await ask(path, is_link, os.path.islink, follow_symlinks=False)


async def getsize(path: AnyPath) -> int:
    """As os.path.getsize()."""
    return (await stat(path)).st_size


async def getmtime(path: AnyPath) -> float:
    """As os.path.getmtime()."""
    return (await stat(path)).st_mtime


async def getatime(path: AnyPath) -> float:
    """As os.path.getatime()."""
    return (await stat(path)).st_atime


async def getctime(path: AnyPath) -> float:
    """As os.path.getctime()."""
    return (await stat(path)).st_ctime
