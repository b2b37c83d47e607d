"""Child processes: started every way, their pipes, their ends."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

PIPE, DEVNULL, STDOUT = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL, asyncio.subprocess.STDOUT
PYTHON = sys.executable


pytestmark = pytest.mark.usefixtures("no_children")


def script(code):
    return (PYTHON, "-S", "-c", code)


async def output_of(*args, **options):
    """What a program prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(*args, stdout=PIPE, **options)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


class TestCommunicate:
    def test_megabytes_there_and_back(self, run):
        data = b"".join(b"%07d\n" % i for i in range(500_000))

        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            out, err = await process.communicate(data)
            assert out == data and err is None
            assert process.returncode == 0

        run(main())

    def test_both_outputs(self, run):
        async def main():
            process = await asyncio.create_subprocess_shell(
                "cat; echo problem >&2; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            assert await process.communicate(b"text") == (b"text", b"problem\n")
            assert process.returncode == 3
            assert await process.wait() == 3

        run(main())

    def test_both_outputs_in_one(self, run):
        async def main():
            process = await asyncio.create_subprocess_shell("echo out; echo err >&2", stdout=PIPE, stderr=STDOUT)
            assert await process.communicate() == (b"out\nerr\n", None)

        run(main())

    def test_a_program_that_does_not_read_its_input(self, run, broken_pipes_are_told):
        async def main():
            process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
            assert await process.communicate(bytes(1_000_000)) == (None, None)
            assert process.returncode == 0

        run(main())

    def test_nothing_and_nowhere(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            assert process.stdin is process.stdout is process.stderr is None
            assert await process.wait() == 0

        run(main())

    def test_files_and_fds(self, run, tmp_path):
        (tmp_path / "in").write_bytes(b"content")

        async def main():
            with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
                process = await asyncio.create_subprocess_exec("cat", stdin=source.fileno(), stdout=target)
                assert await process.wait() == 0
            assert (tmp_path / "out").read_bytes() == b"content"

        run(main())

    def test_line_by_line(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            for i in range(50):
                process.stdin.write(b"line %d\n" % i)
                assert await process.stdout.readline() == b"line %d\n" % i
            process.stdin.close()
            assert await process.stdout.read() == b""
            assert await process.wait() == 0

        run(main())

    def test_writing_to_one_that_has_ended(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
            await process.wait()
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                while True:
                    process.stdin.write(b"x" * 100_000)
                    await process.stdin.drain()

        run(main())

    def test_output_outlives_the_program(self, run):
        """The pipe ends when the last one who has it does."""

        async def main():
            process = await asyncio.create_subprocess_shell("{ sleep 0.2; echo late; } & echo early", stdout=PIPE)
            assert await process.communicate() == (b"early\nlate\n", None)

        run(main())

    def test_the_program_outlives_its_output(self, run):
        async def main():
            process = await asyncio.create_subprocess_shell("exec >&-; read line; exit 4", stdin=PIPE, stdout=PIPE)
            assert await process.stdout.read() == b""
            assert process.returncode is None
            process.stdin.write(b"go\n")
            assert await process.wait() == 4

        run(main())

    def test_two_hundred_at_once(self, run):
        async def one(i):
            process = await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {i % 256}", stdin=PIPE, stdout=PIPE)
            out, _ = await process.communicate(b"%d" % i)
            return int(out), process.returncode

        async def main():
            assert await asyncio.gather(*map(one, range(200))) == [(i, i % 256) for i in range(200)]

        run(main())


class TestKeywords:
    def test_where_and_with_what(self, run, tmp_path):
        async def main():
            assert await output_of("pwd", cwd=tmp_path) == os.fsencode(tmp_path) + b"\n"
            assert await output_of("/bin/sh", "-c", "echo $WORD", env={"WORD": "value"}) == b"value\n"
            assert await output_of("name", "-c", "echo $0", "x", executable="/bin/sh") == b"x\n"
            assert await output_of(b"echo", Path("a/b"), b"bytes") == b"a/b bytes\n"

        run(main())

    def test_sessions_groups_and_masks(self, run):
        ids = script("import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())")

        async def main():
            assert await output_of(*ids) == b"False False\n"
            assert await output_of(*ids, start_new_session=True) == b"True True\n"
            if sys.version_info >= (3, 11):
                assert await output_of(*ids, process_group=0) == b"False True\n"
            assert await output_of("sh", "-c", "umask", umask=0o027) == b"0027\n"

        run(main())

    @pytest.mark.skipif(os.getuid() != 0, reason="only root may be another user")
    def test_users(self, run):
        ids = ("/bin/sh", "-c", "id -u; id -g; id -G")

        async def main():
            out = await output_of(*ids, user=1234, group=2345, extra_groups=[7, 8])
            assert out.split() == [b"1234", b"2345", b"2345", b"7", b"8"]

        run(main())

    def test_inherited_fds(self, run):
        async def main():
            reader, writer = os.pipe()
            try:
                listing = f"test -e /proc/self/fd/{writer} && echo yes || echo no"
                assert await output_of("sh", "-c", listing) == b"no\n"
                assert await output_of("sh", "-c", listing, pass_fds=[writer]) == b"yes\n"
                os.set_inheritable(writer, True)
                assert await output_of("sh", "-c", listing, close_fds=False) == b"yes\n"
            finally:
                os.close(reader)
                os.close(writer)

        run(main())

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_preexec_fn_and_signals(self, run):
        async def main():
            assert await output_of("sh", "-c", "umask", preexec_fn=lambda: os.umask(0o011) and None) == b"0011\n"
            line = "grep SigIgn /proc/self/status"
            restored = int((await output_of("sh", "-c", line)).split()[1], 16)
            kept = int((await output_of("sh", "-c", line, restore_signals=False)).split()[1], 16)
            bit = 1 << signal.SIGPIPE - 1
            assert (restored & bit, kept & bit) == (0, bit)

        run(main())

    def test_the_size_of_pipes(self, run):
        size = script("import fcntl; print(fcntl.fcntl(1, 1032))")

        async def main():
            assert await output_of(*size, pipesize=8192) == b"8192\n"

        run(main())

    def test_standard_input_is_a_real_pipe(self, run):
        kind = script("import os, stat; print([stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in range(3)])")

        async def main():
            process = await asyncio.create_subprocess_exec(*kind, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            out, _ = await process.communicate()
            assert out == b"[True, True, True]\n"
            for fd in range(3):
                pipe = process._transport.get_pipe_transport(fd)
                assert pipe is not None
                assert pipe.get_extra_info("pipe").closed
            assert process._transport.get_pipe_transport(3) is None

        run(main())

    @pytest.mark.parametrize(
        "options, text",
        [
            ({"universal_newlines": True}, "universal_newlines must be False"),
            ({"text": True}, "text must be False"),
            ({"encoding": "utf-8"}, "encoding must be None"),
            ({"errors": "strict"}, "errors must be None"),
            ({"bufsize": 1}, "bufsize must be 0"),
            ({"shell": True}, "shell must be False"),
        ],
    )
    def test_what_asyncio_refuses(self, run, any_loop, options, text):
        async def main():
            with pytest.raises(ValueError, match=f"^{text}$"):
                await any_loop.subprocess_exec(asyncio.SubprocessProtocol, "true", **options)

        run(main())

    def test_what_popen_refuses(self, run, any_loop):
        async def main():
            with pytest.raises(TypeError):
                await asyncio.create_subprocess_exec("true", nonsense=1)
            with pytest.raises(ValueError, match="shell must be True"):
                await any_loop.subprocess_shell(asyncio.SubprocessProtocol, "true", shell=False)
            with pytest.raises(ValueError, match="cmd must be a string"):
                await any_loop.subprocess_shell(asyncio.SubprocessProtocol, ["true"])

        run(main())

    @pytest.mark.parametrize(
        "program, error", [("/nonexistent/program", FileNotFoundError), ("/etc/passwd", PermissionError)]
    )
    def test_a_program_that_cannot_be_started(self, run, program, error):
        async def main():
            for _ in range(3):
                with pytest.raises(error):
                    await asyncio.create_subprocess_exec(program, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            assert await output_of("echo", "still fine") == b"still fine\n"

        run(main())

    def test_bad_folder(self, run):
        async def main():
            with pytest.raises(FileNotFoundError):
                await asyncio.create_subprocess_exec("true", cwd="/nonexistent")

        run(main())


class TestProtocol:
    def test_the_order_of_calls(self, run, any_loop):
        calls = []

        class Protocol(asyncio.SubprocessProtocol):
            def connection_made(self, transport):
                calls.append("connection_made")

            def pipe_data_received(self, fd, data):
                calls.append((fd, data))

            def pipe_connection_lost(self, fd, exc):
                calls.append((fd, exc))

            def process_exited(self):
                calls.append("process_exited")

            def connection_lost(self, exc):
                calls.append(("connection_lost", exc))
                done.set_result(None)

        done = any_loop.create_future()

        async def main():
            command = "read line; echo one; echo two >&2"
            transport, protocol = await any_loop.subprocess_shell(Protocol, command)
            assert isinstance(transport, asyncio.SubprocessTransport)
            assert isinstance(protocol, Protocol)
            assert transport.get_extra_info("subprocess").pid == transport.get_pid()
            assert "running" in repr(transport)
            transport.get_pipe_transport(0).write(b"\n")
            await done
            assert transport.get_returncode() == 0
            assert "returncode=0" in repr(transport)
            transport.close()

        run(main())
        assert calls[0] == "connection_made"
        assert calls[-1] == ("connection_lost", None)
        assert sorted(calls[1:-1], key=repr) == sorted(
            [(0, None), (1, b"one\n"), (2, b"two\n"), (1, None), (2, None), "process_exited"], key=repr
        )
        assert calls.index((1, b"one\n")) < calls.index((1, None))

    def test_in_another_thread(self, any_factory):
        """No main thread and no signal handler is needed."""
        results = []

        def work():
            loop = any_factory()
            try:
                results.append(loop.run_until_complete(output_of("echo", "hi")))
            finally:
                loop.close()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert results == [b"hi\n"] * 4
