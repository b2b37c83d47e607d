"""Every keyword of subprocess.Popen that asyncio passes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

from tools.compatibility.peers import folder, raised_by
from tools.compatibility.registry import CannotTell, topic

probe = topic("Popen keywords")


async def ask(code, **keywords):
    """What a Python child prints, stripped."""
    keywords = {"stdout": subprocess.PIPE, **keywords}
    process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", f"import os, sys; {code}", **keywords)
    return (await process.communicate())[0].decode().strip()


async def identity(option, **keywords):
    """What id(1) prints for a child that runs as somebody else."""
    if os.getuid() != 0:
        raise CannotTell("needs root")
    process = await asyncio.create_subprocess_exec("id", option, stdout=subprocess.PIPE, **keywords)
    return (await process.communicate())[0].decode().strip()


@probe("cwd=, env=")
async def cwd():
    with folder() as where:
        assert await ask("print(os.getcwd(), os.environ['X'])", cwd=where, env={"X": "y"}) == f"{where.resolve()} y"


@probe("executable=")
async def executable():
    process = await asyncio.create_subprocess_exec(
        "name", "-c", "echo $0", executable="/bin/sh", stdout=subprocess.PIPE
    )
    assert (await process.communicate())[0] == b"name\n"


@probe("stdin=DEVNULL, stderr=STDOUT")
async def devnull():
    code = "print(repr(sys.stdin.read())); sys.stdout.flush(); print('e', file=sys.stderr)"
    assert await ask(code, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) == "''\ne"


@probe("stdin=, stdout= as files and fds")
async def files():
    with folder() as where, open(where / "file", "w+b", 0) as file:
        process = await asyncio.create_subprocess_exec("echo", "hello", stdout=file)
        await process.wait()
        file.seek(0)
        process = await asyncio.create_subprocess_exec("cat", stdin=file.fileno(), stdout=subprocess.PIPE)
        assert (await process.communicate())[0] == b"hello\n"


@probe("user=")
async def user():
    assert await identity("-u", user=65534) == "65534"


@probe("group=")
async def group():
    assert await identity("-g", group=65534) == "65534"


@probe("extra_groups=")
async def extra_groups():
    assert await identity("-G", extra_groups=[65534]) == "0 65534"


@probe("umask=")
async def umask():
    assert await ask("print(oct(os.umask(0)))", umask=0o123) == "0o123"


@probe("process_group=", since=(3, 11))
async def process_group():
    assert await ask("print(os.getpgid(0) == os.getpid())", process_group=0) == "True"


@probe("start_new_session=")
async def start_new_session():
    assert await ask("print(os.getsid(0) == os.getpid())", start_new_session=True) == "True"


@probe("pipesize=")
async def pipesize():
    code = "import fcntl; print(fcntl.fcntl(1, fcntl.F_GETPIPE_SZ))"
    assert await ask(code, pipesize=8192) == "8192"


@probe("preexec_fn=, and its exception as SubprocessError")
async def preexec():
    assert await ask("print(os.umask(0))", preexec_fn=lambda: os.umask(0o12)) == "10"

    def fail():
        raise LookupError

    await raised_by(subprocess.SubprocessError, ask("", preexec_fn=fail))


@probe("close_fds=False keeps inheritable fds open; by default none is")
async def close_fds():
    readable, _ = os.pipe()
    os.set_inheritable(readable, True)
    code = f"print(os.path.exists('/proc/self/fd/{readable}'))"
    assert await ask(code, close_fds=False) == "True"
    assert await ask(code) == "False"


@probe("pass_fds=")
async def pass_fds():
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    assert await ask(f"print(os.write({writable}, b'hello'))", pass_fds=[writable]) == "5"
    assert os.read(readable, 100) == b"hello"


@probe("restore_signals=")
async def restore_signals():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for keywords, kept in (({}, False), ({"restore_signals": False}, True)):
        process = await asyncio.create_subprocess_exec(
            "grep", "SigIgn", "/proc/self/status", stdout=subprocess.PIPE, **keywords
        )
        ignored = int((await process.communicate())[0].split()[1], 16)
        assert bool(ignored >> (signal.SIGXFSZ - 1) & 1) is kept, f"{keywords or 'default'}: SIGXFSZ {ignored:x}"
