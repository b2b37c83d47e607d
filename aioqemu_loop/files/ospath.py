"""What os.path does with the file system, awaitable."""

from __future__ import annotations

import os.path

from aioqemu_loop.files.os_functions import awaitable

abspath = awaitable(os.path.abspath)
exists = awaitable(os.path.exists)
getatime = awaitable(os.path.getatime)
getctime = awaitable(os.path.getctime)
getmtime = awaitable(os.path.getmtime)
getsize = awaitable(os.path.getsize)
isdir = awaitable(os.path.isdir)
isfile = awaitable(os.path.isfile)
islink = awaitable(os.path.islink)
ismount = awaitable(os.path.ismount)
lexists = awaitable(os.path.lexists)
realpath = awaitable(os.path.realpath)
samefile = awaitable(os.path.samefile)
sameopenfile = awaitable(os.path.sameopenfile)
