"""loop.uring: operations of the ring that asyncio has no name for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import signal
import struct
import subprocess
import sys

import pytest

import aioqemu_loop
from aioqemu_loop.uring.ring import supported_operations

RESOLVE_BENEATH = 8
SPLICE, WAITID, FUTEX_WAIT = 30, 50, 51


@pytest.fixture
def loop(ring_loop):
    return ring_loop


@pytest.fixture
def pipes(no_leaks):
    pipes = [os.pipe(), os.pipe()]
    yield pipes
    for pipe in pipes:
        for end in pipe:
            with contextlib.suppress(OSError):
                os.close(end)


def run(loop, coroutine):
    return loop.run_until_complete(asyncio.wait_for(coroutine, 30))


def needs(operation):
    if operation not in supported_operations():
        pytest.skip(f"this kernel has no io_uring operation {operation}")


@pytest.mark.parametrize("fdmon", ["epoll", "poll"])
def test_other_monitors_have_no_ring(fdmon) -> None:
    loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
    with pytest.raises(RuntimeError, match=f"this loop uses '{fdmon}'"):
        run(loop, loop.uring.splice(0, 1, 10))
    loop.close()


def test_operations_that_the_kernel_does_not_know(loop, monkeypatch) -> None:
    from aioqemu_loop.loop import uring_methods

    monkeypatch.setattr(uring_methods, "known_operations", lambda: frozenset())
    for coroutine in (
        loop.uring.splice(0, 1, 1),
        loop.uring.tee(0, 1, 1),
        loop.uring.waitid(os.P_PID, 1, os.WEXITED),
        loop.uring.futex_wait(bytearray(4), 0),
        loop.uring.futex_wake(bytearray(4)),
        loop.uring.openat2("/", os.O_RDONLY),
    ):
        with pytest.raises(OSError) as caught:
            run(loop, coroutine)
        assert caught.value.errno == errno.EOPNOTSUPP and "came with Linux" in str(caught.value)


def test_splice_between_files_and_pipes(loop, pipes, tmp_path) -> None:
    reading, writing = pipes[0]
    (tmp_path / "source").write_bytes(b"0123456789")
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)

    async def main():
        assert await loop.uring.splice(source, writing, 4, offset_src=3) == 4
        assert await loop.uring.splice(source, writing, 100) == 10
        assert await loop.uring.splice(source, writing, 100) == 0
        assert await loop.uring.splice(reading, target, 100, offset_dst=2) == 14

    run(loop, main())
    os.close(source)
    os.close(target)
    assert (tmp_path / "target").read_bytes() == bytes(2) + b"3456" + b"0123456789"


def test_splice_waits_and_can_be_cancelled(loop, pipes) -> None:
    async def main():
        waiting = asyncio.ensure_future(loop.uring.splice(pipes[0][0], pipes[1][1], 10))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        assert caught.value.done == 0 if sys.version_info >= (3, 11) else True
        waiting = asyncio.ensure_future(loop.uring.splice(pipes[0][0], pipes[1][1], 10))
        await asyncio.sleep(0.01)
        os.write(pipes[0][1], b"late")
        assert await waiting == 4
        assert os.read(pipes[1][0], 10) == b"late"

    run(loop, main())


def test_tee_leaves_the_bytes(loop, pipes) -> None:
    os.write(pipes[0][1], b"twice")
    assert run(loop, loop.uring.tee(pipes[0][0], pipes[1][1], 100)) == 5
    assert os.read(pipes[0][0], 10) == os.read(pipes[1][0], 10) == b"twice"


@pytest.mark.parametrize(
    ("offsets", "error"), [({"offset_src": -1}, ValueError), ({"offset_dst": "x"}, TypeError), ({}, OSError)]
)
def test_nonsense_for_splice(loop, offsets, error) -> None:
    with pytest.raises(error):
        run(loop, loop.uring.splice(1_000_000, 1_000_001, 10, **offsets))


def test_waitid(loop) -> None:
    needs(WAITID)
    child = subprocess.Popen([sys.executable, "-c", "import os, sys; sys.stdin.read(); os._exit(7)"], stdin=-1)

    async def main():
        assert await loop.uring.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG) is None
        waiting = asyncio.ensure_future(loop.uring.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        child.stdin.close()
        told = await waiting
        assert (told.si_pid, told.si_status) == (child.pid, 7)
        assert (told.si_code, told.si_signo) == (os.CLD_EXITED, signal.SIGCHLD)
        with pytest.raises(ChildProcessError):
            await loop.uring.waitid(os.P_PID, 1, os.WEXITED)

    run(loop, main())
    assert child.wait() == 7


OTHER = """
import ctypes, mmap, os, sys
memory = mmap.mmap(int(sys.argv[1]), 4096)
memory[8:12] = (1).to_bytes(4, sys.byteorder)
word = ctypes.c_uint32.from_buffer(memory, 8)
# futex(2), FUTEX_WAKE: nobody else but the loop's ring can be meant
while not ctypes.CDLL(None).syscall(202, ctypes.byref(word), 1, 10, None, None, 0):
    os.sched_yield()
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the other process knows the number of futex on x86-64")
def test_a_futex_in_memory_that_processes_share(loop, tmp_path) -> None:
    needs(FUTEX_WAIT)
    with open(tmp_path / "shared", "w+b") as file:
        file.truncate(4096)
        memory = mmap.mmap(file.fileno(), 4096)

        async def main():
            os.set_inheritable(file.fileno(), True)
            waiting = asyncio.ensure_future(loop.uring.futex_wait(memory, 0, 8))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            arguments = [sys.executable, "-c", OTHER, str(file.fileno())]
            child = subprocess.Popen(arguments, pass_fds=[file.fileno()])
            await waiting
            assert struct.unpack_from("=I", memory, 8) == (1,)
            with pytest.raises(BlockingIOError):  # it is not 0 any more
                await loop.uring.futex_wait(memory, 0, 8)
            assert await asyncio.to_thread(child.wait) == 0

        run(loop, main())
        loop.run_until_complete(loop.shutdown_default_executor())
        memory.close()


def test_futex_wake_counts(loop) -> None:
    needs(FUTEX_WAIT)
    word = mmap.mmap(-1, 4096)

    async def main():
        sleepers = [asyncio.ensure_future(loop.uring.futex_wait(word, 0)) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert await loop.uring.futex_wake(word, 2) == 2
        await asyncio.wait(sleepers, return_when=asyncio.FIRST_COMPLETED)
        assert await loop.uring.futex_wake(word, 100) == 3
        await asyncio.gather(*sleepers)
        sleeper = asyncio.ensure_future(loop.uring.futex_wait(word, 0))
        await asyncio.sleep(0.01)
        sleeper.cancel()
        await asyncio.wait([sleeper])
        assert sleeper.cancelled() and await loop.uring.futex_wake(word, 100) == 0

    run(loop, main())
    word.close()


@pytest.mark.parametrize(("size", "offset"), [(3, 0), (8, 5), (8, 2), (8, -4), (0, 0)])
def test_a_futex_is_an_aligned_word(loop, size, offset) -> None:
    needs(FUTEX_WAIT)
    with pytest.raises(ValueError):
        run(loop, loop.uring.futex_wait(bytearray(size), 0, offset))


def test_openat2_keeps_inside(loop, tmp_path) -> None:
    (tmp_path / "inside").write_text("x")
    os.symlink("/etc/passwd", tmp_path / "outside")
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    async def main():
        options = {"dir_fd": directory, "resolve": RESOLVE_BENEATH}
        fd = await loop.uring.openat2("inside", os.O_RDONLY, **options)
        assert os.read(fd, 5) == b"x" and not os.get_inheritable(fd)
        os.close(fd)
        for path in ("outside", "../x", "/etc/passwd"):
            with pytest.raises(OSError) as caught:
                await loop.uring.openat2(path, os.O_RDONLY, **options)
            assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, path)
        with pytest.raises(FileNotFoundError):
            await loop.uring.openat2("missing", os.O_RDONLY, **options)
        with pytest.raises(ValueError):
            await loop.uring.openat2("a\0b", os.O_RDONLY)

    run(loop, main())
    os.close(directory)
