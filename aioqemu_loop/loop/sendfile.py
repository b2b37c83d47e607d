"""sendfile: from a file to a socket inside the kernel, for loop.sock_sendfile() and loop.sendfile().

Where the file or the kernel cannot do it, SendfileNotAvailableError tells asyncio to copy instead.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from asyncio import exceptions
from collections.abc import Awaitable, Callable
from typing import IO, Any

# os.sendfile() takes no count that does not fit ssize_t.
CHUNK_MAX = min(sys.maxsize, 1 << 62)
# Up to 3.13 asyncio leaves the file's position alone where nothing was sent.
MOVES_ALWAYS = sys.version_info >= (3, 14)


def file_to_send(file: IO[bytes]) -> tuple[int, int]:
    """(fd, size in bytes). Raises SendfileNotAvailableError for what is no regular file."""
    try:
        fd = file.fileno()
        size = os.fstat(fd).st_size
    except (AttributeError, io.UnsupportedOperation, OSError):
        raise exceptions.SendfileNotAvailableError("not a regular file") from None
    return fd, size


async def send_file(
    fileno: Callable[[], int],
    file: IO[bytes],
    offset: int,
    count: int | None,
    wait_writable: Callable[[], Awaitable[Any]],
) -> int:
    """Send `count` bytes (None or 0: all) of the file from `offset` to a socket; returns how many were sent. `fileno`
    is asked anew each time: the socket may be closed, and its number in use for another one.

    The file's position is behind what was sent afterwards, also when this fails or is cancelled. After each call that
    sent something others get their turn.
    """
    fd, size = file_to_send(file)
    if not count and not size:
        return 0
    sent = 0
    try:
        while not count or sent < count:
            try:
                got = os.sendfile(fileno(), fd, offset + sent, min(CHUNK_MAX, count - sent if count else size))
            except (BlockingIOError, InterruptedError):
                got = -1
            except OSError as exc:
                if sent and exc.errno == errno.ENOTCONN:  # ended in the middle of it; ENOTCONN is no ConnectionError
                    raise ConnectionError(errno.ENOTCONN, "socket is not connected") from exc
                if sent:
                    raise
                # Mostly a file that cannot be mapped: copying shows whether it is the connection.
                raise exceptions.SendfileNotAvailableError("os.sendfile call failed") from exc
            if got == 0:
                break
            sent += max(0, got)
            if not count or sent < count:
                await wait_writable()
    finally:
        if sent or MOVES_ALWAYS:
            with contextlib.suppress(OSError):
                os.lseek(fd, offset + sent, os.SEEK_SET)
    return sent
