"""Reports about other loops, as small programs: child processes and pipes."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys

import pytest

PIPE = asyncio.subprocess.PIPE
IS_PIPE = "import os, stat; print([stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (0, 1, 2)])"


class Pipe(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self):
        self.seen = []
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.seen.append(data)

    def eof_received(self):
        self.seen.append("eof")

    def connection_lost(self, exc):
        self.seen.append("lost")
        self.lost.set_result(exc)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


class TestProcesses:
    def test_wait_does_not_wait_for_grandchildren(self, run, stdlib_is_wrong, tmp_path):
        """cpython #119710, anyio #1174: a child of the child kept stdout open, and wait() waited for that one, too."""
        stdlib_is_wrong((3, 11), "waits until the pipes have ended")

        os.mkfifo(tmp_path / "fifo")
        fifo = os.open(tmp_path / "fifo", os.O_RDWR)

        async def main():
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", "cat <fifo & echo there; read line; exit 4", cwd=tmp_path, stdin=PIPE, stdout=PIPE
            )
            assert await process.stdout.readline() == b"there\n"
            waiting = asyncio.ensure_future(process.wait())
            await asyncio.sleep(0)
            process.stdin.write(b"\n")
            assert await waiting == 4
            os.write(fifo, b"last words")
            assert await process.stdout.readexactly(10) == b"last words"
            os.close(fifo)
            assert await process.stdout.read() == b""

        run(main())

    @pytest.mark.parametrize("size", [65_536, 65_537, 300_001])
    def test_communicate_with_more_than_a_pipe_holds(self, run, size):
        """uvloop #363: it never returned from one byte more than a pipe holds."""

        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
            assert await process.communicate(b"x" * size) == (b"x" * size, b"")

        run(main())

    def test_two_small_writes_are_two_lines(self, run):
        """uvloop #311: an assertion in libuv, where one write in place of two did."""

        async def main():
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", "read one; read two; echo $two $one", stdin=PIPE, stdout=PIPE
            )
            for part in (b"1", b"\n", b"2", b"\n"):
                process.stdin.write(part)
            assert (await process.communicate())[0] == b"2 1\n"

        run(main())

    def test_standard_streams_are_pipes(self, run):
        """uvloop #505, #532: they were sockets, which a child cannot open by /dev/stdin or /proc/self/fd."""

        async def main():
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", IS_PIPE, stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            assert (await process.communicate())[0] == b"[True, True, True]\n"
            process = await asyncio.create_subprocess_exec("cat", "/dev/stdin", stdin=PIPE, stdout=PIPE)
            assert (await process.communicate(b"through a path"))[0] == b"through a path"

        run(main())

    def test_pipes_of_a_process_are_told(self, run):
        """uvloop #595: get_extra_info("pipe") was None."""

        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            pipe = process._transport.get_pipe_transport(1).get_extra_info("pipe")
            assert stat.S_ISFIFO(os.fstat(pipe.fileno()).st_mode)
            await process.communicate(b"")

        run(main())

    def test_output_to_a_file_object(self, run, tmp_path):
        """uvloop #136: only what has a fileno() of a certain kind was taken."""

        async def main():
            with open(tmp_path / "out", "w") as out:
                process = await asyncio.create_subprocess_exec("echo", "hi", stdout=out)
                assert await process.wait() == 0

        run(main())
        assert (tmp_path / "out").read_text() == "hi\n"

    def test_a_handler_for_sigchld(self, run, any_loop):
        """uvloop #409: refused, as the loop used the signal itself."""

        async def main():
            told = any_loop.create_future()
            any_loop.add_signal_handler(signal.SIGCHLD, lambda: told.done() or told.set_result(None))
            process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
            assert await process.wait() == 3
            await told
            assert any_loop.remove_signal_handler(signal.SIGCHLD)

        run(main())

    def test_cancelled_in_the_middle(self, run, stdlib_is_wrong):
        """cpython #125502: run() hung where children were cancelled while they started or ended."""
        stdlib_is_wrong((3, 10), "leaves pipes to the garbage collector")

        async def one():
            process = await asyncio.create_subprocess_exec("true", stdout=PIPE)
            try:
                await process.communicate()
            finally:
                await process.wait()
                await process.stdout.read()

        async def main():
            tasks = [asyncio.ensure_future(one()) for _ in range(10)]
            for number, task in enumerate(tasks):
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                if number % 2:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        run(main())


class TestPipes:
    def test_a_fifo_again_and_again_leaves_no_fd(self, run, any_loop, tmp_path, no_leaks):
        """uvloop #80: each time one more was open, unless the transport was closed by hand."""
        os.mkfifo(tmp_path / "fifo")

        async def main():
            for _ in range(3):
                file = os.fdopen(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb", 0)
                _, pipe = await any_loop.connect_read_pipe(Pipe, file)
                os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
                await pipe.lost
                assert file.closed

        run(main())

    def test_two_transports_for_one_file(self, run, any_loop):
        """uvloop #262: FileExistsError for the second one that writes to standard output."""

        async def main():
            reading, writing = os.pipe()
            files = [os.fdopen(writing, "wb", 0), os.fdopen(os.dup(writing), "wb", 0)]
            for file in files:
                transport, _ = await any_loop.connect_write_pipe(asyncio.BaseProtocol, file)
                transport.write(b"x")
                transport.close()
                await until(lambda file=file: file.closed)
            assert os.read(reading, 10) == b"xx"
            os.close(reading)

        run(main())

    def test_a_terminal_that_is_read_and_written(self, run, any_loop):
        """python/asyncio #369: what was typed ended the transport that writes to the same terminal."""
        pty, tty = pytest.importorskip("pty"), pytest.importorskip("tty")

        async def main():
            user, terminal = pty.openpty()
            tty.setraw(terminal)
            reading, reader = await any_loop.connect_read_pipe(Pipe, os.fdopen(os.dup(terminal), "rb", 0))
            writing, writer = await any_loop.connect_write_pipe(Pipe, os.fdopen(terminal, "wb", 0))
            os.write(user, b"typed")
            await until(lambda: reader.seen)
            assert not writing.is_closing()
            writing.write(b"shown")
            await until(lambda: not writing.get_write_buffer_size())
            assert await any_loop.run_in_executor(None, os.read, user, 100) == b"shown"
            writing.close()
            reading.close()
            await asyncio.gather(reader.lost, writer.lost)
            os.close(user)

        run(main())

    def test_pausing_and_resuming_when_closed(self, run, any_loop):
        """cpython PR 16472 (bpo-38019): resume_reading() on a closed pipe added a reader for None."""

        async def main():
            reading, writing = os.pipe()
            transport, pipe = await any_loop.connect_read_pipe(Pipe, os.fdopen(reading, "rb", 0))
            transport.close()
            transport.pause_reading()
            transport.resume_reading()
            await pipe.lost
            transport.pause_reading()
            transport.resume_reading()
            os.close(writing)
            await asyncio.sleep(0)
            assert pipe.seen == ["lost"]

        run(main())
