"""aiofiles.threadpool"""

import builtins
import io
import os

from aioqemu_loop import files
from aioqemu_loop.files.base import AsyncFile
from aioqemu_loop.files.buffered import AsyncBuffered
from aioqemu_loop.files.opening import Opening
from aioqemu_loop.files.wrapping import WrappedFile

sync_open = builtins.open
wrap = files.wrap


def open(file, mode="r", *args, opener=None, **kwargs):
    def slow_opener(path, flags):
        sync_open(path, "rb").close()
        return os.open(path, flags, 0o666)

    if sync_open is not builtins.open:  # a test's, which is to be called, in a thread
        opener = slow_opener
    return files.open(file, mode, *args, opener=opener, **kwargs)


def detach(file, original=AsyncBuffered.detach):
    raw = original(file)
    fd = os.dup(raw.fileno())
    raw.close_now()
    return io.FileIO(fd)


AsyncBuffered.detach = detach
AsyncFile._file = property(lambda file: file)
Opening._obj = property(lambda opening: opening._file)
WrappedFile._file = property(lambda file: file.wrapped)
