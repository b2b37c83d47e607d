"""GLib's sources inside our loop: precise timeouts, priorities, and whose main context it is."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import threading
import time

import pytest

import aioqemu_loop

from ..conftest import PATIENCE
from ..processor import undisturbed
from .helpers import ticking
from .real import GLib, glib


class TestRun:
    def test_both_ways(self, fdmon):
        async def main():
            ticks = []
            GLib.timeout_add(1, lambda: ticks.append(1) or len(ticks) < 3)
            while len(ticks) < 3:
                await asyncio.sleep(0.001)
            return asyncio.get_running_loop()

        for loop in (glib.run(main(), fdmon=fdmon), aioqemu_loop.run(main(), fdmon=fdmon, glib=True)):
            assert isinstance(loop, glib.HostLoop)
            assert loop.fdmon == fdmon
            assert loop.is_closed()

    def test_debug(self, fdmon):
        async def main():
            return asyncio.get_running_loop().get_debug()

        assert glib.run(main(), fdmon=fdmon, debug=True)

    def test_another_main_context(self, fdmon):
        context = GLib.MainContext.new()

        async def main():
            came = asyncio.get_running_loop().create_future()
            source = GLib.timeout_source_new(1)
            source.set_callback(lambda *_: came.set_result("of the other context"))
            source.attach(context)
            return await came

        assert glib.run(main(), fdmon=fdmon, main_context=context) == "of the other context"

    def test_in_several_threads_at_once(self, fdmon, in_thread):
        async def main():
            for _ in range(100):
                await asyncio.sleep(0.0001)
            return threading.get_ident()

        joins = [
            in_thread(lambda: glib.run(main(), fdmon=fdmon, main_context=GLib.MainContext.new())) for _ in range(4)
        ]
        assert len({join() for join in joins}) == 4


class TestSources:
    def test_a_timeout_fires_on_time_and_often(self, host_loop):
        async def main():
            began = undisturbed()
            with ticking(2) as moments:
                while len(moments) < 100:
                    await asyncio.sleep(0.01)
            assert moments[99] - began >= 0.2
            return statistics.median(b - a for a, b in itertools.pairwise(moments))

        assert host_loop.run_until_complete(main()) < 0.003

    def test_idles_go_on_while_the_loop_sleeps(self, host_loop):
        rounds = []

        async def main():
            GLib.idle_add(lambda: rounds.append(1) or len(rounds) < 1000)
            while len(rounds) < 1000:
                await asyncio.sleep(0.001)

        host_loop.run_until_complete(main())

    def test_an_io_watch(self, host_loop):
        read_end, write_end = os.pipe()
        came = []

        def readable(*_):
            came.append(os.read(read_end, 10))
            os.write(write_end, b"x")
            return len(came) < 500

        async def main():
            GLib.io_add_watch(read_end, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, readable)
            os.write(write_end, b"x")
            while len(came) < 500:
                await asyncio.sleep(0.001)

        host_loop.run_until_complete(main())
        os.close(read_end)
        os.close(write_end)

    def test_a_child_watch(self, host_loop):
        async def main():
            pid, *_ = GLib.spawn_async(
                ["/bin/sh", "-c", "exit 3"], flags=GLib.SpawnFlags.DO_NOT_REAP_CHILD | GLib.SpawnFlags.SEARCH_PATH
            )
            ended = host_loop.create_future()
            GLib.child_watch_add(GLib.PRIORITY_DEFAULT, pid, lambda pid, status: ended.set_result(status))
            return os.waitstatus_to_exitcode(await asyncio.wait_for(ended, PATIENCE))

        assert host_loop.run_until_complete(main()) == 3

    def test_many_fds(self, host_loop):
        """More than the array of poll records begins with."""
        pipes = [os.pipe() for _ in range(150)]
        came = set()

        def readable(fd, *_):
            os.read(fd, 1)
            came.add(fd)
            return False

        async def main():
            for read_end, write_end in pipes:
                GLib.io_add_watch(read_end, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, readable)
                os.write(write_end, b"x")
            while len(came) < len(pipes):
                await asyncio.sleep(0.001)

        host_loop.run_until_complete(main())
        for ends in pipes:
            for fd in ends:
                os.close(fd)

    def test_priorities(self, host_loop):
        order = []

        async def main():
            ended = host_loop.create_future()
            for name, priority in (
                ("low", GLib.PRIORITY_LOW),
                ("idle", GLib.PRIORITY_DEFAULT_IDLE),
                ("high", GLib.PRIORITY_HIGH),
            ):
                source = GLib.idle_source_new()
                source.set_priority(priority)
                source.set_callback(
                    lambda *_, name=name: order.append(name) or (name == "low" and ended.set_result(None))
                )
                source.attach()
            # The loop is at the default priority.
            host_loop.call_later(0, lambda: order.append("loop"))
            await ended

        host_loop.run_until_complete(main())
        assert order == ["high", "loop", "idle", "low"]

    def test_callbacks_of_glib_see_the_running_loop(self, host_loop):
        async def answer():
            await asyncio.sleep(0)
            return "answer"

        async def main():
            tasks = host_loop.create_future()

            def clicked():
                assert asyncio.get_running_loop() is host_loop
                tasks.set_result((glib.create_task(answer()), asyncio.ensure_future(answer())))

            GLib.idle_add(clicked)
            return await asyncio.gather(*(await tasks))

        assert host_loop.run_until_complete(main()) == ["answer", "answer"]

    def test_stop_in_a_callback_of_glib(self, host_loop):
        ran = []

        def stop():
            host_loop.call_soon(ran.append, 1)
            host_loop.stop()

        GLib.idle_add(stop)
        host_loop.run_forever()
        assert ran == [1]
        host_loop.run_until_complete(asyncio.sleep(0))

    def test_what_fails_in_glib_is_shown_and_all_goes_on(self, host_loop, shown):
        GLib.idle_add(lambda: 1 / 0)
        host_loop.run_until_complete(asyncio.sleep(0.005))
        assert [type(exc) for exc in shown] == [ZeroDivisionError]
        shown.clear()

    def test_sources_are_left_alone_between_runs(self, host_loop):
        ran = []
        GLib.idle_add(lambda: ran.append(1))
        assert not ran
        host_loop.run_until_complete(asyncio.sleep(0.002))
        assert ran == [1]


class TestTiming:
    def test_a_sleep_of_less_than_a_millisecond(self, host_loop):
        """GLib's own timeouts are in ms."""

        async def main():
            took = []
            for _ in range(50):
                begin = time.monotonic(), undisturbed()
                await asyncio.sleep(0.0002)
                took.append(undisturbed() - begin[1])
                assert time.monotonic() - begin[0] >= 0.0002
            return took

        assert statistics.median(host_loop.run_until_complete(main())) < 0.0008

    def test_it_sleeps_where_there_is_nothing_to_do(self, host_loop):
        async def main():
            before = time.process_time()
            await asyncio.sleep(0.3)
            return time.process_time() - before

        assert host_loop.run_until_complete(main()) < 0.1


class TestErrors:
    def test_a_context_that_another_thread_runs(self, host_loop, new_main, in_thread):
        context = GLib.MainContext.new()
        other = new_main(context)
        running = threading.Event()
        source = GLib.idle_source_new()
        source.set_callback(lambda *_: running.set())
        source.attach(context)
        join = in_thread(other.run)
        assert running.wait(PATIENCE)
        loop = glib.new_event_loop(main_context=context)
        with pytest.raises(RuntimeError, match="another thread"):
            loop.run_forever()
        assert not loop.is_running()
        other.quit()
        join()
        assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
        loop.close()

    def test_what_is_no_context(self, no_leaks):
        with pytest.raises(TypeError, match=r"GLib\.MainContext"):
            glib.new_event_loop(main_context="default")

    def test_a_running_loop(self, host_loop):
        async def main():
            with pytest.raises(RuntimeError, match="already running"):
                host_loop.run_forever()
            other = glib.new_event_loop()
            with pytest.raises(RuntimeError, match="another loop"):
                other.run_forever()
            other.close()
            with pytest.raises(RuntimeError):
                host_loop.close()
            return "unharmed"

        assert host_loop.run_until_complete(main()) == "unharmed"

    def test_a_closed_loop(self, host_loop):
        host_loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            host_loop.run_forever()
