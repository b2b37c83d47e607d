"""Operations on the loop's ring that are disturbed: cancelled, left in flight, moved to another monitor or thread."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import weakref

import pytest

import aioqemu_loop
from aioqemu_loop.files.engine import engine_of

from ..fdmon.tracing import names, strace

PIECE = 256 * 1024


@pytest.fixture
def loop(no_leaks):
    if reason := aioqemu_loop.fdmons()["io_uring"]:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"io_uring is not usable here: {reason}")
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
def pipe(no_leaks):
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def fd(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    yield fd
    os.close(fd)


def run(loop, coroutine):
    return loop.run_until_complete(asyncio.wait_for(coroutine, 30))


def begun(loop, coroutine):
    """A task of `coroutine` whose operation the kernel has."""
    task = loop.create_task(coroutine)
    run(loop, asyncio.sleep(0.01))
    assert not task.done()
    return task


def test_a_cancelled_read_takes_nothing(loop, pipe) -> None:
    async def main():
        engine = engine_of(loop)
        for _ in range(50):
            task = asyncio.ensure_future(engine.read(pipe[0], 10))
            await asyncio.sleep(0.0001)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            if sys.version_info >= (3, 11):
                assert caught.value.args == ("enough",)
        os.write(pipe[1], b"kept")
        assert await engine.read(pipe[0], 10) == b"kept"

    run(loop, main())


def test_cancelled_before_the_kernel_heard_of_it(loop, pipe) -> None:
    async def main():
        task = asyncio.ensure_future(engine_of(loop).read(pipe[0], 10))
        await asyncio.sleep(0)  # it has asked for the operation, and the loop has not looked since
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(loop, main())


def test_cancelled_when_the_result_has_come(loop, pipe) -> None:
    async def main():
        engine = engine_of(loop)
        task = asyncio.ensure_future(engine.read(pipe[0], 10))
        await asyncio.sleep(0.01)
        os.write(pipe[1], b"x")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(loop, main())


def test_many_cancelled_at_once(loop, pipe) -> None:
    async def main():
        tasks = [asyncio.ensure_future(engine_of(loop).read(pipe[0], 10)) for _ in range(1000)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    run(loop, main())


def test_an_operation_in_flight_survives_the_end_of_the_run(loop, pipe) -> None:
    """What it waits for may come while nobody runs the loop."""
    task = begun(loop, engine_of(loop).read(pipe[0], 10))
    os.write(pipe[1], b"between")
    assert run(loop, task) == b"between"


def test_the_next_run_may_be_in_another_thread(loop, pipe) -> None:
    task = begun(loop, engine_of(loop).read(pipe[0], 10))
    os.write(pipe[1], b"there")
    results = []
    thread = threading.Thread(target=lambda: results.append(run(loop, task)))
    thread.start()
    thread.join(30)
    assert results == [b"there"]


@pytest.mark.parametrize("other", ["epoll", "poll"])
def test_a_monitor_without_a_ring_leaves_it_to_a_thread(loop, pipe, other) -> None:
    task = begun(loop, engine_of(loop).read(pipe[0], 10))
    loop.context.set_fdmon(other)
    os.write(pipe[1], b"moved")
    assert run(loop, task) == b"moved"


def test_another_ring_takes_it_over(loop, pipe) -> None:
    task = begun(loop, engine_of(loop).read(pipe[0], 10))
    loop.context.set_fdmon("io_uring")
    run(loop, asyncio.sleep(0.01))
    assert not task.done()
    os.write(pipe[1], b"moved")
    assert run(loop, task) == b"moved"


def test_use_g_source_with_an_operation_in_flight(loop, pipe) -> None:
    task = begun(loop, engine_of(loop).read(pipe[0], 10))
    loop.use_g_source()
    os.write(pipe[1], b"still")
    assert loop.fdmon == "poll"
    assert run(loop, task) == b"still"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_closing_with_operations_in_flight_gives_their_memory_back(loop, pipe) -> None:
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"

    class Buffer(bytearray):
        pass

    buffer = Buffer(10)
    gone = weakref.ref(buffer)
    task = begun(loop, engine_of(loop).readinto(pipe[0], buffer))
    loop.close()
    os.write(pipe[1], b"unread")
    assert os.read(pipe[0], 10) == b"unread"
    assert buffer == bytes(10)
    del task, buffer, loop
    gc.collect()
    # The fixture and the engine's loop are all that is left of it.
    assert gone() is None


def test_a_buffer_is_held_while_the_kernel_may_write_there(loop, pipe) -> None:
    buffer = bytearray(10)
    task = begun(loop, engine_of(loop).readinto(pipe[0], buffer))
    with pytest.raises(BufferError):
        buffer.clear()
    os.write(pipe[1], b"abc")
    assert run(loop, task) == 3
    del task
    buffer.clear()


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


def test_what_a_turn_asks_for_is_submitted_at_once(loop) -> None:
    calls = strace(WRITES)
    assert not {"fsync", "futex", "clone", "clone3"} & set(names(calls))
    submitted = [int(call.split(",")[1]) for call in calls if call.startswith("io_uring_enter(")]
    assert max(submitted) == 50


CHILD = """
    import asyncio, os, sys, tempfile
    import aioqemu_loop
    from aioqemu_loop.files.engine import engine_of

    reading, writing = os.pipe()

    async def read():
        return await engine_of(asyncio.get_running_loop()).read(reading, 10)

    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    task = loop.create_task(read())
    loop.run_until_complete(asyncio.sleep(0.01))
    if (pid := os.fork()) == 0:
        loop.close()
        os.write(writing, aioqemu_loop.run(asyncio.sleep(0, b"child")))
        os._exit(0)
    os.waitpid(pid, 0)
    print(loop.run_until_complete(task))
    loop.close()
"""


def test_a_child_does_not_disturb_the_parents_operations(loop) -> None:
    import subprocess
    import textwrap

    got = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD)], capture_output=True, text=True, timeout=50, check=True
    )
    assert got.stdout == "b'child'\n"
