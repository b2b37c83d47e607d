"""What SECURITY.md promises and no other test holds."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aioqemu_loop
from aioqemu_loop import files, monitor

SQPOLL = 2  # IORING_SETUP_SQPOLL


def open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def is_open(fd: int) -> bool:
    """Not so for the fd by which open_fds() read the folder."""
    return os.path.islink(f"/proc/self/fd/{fd}")


def inheritable() -> dict[int, str]:
    """fd -> what it is, of those that a new program would get."""
    found = {}
    for fd in open_fds():
        if is_open(fd) and not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def inherited() -> set[str]:
    """What a program has open that is started without closing anything: "number -> target"."""
    code = (
        "import os\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    if os.path.islink(f'/proc/self/fd/{fd}'):\n"
        "        print(fd, '->', os.readlink(f'/proc/self/fd/{fd}'))\n"
    )
    child = subprocess.run(
        [sys.executable, "-S", "-c", code], close_fds=False, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    return {line for line in child.stdout.decode().splitlines() if int(line.split()[0]) > 2}


def rings() -> int:
    return sum("[io_uring]" in os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds() if is_open(fd))


async def use_everything(tmp_path: Path) -> tuple[dict[int, str], set[str]]:
    """Has everything open that opens file descriptors, and looks at them: inheritable(), inherited()."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    tcp = await asyncio.start_server(lambda reader, writer: accepted.put(writer), "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(lambda reader, writer: accepted.put(writer), tmp_path / "socket")
    writers = [
        (await asyncio.open_connection(*tcp.sockets[0].getsockname()))[1],
        (await asyncio.open_unix_connection(tmp_path / "socket"))[1],
        await accepted.get(),
        await accepted.get(),
    ]
    datagram, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    async with files.open(tmp_path / "file", "w") as file:
        await file.write("text")
        with aioqemu_loop.IOThread("other"), monitor.start(tmp_path / "monitor"):
            found = inheritable(), inherited()
    await child.communicate(b"")
    datagram.close()
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    for server in (tcp, unix):
        server.close()
        await server.wait_closed()
    loop.remove_signal_handler(signal.SIGUSR1)
    return found


def test_every_fd_is_close_on_exec(loop_factory: Callable[[], aioqemu_loop.Loop], tmp_path: Path) -> None:
    before = inheritable(), inherited()  # pytest's, and what the tests' own parent left to them
    loop = loop_factory()
    found = loop.run_until_complete(use_everything(tmp_path))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert found == before


def test_no_ring_has_a_kernel_thread(ring_loop: aioqemu_loop.Loop) -> None:
    assert not ring_loop.context.monitor.ring.setup_flags & SQPOLL  # type: ignore[attr-defined]


def test_nobody_gets_a_ring_who_asked_for_another_backend(loop_factory: Callable[[], aioqemu_loop.Loop]) -> None:
    before = rings()
    loop = loop_factory()
    assert rings() - before == (1 if loop.fdmon == "io_uring" else 0)
    loop.close()


def test_what_is_optional_is_imported_only_when_asked_for() -> None:
    code = (
        "import asyncio, sys, aioqemu_loop\n"
        "aioqemu_loop.run(asyncio.sleep(0))\n"
        "print([name for name in ('liburing', 'gi', 'pickle') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
