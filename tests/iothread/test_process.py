"""IOThreads at the edges of a process: fork, and the interpreter's exit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import warnings

import pytest

import aioqemu_loop

PATIENCE = 15.0


async def answer():
    return 42


def in_child(function):
    """Run it in a forked child; returns what it returned, as text."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, from 3.12 on: that is the point
        child = os.fork()
    if child == 0:
        try:
            os.write(write, str(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def refused(function):
    try:
        result = function()
    except RuntimeError as exc:
        return str(exc)
    return f"returned {result!r}"


def test_a_child_has_no_such_thread(iothread):
    text = "IOThread 'worker' was made in another process; its thread does not run here"
    assert in_child(lambda: refused(lambda: iothread.submit(answer()))) == text
    assert in_child(lambda: iothread.running) == "False"
    assert in_child(lambda: iothread.stop()) == "None"
    assert in_child(lambda: aioqemu_loop.run(came_to(iothread))) == text
    assert iothread.submit(answer()).result(PATIENCE) == 42


async def came_to(iothread):
    try:
        return await iothread.run(answer())
    except RuntimeError as exc:
        return exc


def test_a_child_can_have_its_own(iothread, fdmon):
    def use():
        with aioqemu_loop.IOThread("mine", fdmon=fdmon) as mine:
            return mine.submit(answer()).result(PATIENCE)

    assert in_child(use) == "42"


PRELUDE = """
    import asyncio, atexit, sys, threading
    import aioqemu_loop

    async def cleanup(name):
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            print("cleaned up", name, flush=True)

    begun = threading.Event()
    thread = aioqemu_loop.IOThread("disk", fdmon={fdmon!r})
"""


def run_program(fdmon, text):
    program = textwrap.dedent(PRELUDE.format(fdmon=fdmon)) + textwrap.dedent(text)
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    return result, time.monotonic() - started


def test_the_interpreter_ends_it_in_good_order(fdmon):
    result, _ = run_program(
        fdmon,
        """
        future = thread.submit(cleanup("task"))
        begun.wait()
        """,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "cleaned up task\n", "")


def test_the_executor_it_used_is_no_trouble_at_exit(fdmon):
    result, _ = run_program(
        fdmon,
        """
        async def use():
            return await asyncio.get_running_loop().run_in_executor(None, lambda: 42)

        print(thread.submit(use()).result())
        """,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "42\n", "")


def test_programs_own_exit_functions_can_still_use_it(fdmon):
    result, _ = run_program(
        fdmon,
        """
        async def answer():
            return 42

        atexit.register(lambda: print(thread.submit(answer()).result(), flush=True))
        """,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "42\n", "")


def test_an_exception_of_the_main_thread_is_not_held_up(fdmon):
    result, _ = run_program(fdmon, "raise SystemExit(3)")
    assert (result.returncode, result.stderr) == (3, "")


def test_one_that_never_ends_keeps_the_exit_only_for_a_while(fdmon):
    if fdmon != "epoll":
        pytest.skip("takes seconds, and has nothing to do with the monitor")
    result, took = run_program(
        fdmon,
        """
        async def block():
            begun.set()
            threading.Event().wait()

        future = thread.submit(block())
        begun.wait()
        """,
    )
    assert result.returncode == 0
    assert took < PATIENCE


def test_a_child_of_fork_exits_without_it(fdmon):
    result, _ = run_program(
        fdmon,
        """
        import os, warnings
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "7\n", "")


def test_exit_functions_that_run_in_one_leave_it_alone(fdmon):
    result, _ = run_program(
        fdmon,
        """
        other = aioqemu_loop.IOThread("other")

        async def run_exit_functions():
            atexit._run_exitfuncs()
            return thread.running, other.running

        print(thread.submit(run_exit_functions()).result(), flush=True)
        thread.stop()
        """,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "(True, False)\n", "")


def test_one_that_cannot_be_stopped_does_not_keep_the_others_from_it(fdmon):
    result, _ = run_program(
        fdmon,
        """
        others = [aioqemu_loop.IOThread("other") for _ in range(8)]  # the order in which they are stopped is any

        def refuse(*args, **options):
            raise RuntimeError("Event loop is closed")

        for other in others:
            other.submit(cleanup("task"))
            other.submit(asyncio.sleep(0)).result()  # the task has begun
        thread.loop.call_soon_threadsafe = refuse
        """,
    )
    assert (result.returncode, result.stdout.count("cleaned up"), result.stderr) == (0, 8, "")
