"""Misuse: a typed error, and nothing has changed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading

import pytest

import aioqemu_loop

from ..conftest import PATIENCE
from .real import GLib, glib


def unharmed(loop):
    assert not loop.is_running()
    return loop.run_until_complete(asyncio.sleep(0, True))


class TestAttach:
    def test_twice(self, guest_loop, main):
        with glib.attach(guest_loop):
            with pytest.raises(RuntimeError, match="attached to this"):
                glib.attach(guest_loop)
            with pytest.raises(RuntimeError, match="driven by another"):
                glib.attach(guest_loop, GLib.MainContext.new())
            assert main.run_task(guest_loop, asyncio.sleep(0.001, 1)) == 1
        assert unharmed(guest_loop)

    def test_another_loop_to_the_same_context(self, guest_loop, main, fdmon):
        other = aioqemu_loop.new_event_loop(fdmon=fdmon)
        with glib.attach(guest_loop):
            with pytest.raises(RuntimeError, match="attached to this"):
                glib.attach(other)
            assert main.run_task(guest_loop, asyncio.sleep(0.001, 1)) == 1
        assert other.fdmon == fdmon
        assert unharmed(other)
        other.close()

    def test_a_running_loop(self, fdmon, no_leaks):
        async def main():
            loop = asyncio.get_running_loop()
            with pytest.raises(RuntimeError, match="running"):
                glib.attach(loop)
            with pytest.raises(RuntimeError, match="running"):
                loop.use_g_source()
            assert loop.fdmon == fdmon
            return await asyncio.sleep(0.001, "unharmed")

        assert aioqemu_loop.run(main(), fdmon=fdmon) == "unharmed"

    def test_while_it_is_attached(self, guest_loop, main):
        async def refused():
            with pytest.raises(RuntimeError, match="running"):
                guest_loop.use_g_source()
            with pytest.raises(RuntimeError, match="running"):
                guest_loop.close()
            with pytest.raises(RuntimeError, match="running"):
                guest_loop.run_forever()
            return "unharmed"

        with glib.attach(guest_loop):
            with pytest.raises(RuntimeError, match="running"):
                guest_loop.close()
            assert main.run_task(guest_loop, refused()) == "unharmed"

    def test_a_closed_loop(self, fdmon, no_leaks):
        loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            glib.attach(loop)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"main_context": "default"},
            {"main_context": []},
            {"priority": "high"},
            {"priority": 1 << 40},
            {"on_stop": 1},
        ],
        ids=str,
    )
    def test_what_is_of_the_wrong_type(self, fdmon, no_leaks, arguments):
        loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
        with pytest.raises(TypeError):
            glib.attach(loop, **arguments)
        assert loop.fdmon == fdmon
        assert unharmed(loop)
        loop.close()

    def test_what_is_no_loop_of_ours(self, no_leaks):
        loop = asyncio.SelectorEventLoop()
        with pytest.raises(TypeError, match="aioqemu_loop"):
            glib.attach(loop)
        loop.close()


class TestCreateTask:
    async def nothing(self):
        pass

    def test_where_no_loop_is_attached(self):
        with pytest.raises(RuntimeError, match="no loop"):
            glib.create_task(self.nothing())

    def test_in_another_thread_than_the_guests(self, guest_loop, main, in_thread):
        """The loop would not notice, and is not made for it."""
        with glib.attach(guest_loop):
            with pytest.raises(RuntimeError, match="no loop"):
                in_thread(lambda: glib.create_task(self.nothing()))()
            assert main.run_task(guest_loop, asyncio.sleep(0, 1)) == 1

    def test_outside_the_main_loop(self, guest_loop, main):
        with glib.attach(guest_loop):
            task = glib.create_task(asyncio.sleep(0.001, 1), loop=guest_loop)
            task.add_done_callback(lambda _: main.quit())
            main.run()
            assert task.result() == 1


class TestDriving:
    def test_by_another_thread_in_between(self, guest_loop, in_thread):
        """While the loop's callbacks run, nobody else may dispatch it: GLib lets one thread iterate a context."""
        context = GLib.MainContext.new()
        inside, leave = threading.Event(), threading.Event()
        guest = glib.attach(guest_loop, context)
        guest_loop.call_soon(lambda: (inside.set(), leave.wait(PATIENCE)))
        join = in_thread(lambda: context.iteration(True))
        assert inside.wait(PATIENCE)
        assert not context.acquire()
        leave.set()
        join()
        guest.detach()
        assert unharmed(guest_loop)


class TestMissing:
    @pytest.mark.parametrize(
        "use",
        [
            "from aioqemu_loop import glib",
            "import aioqemu_loop.glib",
            "aioqemu_loop.run(main, glib=True)",
        ],
    )
    def test_pygobject_is_missing(self, use):
        script = f"""
            import sys
            sys.modules["gi"] = None
            import aioqemu_loop
            main = None
            try:
                {use}
            except ImportError as exc:
                print(exc)
            """
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
        )
        assert "pip install PyGObject" in result.stdout, result.stderr

    def test_nothing_of_glib_is_loaded_where_nobody_asks_for_it(self):
        script = "import aioqemu_loop, sys; print([name for name in sys.modules if name == 'gi' or 'glib' in name])"
        assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"
