"""Operations on the loop's ring that are disturbed: cancelled, left in flight, moved to another monitor or thread."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

import aioqemu_loop
from aioqemu_loop.files.engine import engine_of
from aioqemu_loop.uring.ring import supported_operations

from ..fdmon.tracing import names, strace

PIECE = 256 * 1024


@pytest.fixture
def loop(ring_loop):
    return ring_loop


@pytest.fixture
def pipes(no_leaks):
    """Two pipes: splicing from the first to the second is an operation that waits until something is written."""
    pipes = [os.pipe(), os.pipe()]
    yield pipes
    for pipe in pipes:
        for end in pipe:
            os.close(end)


@pytest.fixture
def fifo(tmp_path):
    """A FIFO: opening it waits for its other end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def fd(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    yield fd
    os.close(fd)


def needs_futex() -> None:
    if 51 not in supported_operations():
        pytest.skip("this kernel's io_uring has no futexes")


def run(loop, coroutine):
    return loop.run_until_complete(asyncio.wait_for(coroutine, 30))


def begun(loop, coroutine):
    """A task of `coroutine` whose operation the kernel has."""
    task = loop.create_task(coroutine)
    run(loop, asyncio.sleep(0.01))
    assert not task.done()
    return task


def splice(loop, pipes):
    return loop.uring.splice(pipes[0][0], pipes[1][1], 100)


def test_a_cancelled_operation_takes_nothing(loop, pipes) -> None:
    async def main():
        for _ in range(50):
            task = asyncio.ensure_future(splice(loop, pipes))
            await asyncio.sleep(0.0001)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            if sys.version_info >= (3, 11):
                assert caught.value.args == ("enough",)
        os.write(pipes[0][1], b"kept")
        assert await splice(loop, pipes) == 4

    run(loop, main())


def test_cancelled_before_the_kernel_heard_of_it(loop, pipes) -> None:
    async def main():
        task = asyncio.ensure_future(splice(loop, pipes))
        await asyncio.sleep(0)  # it has asked for the operation, and the loop has not looked since
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(loop, main())


def test_cancelled_when_the_result_has_come(loop, pipes) -> None:
    async def main():
        task = asyncio.ensure_future(splice(loop, pipes))
        await asyncio.sleep(0.01)
        os.write(pipes[0][1], b"x")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(loop, main())


def test_many_cancelled_at_once(loop, pipes) -> None:
    """More than the rings have room for."""
    word = bytearray(4)

    async def main():
        tasks = [asyncio.ensure_future(loop.uring.futex_wait(word, 0)) for _ in range(1000)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    needs_futex()
    run(loop, main())


def test_an_operation_in_flight_survives_the_end_of_the_run(loop, pipes, fifo) -> None:
    """What it waits for may come while nobody runs the loop."""
    splicing = begun(loop, splice(loop, pipes))
    opening = begun(loop, engine_of(loop).open(fifo, os.O_RDONLY))
    os.write(pipes[0][1], b"between")
    writer = os.open(fifo, os.O_RDWR)
    assert run(loop, splicing) == 7
    os.close(run(loop, opening))
    os.close(writer)


def test_the_next_run_may_be_in_another_thread(loop, pipes) -> None:
    task = begun(loop, splice(loop, pipes))
    os.write(pipes[0][1], b"there")
    results = []
    thread = threading.Thread(target=lambda: results.append(run(loop, task)))
    thread.start()
    thread.join(30)
    assert results == [5]


@pytest.mark.parametrize("other", ["epoll", "poll", "g_source", "io_uring"])
def test_another_monitor_takes_it_over(loop, fifo, other) -> None:
    """One without a ring leaves it to a thread."""
    task = begun(loop, engine_of(loop).open(fifo, os.O_RDONLY))
    if other == "g_source":
        loop.use_g_source()
    else:
        loop.context.set_fdmon(other)
    run(loop, asyncio.sleep(0.01))
    assert not task.done()
    writer = os.open(fifo, os.O_RDWR)
    os.close(run(loop, task))
    os.close(writer)


def test_what_only_a_ring_can_do_ends_with_it(loop, pipes) -> None:
    task = begun(loop, splice(loop, pipes))
    loop.context.set_fdmon("epoll")
    with pytest.raises(RuntimeError, match="given up its ring"):
        run(loop, task)


def test_a_file_that_was_opened_for_one_who_is_cancelled_is_closed(loop, tmp_path) -> None:
    (tmp_path / "file").touch()

    async def main():
        for count in range(200):
            task = asyncio.ensure_future(engine_of(loop).open(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
            for _ in range(count % 10):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                os.close(task.result())

    run(loop, main())  # no_leaks looks


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_closing_with_operations_in_flight_gives_their_memory_back(loop) -> None:
    needs_futex()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"

    class Buffer(bytearray):
        pass

    buffer = Buffer(16)
    gone = weakref.ref(buffer)
    task = begun(loop, loop.uring.futex_wait(buffer, 0))
    with pytest.raises(BufferError):
        buffer.clear()
    loop.close()
    del task, buffer
    gc.collect()
    assert gone() is None


def test_a_cancelled_large_read_leaves_the_position(loop, fd) -> None:
    os.write(fd, bytes(200 * PIECE))
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(fd, 5, os.SEEK_SET)

    async def main():
        engine = engine_of(loop)
        engine.adopt(fd)
        started = time.monotonic()
        task = asyncio.ensure_future(engine.read(fd, 200 * PIECE))
        await asyncio.sleep(0.002)
        task.cancel()
        cancelled = time.monotonic()
        await asyncio.wait([task])
        assert task.cancelled(), f"was done in {cancelled - started:.4f} s"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5

    run(loop, main())


def test_operations_in_an_iothread(loop, fd) -> None:
    async def work():
        engine = engine_of(asyncio.get_running_loop())
        await engine.write(fd, b"from there", 0)
        await engine.fsync(fd)
        return await engine.read(fd, 100, 0)

    with aioqemu_loop.IOThread("files", fdmon="io_uring") as thread:
        assert thread.submit(work()).result(20) == b"from there"


def test_operations_while_an_outside_loop_drives(loop, fd) -> None:
    import select

    async def work():
        engine = engine_of(loop)
        os.write(fd, os.urandom(1 << 20))
        await engine.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return await engine.read(fd, 1 << 20, 0)

    loop.use_g_source(keep_io_uring=True)
    task = loop.create_task(work())
    with loop.context.get_g_source() as source:
        deadline = time.monotonic() + 20
        while not task.done() and time.monotonic() < deadline:
            timeout = source.prepare()
            poll = select.poll()
            for number, events in source.poll_fds():
                poll.register(number, events)
            if source.check(poll.poll(5000 if timeout is None else timeout // 1_000_000 + 1)):
                source.dispatch()
    assert task.result() == os.pread(fd, 1 << 20, 0)


WRITES = """
    import asyncio, os, sys, tempfile
    import aioqemu_loop
    from aioqemu_loop.files.engine import engine_of

    async def main():
        engine = engine_of(asyncio.get_running_loop())
        with tempfile.TemporaryFile(dir=".") as file:
            await engine.write(file.fileno(), b"x")
            os.write(2, b"BEGIN")
            await asyncio.gather(*(engine.fsync(file.fileno()) for _ in range(50)))
            os.write(2, b"END")

    aioqemu_loop.run(main(), fdmon="io_uring", poll_max_ns=0)
"""


def test_what_a_turn_asks_for_is_submitted_by_few_calls(loop) -> None:
    calls = strace(WRITES)
    assert not {"fsync", "futex", "clone", "clone3"} & set(names(calls))
    submitted = [int(call.split(",")[1]) for call in calls if call.startswith("io_uring_enter(")]
    assert [count for count in submitted if count] == [16, 16, 16, 2]


def test_of_large_writes_at_once_some_go_to_threads(loop, tmp_path) -> None:
    size = 1 << 20
    fds = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT, 0o644) for n in range(4)]
    calls = []

    async def main() -> None:
        engine = engine_of(loop)
        submit, loop.run_in_executor = loop.run_in_executor, lambda *call: calls.append(call) or submit(*call)
        for fd in fds:
            engine.adopt(fd)
            assert await engine.write(fd, b"-") == 1  # from now on it is known whether writes may be tried at once
        calls.clear()
        await engine.write(fds[0], b"x" * size)
        assert not calls
        assert (
            await asyncio.gather(*(engine.write(fd, bytes([97 + n]) * size) for n, fd in enumerate(fds))) == [size] * 4
        )

    run(loop, main())
    if on_tmpfs(tmp_path):
        assert not calls  # everything at once
    else:
        assert calls
    for n, fd in enumerate(fds):
        assert os.pread(fd, 3 * size, 0) == b"-" + b"x" * size * (n == 0) + bytes([97 + n]) * size
        assert os.lseek(fd, 0, os.SEEK_CUR) == os.fstat(fd).st_size
        os.close(fd)


def on_tmpfs(path) -> bool:
    return subprocess.check_output(["stat", "-f", "-c", "%T", path], text=True).strip() == "tmpfs"


def test_operations_that_wait_have_no_more_than_128_threads(loop, no_leaks) -> None:
    """And all come to their end: those without a thread wait for one."""
    pipes = [os.pipe() for _ in range(300)]
    gathered = os.pipe()

    def threads():
        return len(os.listdir("/proc/self/task"))

    async def main():
        before = threads()
        splices = [asyncio.ensure_future(loop.uring.splice(pipe[0], gathered[1], 10)) for pipe in pipes]
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert threads() - before <= 128
        assert threads() - before > 1
        got = bytearray()
        loop.add_reader(gathered[0], lambda: got.extend(os.read(gathered[0], 1000)))
        for pipe in pipes:
            os.write(pipe[1], b"x")
        assert await asyncio.gather(*splices) == [1] * 300
        while len(got) < 300:
            await asyncio.sleep(0)
        loop.remove_reader(gathered[0])

    try:
        run(loop, main())
    finally:
        for pipe in (*pipes, gathered):
            for end in pipe:
                os.close(end)


CHILD = """
    import asyncio, os, sys, tempfile
    import aioqemu_loop
    from aioqemu_loop.files.engine import engine_of

    reading, writing = os.pipe()
    last, other = os.pipe()
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    task = loop.create_task(loop.uring.splice(reading, other, 10))
    loop.run_until_complete(asyncio.sleep(0.01))
    if (pid := os.fork()) == 0:
        loop.close()
        os.write(writing, aioqemu_loop.run(asyncio.sleep(0, b"child")))
        os._exit(0)
    os.waitpid(pid, 0)
    print(loop.run_until_complete(task), os.read(last, 10))
    loop.close()
"""


def test_a_child_does_not_disturb_the_parents_operations(loop) -> None:
    import subprocess
    import textwrap

    got = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD)], capture_output=True, text=True, timeout=50, check=True
    )
    assert got.stdout == "5 b'child'\n"
