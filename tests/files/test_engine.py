"""Single operations on files: every way that they can go, and what happens when they are disturbed."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aioqemu_loop.files.engine import engine_of

PIECE = 256 * 1024


@pytest.fixture
def engine(any_loop):
    return engine_of(any_loop)


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    """A folder on a file system that has a device, and one on tmpfs."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def fd(folder):
    fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT, 0o644)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def uncached(fd: int) -> None:
    """Have the next reads wait for the device, where there is one."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


# -- bytes --


def test_reading_and_writing_at_an_offset_leave_the_position(run, engine, fd) -> None:
    async def main():
        assert await engine.write(fd, b"0123456789", 5) == 10
        assert await engine.read(fd, 4, 6) == b"1234"
        assert await engine.read(fd, 100, 0) == bytes(5) + b"0123456789"
        assert await engine.read(fd, 100, 15) == b""
        buffer = bytearray(8)
        assert await engine.readinto(fd, buffer, 10) == 5
        assert buffer == b"56789" + bytes(3)

    run(main())
    assert os.lseek(fd, 0, os.SEEK_CUR) == 0


def test_reading_and_writing_at_the_position_move_it(run, engine, fd) -> None:
    async def main():
        assert await engine.write(fd, b"0123456789") == 10
        os.lseek(fd, 2, os.SEEK_SET)
        assert await engine.read(fd, 3) == b"234"
        assert await engine.read(fd, 100) == b"56789"
        assert await engine.read(fd, 100) == b""

    run(main())


def test_writing_to_a_file_that_appends(run, engine, folder) -> None:
    fd = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        run(asyncio.wait_for(engine.write(fd, b"one"), 10))
        os.lseek(fd, 0, os.SEEK_SET)
        run(asyncio.wait_for(engine.write(fd, b"two"), 10))
    finally:
        os.close(fd)
    assert (folder / "log").read_bytes() == b"onetwo"


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 17])
@pytest.mark.parametrize("cached", [True, False])
def test_large_transfers_go_in_pieces_and_come_whole(run, engine, fd, size, cached) -> None:
    data = os.urandom(size)

    async def main():
        assert await engine.write(fd, data) == size
        if not cached:
            uncached(fd)
        got = bytearray()
        while chunk := await engine.read(fd, size + 100, len(got)):
            got += chunk
        assert got == data
        buffer = bytearray(size)
        count = await engine.readinto(fd, buffer, 0)
        assert buffer[:count] == data[:count] and count > 0

    run(main())


def test_vectors(run, engine, fd) -> None:
    async def main():
        assert await engine.writev(fd, [b"abc", bytearray(b"de"), memoryview(b"f")], 3) == 6
        first, second = bytearray(2), bytearray(10)
        assert await engine.readv(fd, [first, second], 3) == 6
        assert first == b"ab" and second[:4] == b"cdef"
        assert await engine.writev(fd, [], 0) == 0

    run(main())


def test_what_is_not_cached_comes_all_the_same(run, engine, fd) -> None:
    os.write(fd, os.urandom(1 << 20))
    uncached(fd)

    async def main():
        reads = await asyncio.gather(*(engine.read(fd, 4096, i * 4096) for i in range(200)))
        for i, got in enumerate(reads):
            assert got == os.pread(fd, 4096, i * 4096)

    run(main())


def test_direct_transfers_need_not_be_aligned_in_memory(run, engine, tmp_path) -> None:
    try:
        fd = os.open(tmp_path / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    except OSError as exc:
        pytest.skip(f"no O_DIRECT here: {exc}")
    data = os.urandom(3 * PIECE)
    try:

        async def main():
            engine.adopt(fd)
            assert await engine.write(fd, data, 0) == len(data)
            assert await engine.read(fd, len(data), 0) == data
            buffer = bytearray(8192 + 1)
            with memoryview(buffer) as view, view[1:] as odd:
                assert await engine.readinto(fd, odd, 4096) == 8192
            assert buffer[1:] == data[4096 : 4096 + 8192]
            with pytest.raises(OSError) as caught:
                await engine.read(fd, 4096, 1)
            assert caught.value.errno == errno.EINVAL
            await engine.close(fd)

        run(main())
    except BaseException:
        os.close(fd)
        raise


class Holding(ThreadPoolExecutor):
    """Its threads let go late of what they have done."""

    def __init__(self) -> None:
        super().__init__(1)
        self.held = []

    def submit(self, function, *args):
        self.held.append(function)
        return super().submit(function, *args)


def test_a_buffer_is_free_when_it_has_been_filled(any_loop, run, engine, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)  # which always has to wait
    except OSError as exc:
        pytest.skip(f"no O_DIRECT here: {exc}")
    any_loop.set_default_executor(Holding())

    async def main():
        engine.adopt(fd)
        buffer = bytearray(8192)
        with memoryview(buffer) as view:
            assert await engine.readinto(fd, view, 0) == 8192
        assert buffer == b"x" * 8192
        await engine.close(fd)

    run(main())


# -- what is no file --


def test_pipes(run, engine, pipe) -> None:
    reading, writing = pipe

    async def main():
        task = asyncio.ensure_future(engine.read(reading, 100))
        await asyncio.sleep(0)
        await engine.write(writing, b"ping")
        assert await task == b"ping"
        with pytest.raises(OSError) as caught:
            await engine.read(reading, 10, 0)
        assert caught.value.errno == errno.ESPIPE

    run(main())


def test_a_pipe_that_does_not_block_says_so(run, engine, pipe) -> None:
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        run(engine.read(pipe[0], 10))


# -- errors --


@pytest.mark.parametrize("name", ["read", "readinto", "write", "fsync", "fdatasync", "readv", "writev", "close"])
def test_an_fd_that_is_not_open(run, engine, name) -> None:
    fd = 1_000_000
    arguments = {
        "read": [10],
        "readinto": [bytearray(10)],
        "write": [b"x"],
        "readv": [[bytearray(3)], 0],
        "writev": [[b"abc"], 0],
    }.get(name, [])
    with pytest.raises(OSError) as caught:
        run(getattr(engine, name)(fd, *arguments))
    assert caught.value.errno == errno.EBADF


def test_errors_of_the_device(run, engine) -> None:
    with open("/proc/self/mem", "rb", buffering=0) as memory, pytest.raises(OSError) as caught:
        run(engine.read(memory.fileno(), 10, 0))
    assert caught.value.errno == errno.EIO
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError) as caught:
        run(engine.write(full.fileno(), b"x"))
    assert caught.value.errno == errno.ENOSPC


def test_a_write_that_the_kernel_stops_is_short_then_fails(run, engine, fd) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (PIECE + 1000, before[1]))
        assert run(engine.write(fd, bytes(3 * PIECE), 0)) == PIECE + 1000
        with pytest.raises(OSError) as caught:
            run(engine.write(fd, b"x", PIECE + 1000))
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.fstat(fd).st_size == PIECE + 1000


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("read", (0, -1), OSError),
        ("read", (0, "x"), TypeError),
        ("write", (1, "text"), TypeError),
        ("write", (1, None), TypeError),
        ("readinto", (0, b"constant"), BufferError),
        ("readv", (0, [bytearray(1), b"constant"], 0), BufferError),
        ("readv", (0, [bytearray(1)], -1), OSError),
        ("open", ("a\0b", os.O_RDONLY), ValueError),
        ("open", (3.5, os.O_RDONLY), TypeError),
        ("stat", ("a\0b",), ValueError),
        ("stat", (None,), TypeError),
    ],
)
def test_nonsense(run, engine, name, arguments, error) -> None:
    async def main():
        with pytest.raises(error):
            await getattr(engine, name)(*arguments)

    run(main())


# -- names --


def test_open_and_stat(run, engine, folder) -> None:
    path = folder / "there"

    async def main():
        fd = await engine.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        await engine.write(fd, b"abc")
        assert not os.get_inheritable(fd)
        await engine.close(fd)
        for _ in range(2):  # the second time it is cached for certain
            fd = await engine.open(path, os.O_RDONLY)
            assert not os.get_inheritable(fd) and os.get_blocking(fd)
            assert await engine.read(fd, 10) == b"abc"
            await engine.close(fd)
        assert (await engine.stat(path)).st_size == 3
        assert await engine.stat(os.fsencode(path)) == os.stat(path)
        os.symlink(path, folder / "link")
        assert (await engine.stat(folder / "link")).st_size == 3
        assert await engine.stat(folder / "link", follow_symlinks=False) == os.lstat(folder / "link")
        directory = await engine.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fd = await engine.open("there", os.O_RDONLY, dir_fd=directory)
        assert await engine.stat(fd) == await engine.stat("there", dir_fd=directory) == os.stat(path)
        await engine.close(fd)
        await engine.close(directory)

    run(main())


@pytest.mark.parametrize("name", ["open", "stat"])
def test_names_that_lead_nowhere(run, engine, folder, name) -> None:
    def call(path):
        return engine.open(path, os.O_RDONLY) if name == "open" else engine.stat(path)

    (folder / "file").touch()
    os.symlink("loop", folder / "loop")

    async def main():
        for path, error in (
            (folder / "nothing", FileNotFoundError),
            (folder / "nothing", FileNotFoundError),
            (str(folder / "nothing"), FileNotFoundError),
            (os.fsencode(folder / "nothing"), FileNotFoundError),
            ("", FileNotFoundError),
            (folder / "file" / "x", NotADirectoryError),
            (folder / "loop", OSError),
            (str(folder / ("n" * 300)), OSError),
        ):
            with pytest.raises(error) as caught:
                await call(path)
            assert caught.value.filename == os.fspath(path)
            assert caught.value.errno and caught.value.strerror == os.strerror(caught.value.errno)

    run(main())


def test_a_fifo_waits_for_its_other_end(run, engine, tmp_path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main():
        task = asyncio.ensure_future(engine.open(path, os.O_RDONLY))
        done, _ = await asyncio.wait([task], timeout=0.05)
        assert not done
        writing = await engine.open(path, os.O_WRONLY)
        reading = await task
        await engine.write(writing, b"x")
        assert await engine.read(reading, 5) == b"x"
        await engine.close(reading)
        await engine.close(writing)

    run(main())


def test_call(run, engine) -> None:
    async def main():
        assert await engine.call(max, 3, 4, key=lambda x: -x) == 3
        assert await engine.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await engine.call(lambda: 1 / 0)

    run(main())


# -- sharing the loop --


def test_reads_that_do_not_suspend_leave_room_for_others(run, any_loop, engine, fd) -> None:
    os.write(fd, bytes(4096))
    others = 0

    def other() -> None:
        nonlocal others
        others += 1
        if others < 20:
            any_loop.call_soon(other)

    async def main():
        any_loop.call_soon(other)
        while others < 20:  # never ends if the reads keep the loop to themselves
            await engine.read(fd, 4096, 0)

    run(main())


def test_readers_that_do_not_suspend_take_turns(run, engine, fd) -> None:
    """None starves, however many there are, and one that is cancelled while it waits does not hold up the others."""
    os.write(fd, bytes(4096))
    done = [0] * 10

    async def read(number):
        while True:
            await engine.read(fd, 4096, 0)
            done[number] += 1

    async def main():
        engine.adopt(fd)
        readers = [asyncio.ensure_future(read(number)) for number in range(10)]
        while min(done) < 50:
            await asyncio.sleep(0)
        for reader in readers[:9]:  # some wait for their turn, one may have been given it
            reader.cancel()
        goal = done[9] + 500
        while done[9] < goal:
            await asyncio.sleep(0)
        readers[9].cancel()
        await asyncio.wait(readers)

    run(main())


def test_opening_and_looking_up_do_not_keep_the_loop(run, any_loop, engine, folder) -> None:
    path = folder / "file"
    path.touch()
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        if turns < 20:
            any_loop.call_soon(count)

    async def main():
        any_loop.call_soon(count)
        while turns < 20:  # never ends if they keep the loop to themselves
            await engine.close(await engine.open(path, os.O_RDONLY))
            await engine.stat(path)

    run(main())


def test_a_read_of_a_pipe_that_is_cancelled_takes_nothing(run, engine, pipe) -> None:
    async def main():
        for _ in range(20):
            task = asyncio.ensure_future(engine.read(pipe[0], 10))
            await asyncio.sleep(0.001)
            os.write(pipe[1], b"kept")
            task.cancel()
            await asyncio.wait([task])
            assert (b"kept" if task.cancelled() else task.result()) == b"kept"
            if task.cancelled():
                assert os.read(pipe[0], 10) == b"kept"

    run(main())


def test_a_write_to_a_full_pipe_that_is_cancelled_says_how_much(run, engine, pipe) -> None:
    data = bytes(range(256)) * 1024

    async def main():
        sent = 0
        got = bytearray()
        while sent < len(data):
            task = asyncio.ensure_future(engine.write(pipe[1], memoryview(data)[sent:]))
            await asyncio.sleep(0.0005)
            task.cancel()
            try:
                sent += await task
            except asyncio.CancelledError as exc:
                # The exception that a task raises is a new one up to Python 3.10.
                sent += getattr(exc, "done", 0) or getattr(exc.__context__, "done", 0)
            got += os.read(pipe[0], 50_000)
        assert got + os.read(pipe[0], 1 << 20) == data if len(got) < sent else got == data

    run(main())
