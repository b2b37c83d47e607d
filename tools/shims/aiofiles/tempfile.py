"""aiofiles.tempfile"""

# ruff: noqa: F401
from aioqemu_loop.files import NamedTemporaryFile, SpooledTemporaryFile, TemporaryDirectory, TemporaryFile
