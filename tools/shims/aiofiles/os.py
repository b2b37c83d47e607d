"""aiofiles.os"""

# ruff: noqa: F401
from aioqemu_loop.files import (
    access,
    getcwd,
    link,
    listdir,
    makedirs,
    mkdir,
    readlink,
    remove,
    removedirs,
    rename,
    renames,
    replace,
    rmdir,
    scandir,
    sendfile,
    stat,
    statvfs,
    symlink,
    unlink,
)
from aioqemu_loop.files import ospath as path
from aioqemu_loop.files.os_functions import awaitable as wrap
