"""Subprocesses: how they are run, talked to and waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

from tools.compatibility.peers import folder, kind, raised, raised_by
from tools.compatibility.registry import topic

probe = topic("Subprocesses")
PIPE = subprocess.PIPE


class Process(asyncio.SubprocessProtocol):
    def __init__(self):
        self.calls, self.data = [], {1: b"", 2: b""}
        self.exited = asyncio.get_running_loop().create_future()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("connection_made")

    def pipe_data_received(self, fd, data):
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(f"pipe_connection_lost {fd}")

    def process_exited(self):
        self.calls.append("process_exited")
        self.exited.set_result(self.transport.get_returncode())

    def connection_lost(self, exc):
        self.calls.append("connection_lost")
        self.lost.set_result(exc)


async def output(*command, **keywords):
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, **keywords)
    return (await process.communicate())[0]


@probe("create_subprocess_exec: communicate, returncode, pid")
async def communicate():
    command = ("sh", "-c", "cat; echo e >&2; exit 3")
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.pid > 0 and process.returncode is None
    assert await process.communicate(b"hello") == (b"hello", b"e\n")
    assert process.returncode == 3 and await process.wait() == 3


@probe("create_subprocess_shell")
async def shell():
    process = await asyncio.create_subprocess_shell("echo $((40 + 2)) | cat", stdout=PIPE)
    assert (await process.communicate())[0] == b"42\n"


@probe("streams: write to stdin line by line, read answers")
async def streams():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    for line in (b"one\n", b"two\n"):
        process.stdin.write(line)
        await process.stdin.drain()
        assert await process.stdout.readline() == line
    process.stdin.close()
    assert await process.stdout.read() == b"" and await process.wait() == 0


@probe("4 MiB in and out")
async def large():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    data = bytes(range(256)) * (1 << 14)
    assert (await process.communicate(data))[0] == data


@probe("subprocess_exec with a SubprocessProtocol: calls, their order, get_pid, get_returncode")
async def protocol():
    loop = asyncio.get_running_loop()
    transport, process = await loop.subprocess_exec(Process, "sh", "-c", "read x; echo $x; echo e >&2")
    assert transport.get_pid() > 0 and transport.get_returncode() is None
    transport.get_pipe_transport(0).write(b"hello\n")
    assert await asyncio.wait_for(process.lost, 5) is None
    assert process.data == {1: b"hello\n", 2: b"e\n"} and transport.get_returncode() == 0
    assert process.calls[0] == "connection_made" and process.calls[-1] == "connection_lost"
    assert set(process.calls[1:-1]) >= {"pipe_connection_lost 1", "pipe_connection_lost 2", "process_exited"}
    transport.close()


@probe("subprocess_shell with a SubprocessProtocol")
async def shell_protocol():
    transport, process = await asyncio.get_running_loop().subprocess_shell(Process, "echo out; exit 7", stdin=None)
    assert await asyncio.wait_for(process.exited, 5) == 7
    await process.lost
    assert process.data[1] == b"out\n"
    transport.close()


@probe("a subprocess transport is an asyncio.SubprocessTransport; its Popen is get_extra_info('subprocess')")
async def transport_type():
    transport, process = await asyncio.get_running_loop().subprocess_exec(Process, "true")
    assert isinstance(transport, asyncio.SubprocessTransport), kind(transport)
    popen = transport.get_extra_info("subprocess")
    assert isinstance(popen, subprocess.Popen) and popen.pid == transport.get_pid(), kind(popen)
    await process.lost
    transport.close()


@probe("terminate, kill, send_signal: a negative return code")
async def signals():
    for name, number in (("terminate", 15), ("kill", 9), ("send_signal", 10)):
        process = await asyncio.create_subprocess_exec("sleep", "60")
        getattr(process, name)(*([10] if name == "send_signal" else []))
        assert await process.wait() == -number


@probe("transport.terminate, kill, send_signal")
async def transport_signals():
    loop = asyncio.get_running_loop()
    for number, act in (
        (15, lambda transport: transport.terminate()),
        (9, lambda transport: transport.kill()),
        (10, lambda transport: transport.send_signal(signal.SIGUSR1)),
    ):
        transport, process = await loop.subprocess_exec(Process, "sleep", "60")
        act(transport)
        assert await asyncio.wait_for(process.exited, 5) == -number
        transport.close()


@probe("a signal for a process that has ended raises ProcessLookupError")
async def signal_after_end():
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    await asyncio.sleep(0.01)
    raised(ProcessLookupError, process.kill)


@probe("transport.close kills a running process")
async def close_kills():
    transport, process = await asyncio.get_running_loop().subprocess_exec(Process, "sleep", "60")
    transport.close()
    transport.close()
    assert await asyncio.wait_for(process.exited, 5) == -9


@probe("no zombie is left; nobody else's children are reaped")
async def zombies():
    own = subprocess.Popen(["sh", "-c", "exit 5"])
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    await asyncio.sleep(0.02)
    raised(ChildProcessError, os.waitpid, process.pid, 0)
    assert own.wait() == 5, "another's child was reaped"


@probe("30 processes at once")
async def many():
    async def one(number):
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {number}")
        return await process.wait()

    assert await asyncio.gather(*map(one, range(30))) == list(range(30))


@probe("wait can be cancelled and repeated")
async def cancelled_wait():
    process = await asyncio.create_subprocess_exec("sleep", "60")
    await raised_by((asyncio.TimeoutError, TimeoutError), asyncio.wait_for(process.wait(), 0.02))
    process.kill()
    assert await process.wait() == -9 == await process.wait()


@probe("a program that does not exist raises FileNotFoundError; what cannot be run PermissionError")
async def missing():
    with folder() as where:
        await raised_by(FileNotFoundError, asyncio.create_subprocess_exec(where / "none"))
        (where / "file").write_text("text")
        await raised_by(PermissionError, asyncio.create_subprocess_exec(where / "file"))


@probe("text=, universal_newlines=, encoding=, bufsize= raise ValueError")
async def text():
    for keywords in ({"text": True}, {"universal_newlines": True}, {"encoding": "utf-8"}, {"bufsize": 5}):
        await raised_by(ValueError, asyncio.create_subprocess_exec("true", **keywords))
    await raised_by(ValueError, asyncio.get_running_loop().subprocess_exec(Process, "true", shell=True))


@probe("a loop in another thread can run subprocesses")
def other_thread(make_loop):
    results = []

    def work():
        loop = make_loop()
        results.append(loop.run_until_complete(output("echo", "hello")))
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(6)
    assert results == [b"hello\n"], "does not end"


@probe("a child that closes its stdout early, or never reads stdin")
async def odd_children():
    assert await output("sh", "-c", "exec >&-; sleep 0.02") == b""
    process = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    assert (await process.communicate(bytes(1 << 20)))[0] == b""


@probe("stdin, stdout and stderr of the child are pipes", promised=False)
async def real_pipes():
    code = "import os, stat; print(*[int(stat.S_ISFIFO(os.fstat(fd).st_mode)) for fd in range(3)])"
    command = (sys.executable, "-S", "-c", code)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    stdin, stdout, stderr = map(int, (await process.communicate())[0].split())
    assert stdout and stderr and (stdin or sys.version_info < (3, 12)), f"{stdin} {stdout} {stderr}"
