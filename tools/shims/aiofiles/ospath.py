"""aiofiles.ospath"""

# ruff: noqa: F401
from aioqemu_loop.files.ospath import (
    abspath,
    exists,
    getatime,
    getctime,
    getmtime,
    getsize,
    isdir,
    isfile,
    islink,
    ismount,
    samefile,
    sameopenfile,
)
