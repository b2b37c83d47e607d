"""Files for coroutines, with the methods of io's, aiofiles' and anyio's: `async with files.open(path) as file`."""

from aioqemu_loop.files.opening import open
from aioqemu_loop.files.raw import AsyncFileIO
from aioqemu_loop.files.reader import AsyncBufferedReader
from aioqemu_loop.files.text import AsyncTextIOWrapper
from aioqemu_loop.files.writer import AsyncBufferedRandom, AsyncBufferedWriter

__all__ = [
    "AsyncBufferedRandom",
    "AsyncBufferedReader",
    "AsyncBufferedWriter",
    "AsyncFileIO",
    "AsyncTextIOWrapper",
    "open",
]
