"""aioqemu_loop.files under aiofiles' names, so that aiofiles' own tests can be run on it (tools/compat.py).

Beside the names it has what these tests look at inside aiofiles: `_file`, `_obj`, `sync_open`, and that detach() gives
io's file, which blocks.
"""

from aiofiles import tempfile
from aiofiles.threadpool import open
from aioqemu_loop.files import stderr, stderr_bytes, stdin, stdin_bytes, stdout, stdout_bytes

__all__ = ["open", "stderr", "stderr_bytes", "stdin", "stdin_bytes", "stdout", "stdout_bytes", "tempfile"]
