"""Subprocesses: every keyword of subprocess.Popen, real pipes, no zombie."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PIPE = asyncio.subprocess.PIPE
# What a child tells about itself.
REPORT = """
import json, os, stat, sys
umask = os.umask(0)
print(json.dumps({
    "uid": os.geteuid(), "gid": os.getegid(), "groups": sorted(os.getgroups()), "umask": umask, "cwd": os.getcwd(),
    "pgid": os.getpgid(0), "sid": os.getsid(0), "pid": os.getpid(), "env": os.environ.get("REPORTED"),
    "fds": [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")],
    "pipes": [stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in range(3)],
    "argv0": open("/proc/self/cmdline").read().split("\\0")[0],
}))
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


async def report(**options):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", REPORT, stdout=PIPE, **options)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


class TestKeywords:
    @as_root
    @pytest.mark.parametrize("who", [{"user": 65534}, {"user": "nobody"}], ids=["number", "name"])
    def test_user(self, run, who):
        async def main():  # no Python: that user may not be allowed to read this one
            process = await asyncio.create_subprocess_exec("id", "-u", stdout=PIPE, cwd="/", **who)
            return (await process.communicate())[0]

        assert run(main()) == b"65534\n"

    @as_root
    def test_group_and_extra_groups(self, run):
        result = run(report(group=12, extra_groups=[5, "games"], cwd="/"))
        assert result["gid"] == 12
        assert result["groups"] == [5, 60]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="subprocess.Popen of 3.10 leaves its pipes open")
    def test_a_user_that_does_not_exist(self, run):
        with pytest.raises(KeyError):
            run(report(user="nobody-of-that-name"))

    def test_umask(self, run):
        assert run(report(umask=0o027))["umask"] == 0o027

    def test_cwd_and_env(self, run, tmp_path):
        result = run(report(cwd=tmp_path, env={**os.environ, "REPORTED": "by env"}))
        assert (result["cwd"], result["env"]) == (str(tmp_path), "by env")

    def test_executable(self, run):
        environment = {**os.environ, "PYTHONHOME": sys.base_prefix}

        async def main():
            process = await asyncio.create_subprocess_exec(
                "another-name", "-c", REPORT, executable=sys.executable, stdout=PIPE, env=environment
            )
            out, _ = await process.communicate()
            return json.loads(out)["argv0"]

        assert run(main()) == "another-name"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="process_group came with 3.11")
    def test_process_group(self, run):
        result = run(report(process_group=0))
        assert result["pgid"] == result["pid"] != result["sid"]

    def test_start_new_session(self, run):
        result = run(report(start_new_session=True))
        assert result["sid"] == result["pid"]

    def test_preexec_fn(self, run):
        read_fd, write_fd = os.pipe()
        run(report(preexec_fn=lambda: os.write(write_fd, b"%d" % os.getpid())))
        assert int(os.read(read_fd, 100)) != os.getpid()
        os.close(read_fd)
        os.close(write_fd)

    def test_a_preexec_fn_that_raises(self, run):
        with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
            run(report(preexec_fn=lambda: 1 / 0))

    def test_pipesize(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, pipesize=8192)
            size = fcntl.fcntl(process._transport.get_pipe_transport(1).get_extra_info("pipe"), fcntl.F_GETPIPE_SZ)
            await process.communicate(b"x")
            return size

        assert run(main()) == 8192

    def test_close_fds_and_pass_fds(self, run):
        read_fd, write_fd = os.pipe()
        os.set_inheritable(write_fd, True)
        assert not {read_fd, write_fd} & set(run(report())["fds"])
        assert set(run(report(pass_fds=[read_fd]))["fds"]) & {read_fd, write_fd} == {read_fd}
        assert set(run(report(close_fds=False))["fds"]) & {read_fd, write_fd} == {write_fd}
        os.close(read_fd)
        os.close(write_fd)

    def test_close_fds_false_gives_the_child_nothing_of_the_loop(self, run):
        before = {int(fd) for fd in os.listdir("/proc/self/fd")}
        inherited = {fd for fd in before if os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)}
        fds = set(run(report(close_fds=False))["fds"])
        own = {0, 1, 2, max(fds)}  # the listing's own is the newest
        assert fds - own <= inherited

    @pytest.mark.parametrize("option", [{"universal_newlines": True}, {"bufsize": 1}, {"text": True}])
    def test_what_asyncio_refuses(self, run, option):
        with pytest.raises(ValueError):
            run(report(**option))


class TestPipes:
    def test_stdio_are_pipes(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", REPORT, stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            out, _ = await process.communicate()
            return json.loads(out)["pipes"]

        pipes = run(main())
        # Up to 3.11 asyncio's own loop gives a socket for stdin.
        assert pipes[1:] == [True, True] and (pipes[0] or sys.version_info < (3, 12))

    def test_stdin_is_a_pipe_on_every_version(self, loop):
        async def main():
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", REPORT, stdin=PIPE, stdout=PIPE)
            out, _ = await process.communicate()
            return json.loads(out)["pipes"][0]

        assert loop.run_until_complete(main()) is True

    def test_a_megabyte_there_and_back_while_both_ends_are_full(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            blob = os.urandom(1 << 20)
            out, _ = await process.communicate(blob)
            return out == blob

        assert run(main()) is True

    def test_stderr_to_stdout_devnull_and_files(self, run, tmp_path):
        async def main():
            process = await asyncio.create_subprocess_shell(
                "echo out; echo err >&2", stdin=subprocess.DEVNULL, stdout=PIPE, stderr=subprocess.STDOUT
            )
            assert await process.communicate() == (b"out\nerr\n", None)
            with (tmp_path / "out").open("wb") as file:
                process = await asyncio.create_subprocess_shell("echo file", stdout=file)
                await process.wait()

        run(main())
        assert (tmp_path / "out").read_bytes() == b"file\n"


class TestEnds:
    def test_return_codes_and_signals(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec("sleep", "3600")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == -signal.SIGTERM
            with pytest.raises(ProcessLookupError):
                process.kill()
            shell = await asyncio.create_subprocess_shell("exit 7")
            assert await shell.wait() == 7 == shell.returncode

        run(main())

    def test_fifty_at_once_leave_no_zombie(self, run):
        async def main():
            processes = [await asyncio.create_subprocess_exec("true") for _ in range(50)]
            assert await asyncio.gather(*(process.wait() for process in processes)) == [0] * 50

        run(main())
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        assert [pid for pid in children if "(zombie)" in Path(f"/proc/{pid}/status").read_text()] == []

    def test_a_program_that_does_not_exist(self, run):
        async def main():
            with pytest.raises(FileNotFoundError):
                await asyncio.create_subprocess_exec("no-such-program", stdin=PIPE, stdout=PIPE)

        run(main())

    def test_the_end_is_noticed_although_a_grandchild_holds_the_pipe(self, run):
        async def main():
            process = await asyncio.create_subprocess_shell("sleep 3600 & echo $!", stdout=PIPE)
            grandchild = int(await process.stdout.readline())
            while process.returncode is None:
                await asyncio.sleep(0.001)
            os.kill(grandchild, signal.SIGKILL)
            await process.stdout.read()
            await process.wait()
            return process.returncode

        assert run(main()) == 0
