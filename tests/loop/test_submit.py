"""loop.submit(): operations that python-liburing prepares, on every monitor."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import socket
import threading
import weakref

import pytest

import aioqemu_loop

from ..conftest import PATIENCE, need_fdmon
from ..context.helpers import in_child
from ..mainloops.guest import new_guest_loop

MONITORS = ("liburing", "io_uring", "epoll", "poll")


@pytest.fixture(params=MONITORS)
def fdmon(request):
    need_fdmon("liburing")
    need_fdmon(request.param)
    return request.param


@pytest.fixture
def api():
    """The package."""
    need_fdmon("liburing")
    import liburing

    return liburing


@pytest.fixture
def run(loop):
    return lambda coroutine: loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))


@pytest.fixture
def pipe(no_leaks):
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def file(tmp_path):
    """A file "hello world", open for reading and writing."""
    (tmp_path / "file").write_bytes(b"hello world")
    with open(tmp_path / "file", "r+b", buffering=0) as file:
        yield file


def open_rings():
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += "io_uring" in os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
    return found


# -- operations --


def test_nop(fdmon, loop, api, run):
    async def main():
        assert await loop.submit(api.io_uring_prep_nop) == 0
        assert await asyncio.gather(*[loop.submit(api.io_uring_prep_nop) for _ in range(300)]) == [0] * 300

    run(main())


def test_a_file_is_opened_written_read_and_closed(fdmon, loop, api, run, tmp_path):
    async def main():
        # A path object: the package itself would keep a pointer into a temporary string.
        fd = await loop.submit(api.io_uring_prep_open, tmp_path / "new", os.O_CREAT | os.O_RDWR, 0o600)
        assert await loop.submit(api.io_uring_prep_write, fd, b"some text", 0) == 9
        buffer = bytearray(20)
        assert await loop.submit(api.io_uring_prep_read, fd, buffer, 5) == 4
        assert buffer == b"text" + bytes(16)
        assert await loop.submit(api.io_uring_prep_fsync, fd) == 0
        assert await loop.submit(api.io_uring_prep_ftruncate, fd, 4) == 0
        assert await loop.submit(api.io_uring_prep_close, fd) == 0
        assert (tmp_path / "new").read_bytes() == b"some"
        with pytest.raises(OSError) as caught:
            os.close(fd)
        assert caught.value.errno == errno.EBADF

    run(main())


def test_statx(fdmon, loop, api, run, file):
    async def main():
        statx = api.Statx()
        assert await loop.submit(api.io_uring_prep_statx, statx, file.name) == 0
        assert (statx.size, statx.isfile, statx.ino) == (11, True, os.stat(file.name).st_ino)

    run(main())


def test_names_in_a_directory(fdmon, loop, api, run, tmp_path):
    async def main():
        await loop.submit(api.io_uring_prep_mkdir, str(tmp_path / "one"), 0o700)
        await loop.submit(api.io_uring_prep_rename, tmp_path / "one", tmp_path / "two")
        await loop.submit(api.io_uring_prep_symlink, "two", tmp_path / "link")
        assert sorted(os.listdir(tmp_path)) == ["link", "two"]
        assert os.readlink(tmp_path / "link") == "two"
        with pytest.raises(FileExistsError):
            await loop.submit(api.io_uring_prep_mkdir, tmp_path / "two", 0o700)
        await loop.submit(api.io_uring_prep_unlink, tmp_path / "link")
        assert os.listdir(tmp_path) == ["two"]

    run(main())


def test_splice_from_a_file_into_a_pipe(fdmon, loop, api, run, file, pipe):
    async def main():
        reader, writer = pipe
        assert await loop.submit(api.io_uring_prep_splice, file.fileno(), 6, writer, -1, 100, 0) == 5
        assert os.read(reader, 100) == b"world"

    run(main())


def test_a_vector_is_read(fdmon, loop, api, run, file):
    async def main():
        parts = [bytearray(5), bytearray(1), bytearray(10)]
        assert await loop.submit(api.io_uring_prep_readv, file.fileno(), api.Iovec(parts), 0) == 11
        assert parts == [b"hello", b" ", b"world" + bytes(5)]

    run(main())


def test_send_and_receive(fdmon, loop, api, run, pair):
    ours, theirs = pair()

    async def main():
        buffer = bytearray(10)
        receiving = loop.submit(api.io_uring_prep_recv, ours.fileno(), buffer)
        assert await loop.submit(api.io_uring_prep_send, theirs.fileno(), b"abc") == 3
        assert await receiving == 3
        assert buffer[:3] == b"abc"

    run(main())


def test_sockets_are_made_accepted_and_connected(fdmon, loop, api, run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = loop.submit(api.io_uring_prep_accept, listener.fileno())
            client = await loop.submit(api.io_uring_prep_socket, socket.AF_INET, socket.SOCK_STREAM)
            address = api.Sockaddr(socket.AF_INET, "127.0.0.1", listener.getsockname()[1])
            assert await loop.submit(api.io_uring_prep_connect, client, address) == 0
            server = await accepting
            os.write(client, b"x")
            assert await loop.submit(api.io_uring_prep_shutdown, client, socket.SHUT_WR) == 0
            assert os.read(server, 10) == b"x"
            os.close(client)
            os.close(server)

    run(main())


def test_a_timeout_is_an_oserror_and_a_poll_its_events(fdmon, loop, api, run, pipe):
    async def main():
        reader, writer = pipe
        polling = loop.submit(api.io_uring_prep_poll_add, reader, select.POLLIN)
        with pytest.raises(OSError) as caught:
            await loop.submit(api.io_uring_prep_timeout, api.timespec(0.01), 0)
        assert caught.value.errno == errno.ETIME
        assert not polling.done()
        os.write(writer, b"x")
        assert await polling == select.POLLIN

    run(main())


def test_the_loop_sleeps_while_operations_wait(fdmon, loop, api, run, pipe):
    # By other threads' clock: nobody is kept from running (the package holds the GIL in its own waits).
    async def main():
        reader, writer = pipe
        buffer = bytearray(1)
        polling = loop.submit(api.io_uring_prep_read, reader, buffer)
        await asyncio.sleep(0)
        threading.Timer(0.05, os.write, (writer, b"x")).start()
        turns = 0

        def count():
            nonlocal turns
            turns += 1

        loop.call_later(0.02, count)
        assert await polling == 1
        assert buffer == b"x"
        assert turns == 1

    run(main())


# -- errors --


def test_a_bad_fd_and_bad_arguments(fdmon, loop, api, run):
    async def main():
        with pytest.raises(OSError) as caught:
            await loop.submit(api.io_uring_prep_read, 9999, bytearray(10), 0)
        assert caught.value.errno == errno.EBADF
        with pytest.raises(FileNotFoundError):
            await loop.submit(api.io_uring_prep_open, "/nonexistent/file", os.O_RDONLY)
        for args in (("x", bytearray(1)), (0,), (0, b"bytes cannot be read into"), (0, memoryview(b""))):
            with pytest.raises(TypeError):
                loop.submit(api.io_uring_prep_read, *args)
        with pytest.raises(ZeroDivisionError):
            loop.submit(lambda sqe: 1 / 0)
        with pytest.raises(TypeError):
            loop.submit(None)
        # What failed left nothing in the queue.
        assert await loop.submit(api.io_uring_prep_nop) == 0

    run(main())


def test_flags_that_would_concern_others_are_refused(fdmon, loop, api, run):
    async def main():
        def flagged(sqe, flags):
            api.io_uring_prep_nop(sqe)
            sqe.flags = flags

        for flags in (
            api.IOSQE_IO_LINK,
            api.IOSQE_IO_HARDLINK,
            api.IOSQE_IO_DRAIN,
            api.IOSQE_CQE_SKIP_SUCCESS,
            api.IOSQE_BUFFER_SELECT,
            api.IOSQE_FIXED_FILE,
        ):
            with pytest.raises(ValueError):
                loop.submit(flagged, flags)
        assert await loop.submit(flagged, api.IOSQE_ASYNC) == 0

    run(main())


def test_a_closed_loop_and_another_thread(fdmon, loop_factory, api, no_leaks):
    loop = loop_factory()
    loop.set_debug(True)

    async def main():
        def elsewhere():
            try:
                loop.submit(api.io_uring_prep_nop)
            except RuntimeError as exc:
                caught.append(exc)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    caught = []
    loop.run_until_complete(main())
    assert "thread" in str(caught[0])
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.submit(api.io_uring_prep_nop)
    with pytest.raises(RuntimeError, match="closed"):
        loop.submit_linked((api.io_uring_prep_nop,))


def test_a_child_cannot_use_the_ring_of_its_parent(fdmon, loop, api, run):
    async def main():
        await loop.submit(api.io_uring_prep_nop)

        def child():
            try:
                loop.submit(api.io_uring_prep_nop)
            except RuntimeError:
                return f"refused, {open_rings()} rings"
            return "no error"

        assert in_child(child) == "refused, 0 rings"
        assert await loop.submit(api.io_uring_prep_nop) == 0

    run(main())


# -- memory --


def test_arguments_live_until_the_completion_and_are_pinned(fdmon, loop, api, run, pipe):
    class Buffer(bytearray):
        pass

    async def main():
        reader, writer = pipe
        buffer = Buffer(4)
        alive = weakref.ref(buffer)
        reading = loop.submit(api.io_uring_prep_read, reader, buffer)
        with pytest.raises(BufferError):
            buffer.extend(b"more")
        del buffer
        await asyncio.sleep(0)
        gc.collect()
        assert alive() is not None
        os.write(writer, b"data")
        assert await reading == 4
        del reading
        gc.collect()
        assert alive() is None

    run(main())


def test_a_buffer_can_be_resized_after_the_completion(fdmon, loop, api, run, file):
    async def main():
        buffer = bytearray(5)
        assert await loop.submit(api.io_uring_prep_read, file.fileno(), buffer, 0) == 5
        buffer.extend(b"!")
        assert buffer == b"hello!"

    run(main())


# -- cancelling --


def test_cancelling_the_task_ends_the_operation_first(fdmon, loop, api, run, pipe):
    async def main():
        reader, writer = pipe
        buffer = bytearray(10)

        async def work():
            await loop.submit(api.io_uring_prep_read, reader, buffer)

        for turns in range(4):
            task = loop.create_task(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            if turns:
                buffer.extend(b"x")  # nobody holds it any more
        os.write(writer, b"for somebody else")
        await asyncio.sleep(0.01)
        assert not any(buffer[:10])
        assert os.read(reader, 100) == b"for somebody else"

    run(main())


def test_a_cancelled_future_is_done_when_the_kernel_is(fdmon, loop, api, run, pipe):
    async def main():
        future = loop.submit(api.io_uring_prep_poll_add, pipe[0], select.POLLIN)
        await asyncio.sleep(0)
        assert future.cancel()
        assert not future.done()
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.cancelled()
        assert not future.cancel()

    run(main())


def test_wait_for_and_gather_end(fdmon, loop, api, run, pipe):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.submit(api.io_uring_prep_poll_add, pipe[0], select.POLLIN), 0.01)
        everything = asyncio.gather(
            *[loop.submit(api.io_uring_prep_poll_add, pipe[0], select.POLLIN) for _ in range(100)]
        )
        await asyncio.sleep(0)
        everything.cancel()
        with pytest.raises(asyncio.CancelledError):
            await everything

    run(main())


def test_a_file_that_was_opened_for_nobody_is_closed(fdmon, loop, api, run, file):
    async def main():
        await loop.submit(api.io_uring_prep_nop)
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(20):
            opening = loop.submit(api.io_uring_prep_open, file.name, os.O_RDONLY)
            opening.cancel()  # the kernel opens it before it hears of that
            with pytest.raises(asyncio.CancelledError):
                await opening
        assert set(os.listdir("/proc/self/fd")) == before

    run(main())


def test_a_multishot_operation_gives_its_first_result(fdmon, loop, api, run, pipe):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = loop.submit(api.io_uring_prep_multishot_accept, listener.fileno())
            clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
            os.close(await accepting)
            for client in clients:
                client.close()
        before = set(os.listdir("/proc/self/fd"))
        ticking = loop.submit(api.io_uring_prep_timeout, api.timespec(0.001), 0, api.IORING_TIMEOUT_MULTISHOT)
        with pytest.raises(OSError) as caught:
            await ticking
        assert caught.value.errno == errno.ETIME
        assert set(os.listdir("/proc/self/fd")) == before

    run(main())


# -- links --


def test_a_chain_runs_in_order(fdmon, loop, api, run, file):
    async def main():
        buffer = bytearray(11)
        outcomes = await loop.submit_linked(
            (api.io_uring_prep_write, file.fileno(), b"HELLO", 0),
            (api.io_uring_prep_fsync, file.fileno()),
            (api.io_uring_prep_read, file.fileno(), buffer, 0),
        )
        assert outcomes == [5, 0, 11]
        assert buffer == b"HELLO world"
        assert await loop.submit_linked((api.io_uring_prep_nop,)) == [0]

    run(main())


def test_a_broken_chain_says_where(fdmon, loop, api, run, file):
    async def main():
        buffer = bytearray(11)
        calls = (
            (api.io_uring_prep_nop,),
            (api.io_uring_prep_fsync, 9999),
            (api.io_uring_prep_read, file.fileno(), buffer, 0),
        )
        first, second, third = await loop.submit_linked(*calls)
        assert (first, second.errno, third.errno) == (0, errno.EBADF, errno.ECANCELED)
        assert not any(buffer)
        first, second, third = await loop.submit_linked(*calls, hard=True)
        assert (first, second.errno, third) == (0, errno.EBADF, 11)
        assert buffer == b"hello world"

    run(main())


def test_a_linked_timeout(fdmon, loop, api, run, pipe):
    async def main():
        reader, writer = pipe
        calls = (
            (api.io_uring_prep_poll_add, reader, select.POLLIN),
            (api.io_uring_prep_link_timeout, api.timespec(0.01), 0),
        )
        polled, timed_out = await loop.submit_linked(*calls)
        assert (polled.errno, timed_out.errno) == (errno.ECANCELED, errno.ETIME)
        os.write(writer, b"x")
        polled, timed_out = await loop.submit_linked(*calls)
        assert (polled, timed_out.errno) == (select.POLLIN, errno.ECANCELED)

    run(main())


def test_a_chain_is_cancelled_as_a_whole(fdmon, loop, api, run, pipe):
    async def main():
        future = loop.submit_linked(
            (api.io_uring_prep_poll_add, pipe[0], select.POLLIN),
            (api.io_uring_prep_write, pipe[1], b"never"),
        )
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        with pytest.raises(BlockingIOError):
            os.read(pipe[0], 10)

    run(main())


def test_chains_that_cannot_be(fdmon, loop, api, run):
    async def main():
        with pytest.raises(ValueError):
            loop.submit_linked()
        with pytest.raises(ValueError):
            loop.submit_linked(*[(api.io_uring_prep_nop,)] * 129)
        with pytest.raises(TypeError):
            loop.submit_linked(api.io_uring_prep_nop)
        with pytest.raises(TypeError):
            loop.submit_linked((api.io_uring_prep_nop,), (api.io_uring_prep_fsync, "x"))
        assert await loop.submit_linked(*[(api.io_uring_prep_nop,)] * 128) == [0] * 128

    run(main())


# -- the loop's end, and other monitors --


def test_a_stopped_loop_keeps_its_operations_and_goes_on(fdmon, loop, api, run, pipe):
    async def begin():
        return loop.submit(api.io_uring_prep_poll_add, pipe[0], select.POLLIN)

    polling = run(begin())
    run(asyncio.sleep(0.001))
    os.write(pipe[1], b"x")

    async def end():
        return await polling

    assert run(end()) == select.POLLIN


@pytest.mark.parametrize("turns", [0, 2])
def test_a_closed_loop_has_ended_its_operations(fdmon, loop_factory, api, pipe, turns):
    loop = loop_factory()
    buffer = bytearray(10)
    reading = loop.submit(api.io_uring_prep_read, pipe[0], buffer)
    chain = loop.submit_linked((api.io_uring_prep_read, pipe[0], bytearray(1)), (api.io_uring_prep_nop,))
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
    assert reading.cancelled()
    assert chain.cancelled()
    os.write(pipe[1], b"x")
    buffer.extend(b"free again")
    assert os.read(pipe[0], 10) == b"x"
    assert open_rings() == 0


@pytest.mark.parametrize("target", MONITORS)
def test_operations_survive_a_change_of_monitors(fdmon, target, loop, api, run, pipe):
    async def main():
        reader, writer = pipe
        first = loop.submit(api.io_uring_prep_read, reader, bytearray(1))
        await asyncio.sleep(0)
        loop.context.set_fdmon(target)
        second = loop.submit(api.io_uring_prep_poll_add, writer, select.POLLERR)
        loop.context.set_fdmon(fdmon)
        third = loop.submit(api.io_uring_prep_nop)
        assert await third == 0
        os.write(writer, b"x")
        assert await first == 1
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.sleep(0)
        assert open_rings() <= 3  # one of the monitor, one for operations, and one that is being given up

    need_fdmon(target)
    run(main())


def test_a_context_that_is_closed_under_the_loop_ends_operations(fdmon, loop_factory, api, pipe):
    loop = loop_factory()
    reading = loop.submit(api.io_uring_prep_read, pipe[0], bytearray(1))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.context.close()
    loop.close()
    assert reading.cancelled()
    assert open_rings() == 0


def test_a_turn_is_one_system_call(fdmon, loop, api, run, monkeypatch):
    # Counted where the package is called; tests/fdmon/test_syscalls.py sees the real ones.
    async def main():
        await loop.submit(api.io_uring_prep_nop)
        calls = []
        real = api.io_uring_submit
        monkeypatch.setattr(api, "io_uring_submit", lambda ring: calls.append(real(ring)))
        await asyncio.gather(*[loop.submit(api.io_uring_prep_nop) for _ in range(20)])
        assert max(calls) >= 20
        assert len(calls) <= 2

    run(main())


@pytest.mark.parametrize("kind", ["g_source", "g_source-io_uring", "g_source-liburing"])
def test_an_outside_main_loop_drives_it(api, no_leaks, kind):
    loop = new_guest_loop(kind)

    async def main():
        assert await loop.submit(api.io_uring_prep_nop) == 0
        reader, writer = os.pipe()
        reading = loop.submit(api.io_uring_prep_read, reader, bytearray(10))
        loop.call_later(0.01, os.write, writer, b"abc")
        assert await reading == 3
        for fd in (reader, writer):
            await loop.submit(api.io_uring_prep_close, fd)

    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    loop.close()


def test_no_ring_is_opened_unless_asked(fdmon, loop, api, run):
    before = open_rings()
    run(asyncio.sleep(0))
    assert open_rings() == before
    run(loop.submit(api.io_uring_prep_nop))
    assert open_rings() == before + (fdmon != "liburing")


def test_without_the_package_the_reason_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "liburing", None)
    assert "not installed" in aioqemu_loop.fdmons()["liburing"]
    with pytest.raises(aioqemu_loop.FDMonUnavailable, match="not installed"):
        aioqemu_loop.new_event_loop(fdmon="liburing")
    loop = aioqemu_loop.new_event_loop(fdmon="epoll")
    with pytest.raises(aioqemu_loop.FDMonUnavailable, match="not installed"):
        loop.submit(print)
    loop.close()


def test_an_iothread_submits_too(fdmon, api, no_leaks):
    async def work():
        return await asyncio.get_running_loop().submit(api.io_uring_prep_nop)

    with aioqemu_loop.IOThread("operations", fdmon=fdmon) as thread:
        assert thread.submit(work()).result(PATIENCE) == 0
