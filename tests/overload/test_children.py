"""SIGCHLD storms: many children that end at the same moment, of the loop's and of others."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess

import pytest


@pytest.fixture
def count(times):
    return 60 * times


def test_all_end_at_once(any_loop, run, count, no_children):
    """Each has its own status, and the loop reaps none that is not its own."""
    codes = [number % 250 for number in range(count)]

    async def main():
        reading, writing = os.pipe()

        def command(code):
            return ["sh", "-c", f"read line; exit {code}"]

        own = [subprocess.Popen(command(code), stdin=reading) for code in codes]
        spawned = [
            os.posix_spawn("/bin/sh", command(code), os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)])
            for code in codes[: count // 4]
        ]
        ours = [await asyncio.create_subprocess_exec(*command(code), stdin=reading) for code in codes]
        os.close(reading)
        waiting = [asyncio.ensure_future(process.wait()) for process in ours]
        await asyncio.sleep(0)
        os.close(writing)  # what they all wait for
        assert await asyncio.gather(*waiting) == codes
        for process, code in zip(own, codes, strict=True):
            assert process.wait(20) == code
        for pid, code in zip(spawned, codes, strict=False):
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code

    run(main())


def test_with_a_handler_for_sigchld(any_loop, run, count, no_children):
    """The program's own handler may be called once for many, but is not left out."""

    async def main():
        called = asyncio.Event()
        any_loop.add_signal_handler(signal.SIGCHLD, called.set)
        processes = [await asyncio.create_subprocess_exec("sleep", "1000") for _ in range(count)]
        for process in processes:
            process.kill()
        ends = await asyncio.gather(*(process.wait() for process in processes))
        assert ends == [-signal.SIGKILL] * count
        await called.wait()
        any_loop.remove_signal_handler(signal.SIGCHLD)

    run(main())
