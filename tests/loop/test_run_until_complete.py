"""run_until_complete and run_forever: futures of others, stops, exits in the middle, interrupts from outside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap

import pytest

import aioqemu_loop


class TestFutures:
    def test_one_of_another_loop_is_refused(self, any_loop, any_factory):
        other = any_factory()
        try:
            with pytest.raises(ValueError, match="The future belongs to a different loop"):
                any_loop.run_until_complete(other.create_future())
        finally:
            other.close()
        assert any_loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"

    def test_one_that_is_cancelled(self, any_loop):
        future = any_loop.create_future()
        any_loop.call_soon(future.cancel)
        with pytest.raises(asyncio.CancelledError):
            any_loop.run_until_complete(future)

    def test_a_task_that_cancels_itself(self, any_loop):
        async def main():
            asyncio.current_task().cancel()
            await asyncio.sleep(3600)

        with pytest.raises(asyncio.CancelledError):
            any_loop.run_until_complete(main())

    def test_an_awaitable_of_the_programs_own(self, any_loop):
        class Awaitable:
            def __await__(self):
                yield
                return "result"

        assert any_loop.run_until_complete(Awaitable()) == "result"

    def test_one_done_already_costs_one_turn(self, any_loop):
        ran = []
        future = any_loop.create_future()
        future.set_result(1)
        any_loop.call_soon(ran.append, "queued before")
        assert any_loop.run_until_complete(future) == 1
        assert ran == ["queued before"]

    def test_stop_while_a_coroutine_runs(self, any_loop):
        steps = []

        async def main():
            steps.append("begun")
            any_loop.stop()
            await asyncio.sleep(0)
            steps.append("ended")

        task = any_loop.create_task(main())
        with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
            any_loop.run_until_complete(task)
        assert steps == ["begun"]
        any_loop.run_until_complete(task)
        assert steps == ["begun", "ended"]

    def test_stop_in_the_very_turn_in_which_it_is_done(self, any_loop, turn):
        async def main():
            any_loop.stop()
            return "result"

        assert any_loop.run_until_complete(main()) == "result"
        turn(any_loop)  # the future's own call of stop() is queued still

    def test_the_callback_that_stops_the_run_is_gone_after_it(self, any_loop):
        """Else the future's end would stop a later run that is not its own."""
        future = any_loop.create_future()
        any_loop.call_soon(any_loop.stop)
        with pytest.raises(RuntimeError):
            any_loop.run_until_complete(future)

        async def main():
            future.set_result(None)
            for _ in range(5):
                await asyncio.sleep(0)
            return "to the end"

        assert any_loop.run_until_complete(main()) == "to the end"

    def test_an_exception_is_retrieved_although_the_task_is_not_kept(self, any_loop, errors):
        async def main():
            raise LookupError

        with pytest.raises(LookupError):
            any_loop.run_until_complete(main())
        gc.collect()
        assert errors == []

    def test_a_closed_loop_leaves_no_coroutine_that_was_never_awaited(self, any_loop):
        any_loop.close()
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            any_loop.run_until_complete(coroutine)
        coroutine.close()


class TestExits:
    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_of_the_task_itself(self, any_loop, kind):
        """The exception is the task's, and comes out once; nothing is logged about it later."""

        async def main():
            raise kind("inside")

        task = any_loop.create_task(main())
        with pytest.raises(kind, match="inside"):
            any_loop.run_until_complete(task)
        assert isinstance(task.exception(), kind)
        assert any_loop.run_until_complete(asyncio.sleep(0, "again")) == "again"

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_of_another_callback_leave_the_task_pending(self, any_loop, kind):
        def leave():
            raise kind("outside")

        async def main():
            any_loop.call_soon(leave)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return "result"

        task = any_loop.create_task(main())
        with pytest.raises(kind, match="outside"):
            any_loop.run_until_complete(task)
        assert not task.done()
        assert any_loop.run_until_complete(task) == "result"

    def test_an_exit_that_a_task_catches_is_none(self, any_loop):
        async def main():
            with contextlib.suppress(KeyboardInterrupt):
                raise KeyboardInterrupt
            return "result"

        assert any_loop.run_until_complete(main()) == "result"


# Says "idle" when the loop is about to sleep for ever, then tells how it ended.
IDLE = """
import asyncio, sys, aioqemu_loop

async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, print, "idle")
    sys.stdout.reconfigure(line_buffering=True)
    try:
        await loop.create_future()
    except asyncio.CancelledError:
        print("cancelled")
        raise
    finally:
        await asyncio.sleep(0)
        print("cleaned up")

try:
    {run}
except KeyboardInterrupt:
    print("interrupted")
"""
RUNS = {
    "run": "aioqemu_loop.run(main(), fdmon={fdmon!r})",
    "runner": (
        "with asyncio.Runner(loop_factory=lambda: aioqemu_loop.new_event_loop(fdmon={fdmon!r})) as runner: "
        "runner.run(main())"
    ),
    "stdlib": "asyncio.run(main())",
}


@pytest.fixture
def idle_child(no_leaks):
    """idle_child(how, fdmon): (Popen, first line) of a program that runs IDLE."""
    started = []

    def start(how, fdmon=""):
        code = textwrap.dedent(IDLE).format(run=RUNS[how].format(fdmon=fdmon))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        started.append(child)
        return child, child.stdout.readline()

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", ["run", "runner"])
class TestCtrlC:
    def skip_310(self, how):
        if how == "runner" and sys.version_info < (3, 11):
            pytest.skip("asyncio.Runner came with 3.11")

    def test_a_real_one_ends_an_idle_program_as_it_ends_the_stdlibs(self, idle_child, fdmon, how):
        self.skip_310(how)
        ends = []
        for arguments in ((how, fdmon), ("stdlib",)):
            child, line = idle_child(*arguments)
            assert line == "idle\n"
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=20)
            ends.append((out, child.returncode))
        assert ends[0] == ends[1]
        assert ends[0] == ("cancelled\ncleaned up\ninterrupted\n", 0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner came with 3.11")
class TestRunner:
    def test_runs_again_in_the_same_loop_and_context(self, any_factory, no_leaks):
        with asyncio.Runner(loop_factory=any_factory) as runner:
            loops = [runner.run(self.loop()) for _ in range(3)]
            assert set(loops) == {runner.get_loop()}
        assert loops[0].is_closed()

    @staticmethod
    async def loop():
        return asyncio.get_running_loop()

    def test_what_is_left_running_is_cancelled_at_the_end(self, any_factory, no_leaks):
        ends = []

        async def left_over():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ends.append("finally")

        async def main():
            ends.append(asyncio.create_task(left_over()))
            await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=any_factory) as runner:
            runner.run(main())
        assert ends[1:] == ["finally"] and ends[0].cancelled()

    def test_debug_is_the_runners(self, any_factory, no_leaks):
        for debug in (True, False):
            with asyncio.Runner(debug=debug, loop_factory=any_factory) as runner:
                assert runner.get_loop().get_debug() is debug


def test_aioqemu_loops_run_has_no_loop_left_behind(fdmon, no_leaks):
    loops = []

    async def main():
        loops.append(asyncio.get_running_loop())

    aioqemu_loop.run(main(), fdmon=fdmon)
    assert loops[0].is_closed()
    assert asyncio._get_running_loop() is None
