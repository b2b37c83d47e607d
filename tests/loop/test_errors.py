"""What goes wrong in callbacks, and what debug mode adds."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import traceback
from functools import partial

import pytest


class TestExceptions:
    @pytest.mark.parametrize("kind", [ZeroDivisionError, asyncio.CancelledError, GeneratorExit])
    def test_a_callbacks_exception_goes_to_the_handler(self, any_loop, errors, turn, kind):
        def fail():
            raise kind("text")

        ran = []
        handle = any_loop.call_soon(fail)
        any_loop.call_soon(ran.append, 1)
        turn(any_loop)
        assert ran == [1]
        assert len(errors) == 1
        assert isinstance(errors[0]["exception"], kind)
        assert errors[0]["handle"] is handle
        assert errors[0]["message"].startswith("Exception in callback TestExceptions.")
        errors.clear()

    def test_a_timers_and_a_readers_exception_too(self, any_loop, errors):
        a, b = socket.socketpair()

        def fail():
            any_loop.remove_reader(a)
            raise ZeroDivisionError

        with a, b:
            b.send(b"x")
            any_loop.add_reader(a, fail)
            any_loop.call_later(0.001, lambda: 1 / 0)
            any_loop.call_later(0.01, any_loop.stop)
            any_loop.run_forever()
        assert [type(error["exception"]) for error in errors] == [ZeroDivisionError] * 2
        errors.clear()

    def test_a_handler_that_fails_itself_does_not_stop_the_loop(self, any_loop, turn, caplog):
        def handler(loop, details):
            raise LookupError("in the handler")

        any_loop.set_exception_handler(handler)
        ran = []
        any_loop.call_soon(lambda: 1 / 0)
        any_loop.call_soon(ran.append, 1)
        turn(any_loop)
        assert ran == [1]
        assert "Unhandled error in exception handler" in caplog.text

    def test_the_default_handler_logs(self, any_loop, turn, caplog):
        any_loop.set_exception_handler(None)
        any_loop.call_soon(lambda: 1 / 0)
        turn(any_loop)
        assert "Exception in callback" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_an_exit_ends_the_run_and_the_rest_of_the_batch_is_kept(self, any_loop, turn, kind):
        ran = []

        def leave():
            raise kind("now")

        any_loop.call_soon(ran.append, 1)
        any_loop.call_soon(leave)
        any_loop.call_soon(ran.append, 2)
        any_loop.call_later(0, ran.append, 3)
        with pytest.raises(kind, match="now"):
            any_loop.run_forever()
        assert ran == [1]
        assert not any_loop.is_running()
        assert asyncio._get_running_loop() is None
        turn(any_loop, 2)
        assert ran == [1, 2, 3]

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_an_exit_in_a_reader_ends_the_run_and_other_readers_are_not_lost(self, any_loop, turn, kind):
        pairs = [socket.socketpair() for _ in range(5)]
        seen = []
        first = []

        def read(i, sock):
            with contextlib.suppress(BlockingIOError):  # queued twice if looked for twice
                seen.append((i, sock.recv(100)))
            if not first:
                first.append(i)
                raise kind

        for i, (a, b) in enumerate(pairs):
            a.setblocking(False)
            any_loop.add_reader(a, read, i, a)
            b.send(b"%d" % i)
        with pytest.raises(kind):
            any_loop.run_forever()
        turn(any_loop, 3)
        assert sorted(seen) == [(i, b"%d" % i) for i in range(5)]
        for a, b in pairs:
            any_loop.remove_reader(a)
            a.close()
            b.close()

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_an_exit_in_a_task_comes_out_of_run_until_complete(self, any_loop, kind):
        async def main():
            raise kind

        with pytest.raises(kind):
            any_loop.run_until_complete(main())
        assert any_loop.run_until_complete(asyncio.sleep(0, "again")) == "again"

    def test_an_exit_in_the_exception_handler_ends_the_run(self, any_loop, turn):
        def handler(loop, details):
            raise SystemExit

        any_loop.set_exception_handler(handler)
        any_loop.call_soon(lambda: 1 / 0)
        with pytest.raises(SystemExit):
            any_loop.run_forever()
        turn(any_loop)


class TestDebug:
    def test_calls_from_a_wrong_thread_are_refused(self, any_loop):
        any_loop.set_debug(True)
        raised = []

        async def main():
            def work():
                calls = (any_loop.call_soon, partial(any_loop.call_at, 0), partial(any_loop.call_later, 0))
                for call in calls:
                    try:
                        call(print)
                    except RuntimeError as exc:
                        raised.append(str(exc))
                any_loop.call_soon_threadsafe(int)

            await any_loop.run_in_executor(None, work)

        any_loop.run_until_complete(main())
        text = "Non-thread-safe operation invoked on an event loop other than the current one"
        assert raised == [text] * 3

    def test_what_cannot_be_called_is_refused(self, any_loop):
        any_loop.set_debug(True)
        with pytest.raises(TypeError, match=r"a callable object was expected by call_soon\(\), got 42"):
            any_loop.call_soon(42)
        with pytest.raises(TypeError, match=r"a callable object was expected by call_soon_threadsafe\(\)"):
            any_loop.call_soon_threadsafe(None)
        with pytest.raises(TypeError, match=r"a callable object was expected by call_at\(\)"):
            any_loop.call_at(1, "text")

        async def coroutine():
            pass

        created = coroutine()
        with pytest.raises(TypeError, match=r"coroutines cannot be used with call_soon\(\)"):
            any_loop.call_soon(created)
        created.close()
        with pytest.raises(TypeError, match=r"coroutines cannot be used with call_at\(\)"):
            any_loop.call_later(1, coroutine)

    def test_slow_callbacks_are_logged(self, any_loop, caplog):
        any_loop.set_debug(True)
        any_loop.slow_callback_duration = 0.01

        def slow(x):
            time.sleep(0.02)

        any_loop.call_soon(slow, 5)
        any_loop.call_soon(any_loop.stop)
        any_loop.run_forever()
        messages = [record.getMessage() for record in caplog.records if "Executing" in record.getMessage()]
        assert len(messages) == 1
        assert messages[0].startswith("Executing <Handle TestDebug.")
        assert "slow(5)" in messages[0] and "created at" in messages[0]
        assert messages[0].split(" took ")[1].endswith(" seconds")

    @pytest.mark.parametrize(("duration", "told"), [(0, 2), (0.0, 2), (float("inf"), 0)])
    def test_every_callback_is_slow_at_a_duration_of_0_and_none_at_infinity(self, any_loop, caplog, duration, told):
        any_loop.set_debug(True)
        any_loop.slow_callback_duration = duration
        any_loop.call_soon(str)
        any_loop.call_soon(any_loop.stop)
        any_loop.run_forever()
        assert len([record for record in caplog.records if "Executing" in record.getMessage()]) == told

    def test_source_traceback_ends_at_the_caller(self, any_loop):
        any_loop.set_debug(True)
        for handle in (
            any_loop.call_soon(print),
            any_loop.call_later(1, print),
            any_loop.call_at(1, print),
            any_loop.call_soon_threadsafe(print),
        ):
            assert isinstance(handle._source_traceback, traceback.StackSummary)
            assert handle._source_traceback[-1].name == "test_source_traceback_ends_at_the_caller"
            handle.cancel()

    def test_an_exceptions_details_hold_the_traceback_of_the_caller(self, any_loop, errors, turn):
        any_loop.set_debug(True)
        any_loop.call_soon(lambda: 1 / 0)
        turn(any_loop)
        name = "test_an_exceptions_details_hold_the_traceback_of_the_caller"
        assert errors[0]["source_traceback"][-1].name == name
        errors.clear()

    def test_coroutine_origins_are_tracked_only_while_running(self, any_loop):
        any_loop.set_debug(True)
        before = sys.get_coroutine_origin_tracking_depth()

        async def main():
            return sys.get_coroutine_origin_tracking_depth()

        assert any_loop.run_until_complete(main()) > 0
        assert sys.get_coroutine_origin_tracking_depth() == before

    def test_debug_comes_from_the_environment(self, loop_factory):
        code = "import aioqemu_loop; l = aioqemu_loop.new_event_loop(); print(l.get_debug()); l.close()"
        path = os.pathsep.join(p or "." for p in sys.path)
        env = {**os.environ, "PYTHONASYNCIODEBUG": "1", "PYTHONPATH": path}
        assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True) == "True\n"
