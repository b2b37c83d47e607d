"""Signals while GLib sleeps, Ctrl-C, and SystemExit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from ..conftest import PATIENCE
from .real import GLib, glib


def send_soon(number=signal.SIGUSR1, seconds=0.02):
    """To the process, by a thread: the main one sleeps in poll by then."""
    threading.Timer(seconds, os.kill, [os.getpid(), number]).start()


@pytest.fixture
def script():
    """script(text): run it in another Python; its completed process."""

    def run(text, *args):
        return subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(text), *args],
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    return run


class TestHandlers:
    def test_while_it_sleeps(self, any_loop, run):
        async def main():
            for _ in range(5):
                came = any_loop.create_future()
                any_loop.add_signal_handler(signal.SIGUSR1, came.set_result, "came")
                send_soon()
                assert await came == "came"
                assert any_loop.remove_signal_handler(signal.SIGUSR1)

        run(main())

    def test_added_before_the_main_loop_runs(self, guest_loop, main):
        """MainLoop.run() puts a wake-up fd of PyGObject's in the place of the loop's."""
        with glib.attach(guest_loop):
            came = []
            guest_loop.add_signal_handler(signal.SIGUSR1, lambda: came.append(1) or main.quit())
            for number in range(1, 4):
                send_soon()
                main.run()
                assert len(came) == number
            guest_loop.remove_signal_handler(signal.SIGUSR1)

    def test_added_inside_and_kept(self, guest_loop, main):
        came = []

        async def add():
            guest_loop.add_signal_handler(signal.SIGUSR1, lambda: came.append(1) or main.quit())

        with glib.attach(guest_loop):
            main.run_task(guest_loop, add())
            for number in range(1, 4):
                send_soon()
                main.run()
                assert len(came) == number
        guest_loop.run_until_complete(asyncio.sleep(0))
        os.kill(os.getpid(), signal.SIGUSR1)
        guest_loop.run_until_complete(asyncio.sleep(0.001))
        assert len(came) == 4

    def test_plain_python_handlers_run_while_glib_sleeps(self, any_loop, run):
        async def main():
            came = any_loop.create_future()
            old = signal.signal(signal.SIGUSR1, lambda *_: any_loop.call_soon_threadsafe(came.set_result, 1))
            send_soon()
            try:
                return await came
            finally:
                signal.signal(signal.SIGUSR1, old)

        assert run(main()) == 1

    def test_a_loop_that_is_closed_inside_the_main_loop(self, guest_loop, main):
        """PyGObject puts back, at the end of run(), the wake-up fd that it found."""
        old = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(old)
        guest = glib.attach(guest_loop)

        def end(*_):
            guest.detach()
            guest_loop.close()
            main.quit()

        GLib.idle_add(end)
        main.run()
        assert signal.set_wakeup_fd(old) == old


CTRL_C = """
    import asyncio, os, signal, sys, threading
    import aioqemu_loop
    from aioqemu_loop import glib
    from gi.repository import GLib

    fdmon = sys.argv[1]
    def soon(): threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
"""


class TestCtrlC:
    def test_comes_out_of_run_of_a_host(self, script, fdmon):
        result = script(
            CTRL_C
            + """
    async def main():
        soon()
        try:
            await asyncio.sleep(30)
        finally:
            print("cleaned up")
    try:
        aioqemu_loop.run(main(), glib=True, fdmon=fdmon)
    except KeyboardInterrupt:
        print("interrupted")
    """,
            fdmon,
        )
        assert result.stdout.split("\n")[:2] == ["cleaned up", "interrupted"], result.stderr

    @pytest.mark.parametrize("where", ["asleep", "in a callback", "in a nested loop"])
    def test_comes_out_of_run_forever_of_a_host(self, script, fdmon, where):
        result = script(
            CTRL_C
            + """
    loop = glib.new_event_loop(fdmon=fdmon)
    def spin():
        soon()
        while True: pass
    def nest():
        soon()
        GLib.MainLoop().run()
    if sys.argv[2] == "asleep": soon()
    else: loop.call_soon(spin if sys.argv[2] == "in a callback" else nest)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        print("interrupted", loop.is_running())
    loop.close()
    """,
            fdmon,
            where,
        )
        assert result.stdout == "interrupted False\n", result.stderr

    def test_quits_the_main_loop_of_a_guest(self, script, fdmon):
        result = script(
            CTRL_C
            + """
    loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
    with glib.attach(loop):
        soon()
        try:
            GLib.MainLoop().run()
        except KeyboardInterrupt:
            print("interrupted")
        task = loop.create_task(asyncio.sleep(0.001, "goes on"))
        while not task.done():
            GLib.MainContext.default().iteration(True)
        print(task.result())
    loop.close()
    """,
            fdmon,
        )
        assert result.stdout == "interrupted\ngoes on\n", result.stderr


class TestSystemExit:
    def test_comes_out_of_run_of_a_host(self, fdmon, no_leaks, shown):
        cleaned = []

        async def main():
            try:
                asyncio.get_running_loop().call_soon(sys.exit, 7)
                await asyncio.sleep(PATIENCE)
            finally:
                cleaned.append(True)

        async def exiting():
            sys.exit(8)

        with pytest.raises(SystemExit) as exit:
            glib.run(main(), fdmon=fdmon)
        assert exit.value.code == 7
        assert cleaned
        with pytest.raises(SystemExit) as exit:
            glib.run(exiting(), fdmon=fdmon)
        assert exit.value.code == 8

    def test_ends_the_process_of_a_guest(self, script, fdmon):
        result = script(
            CTRL_C
            + """
    loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
    glib.attach(loop)
    loop.call_soon(sys.exit, 7)
    GLib.MainLoop().run()
    """,
            fdmon,
        )
        assert result.returncode == 7, result.stderr
