"""Files for coroutines, with the methods of io's, aiofiles' and anyio's: `async with files.open(path) as file`.

They run on any event loop. What can be had without waiting is; the rest does not block the loop.
"""

from aioqemu_loop.files import ospath
from aioqemu_loop.files.copying import copyfile
from aioqemu_loop.files.memory import aligned_buffer
from aioqemu_loop.files.opening import open
from aioqemu_loop.files.os_functions import (
    access,
    fadvise,
    fallocate,
    getcwd,
    iterdir,
    link,
    listdir,
    lstat,
    makedirs,
    mkdir,
    open_fd,
    readlink,
    remove,
    removedirs,
    rename,
    renames,
    replace,
    rmdir,
    scandir,
    stat,
    statvfs,
    symlink,
    unlink,
)
from aioqemu_loop.files.path import Path
from aioqemu_loop.files.raw import AsyncFileIO
from aioqemu_loop.files.reader import AsyncBufferedReader
from aioqemu_loop.files.sending import sendfile
from aioqemu_loop.files.temporary import (
    NamedTemporaryFile,
    SpooledTemporaryFile,
    TemporaryDirectory,
    TemporaryFile,
    gettempdir,
    mkdtemp,
    mkstemp,
)
from aioqemu_loop.files.text import AsyncTextIOWrapper
from aioqemu_loop.files.whole import read_bytes, read_text, write_bytes, write_text
from aioqemu_loop.files.wrapping import stderr, stderr_bytes, stdin, stdin_bytes, stdout, stdout_bytes, wrap
from aioqemu_loop.files.writer import AsyncBufferedRandom, AsyncBufferedWriter

__all__ = [
    "AsyncBufferedRandom",
    "AsyncBufferedReader",
    "AsyncBufferedWriter",
    "AsyncFileIO",
    "AsyncTextIOWrapper",
    "NamedTemporaryFile",
    "Path",
    "SpooledTemporaryFile",
    "TemporaryDirectory",
    "TemporaryFile",
    "access",
    "aligned_buffer",
    "copyfile",
    "fadvise",
    "fallocate",
    "getcwd",
    "gettempdir",
    "iterdir",
    "link",
    "listdir",
    "lstat",
    "makedirs",
    "mkdir",
    "mkdtemp",
    "mkstemp",
    "open",
    "open_fd",
    "ospath",
    "read_bytes",
    "read_text",
    "readlink",
    "remove",
    "removedirs",
    "rename",
    "renames",
    "replace",
    "rmdir",
    "scandir",
    "sendfile",
    "stat",
    "statvfs",
    "stderr",
    "stderr_bytes",
    "stdin",
    "stdin_bytes",
    "stdout",
    "stdout_bytes",
    "symlink",
    "unlink",
    "wrap",
    "write_bytes",
    "write_text",
]
