"""Running, stopping, closing, forgetting to close; threads; forks."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import weakref

import pytest


def open_fd_count():
    return len(os.listdir("/proc/self/fd"))


class TestRunning:
    def test_a_loop_can_be_run_again_and_again(self, any_loop):
        ran = []
        for i in range(10):
            any_loop.call_soon(ran.append, i)
            any_loop.call_soon(any_loop.stop)
            any_loop.run_forever()
            assert not any_loop.is_running()
        assert ran == list(range(10))

    def test_stop_before_run_gives_one_turn(self, any_loop):
        ran = []
        any_loop.call_soon(ran.append, 1)
        any_loop.call_soon(lambda: any_loop.call_soon(ran.append, 2))
        any_loop.stop()
        any_loop.run_forever()
        assert ran == [1]
        any_loop.stop()
        any_loop.run_forever()
        assert ran == [1, 2]

    def test_stop_before_run_does_not_sleep(self, any_loop):
        any_loop.stop()
        any_loop.run_forever()

    def test_the_first_turn_of_a_run_looks_at_the_fds(self, any_loop, turn):
        """asyncio's own test_utils.run_once relies on it."""
        a, b = socket.socketpair()
        seen = []
        with a, b:
            any_loop.add_reader(a, lambda: seen.append(a.recv(10)))
            for i in range(5):
                b.send(b"%d" % i)
                turn(any_loop)
            turn(any_loop)
            any_loop.remove_reader(a)
        assert seen == [b"0", b"1", b"2", b"3", b"4"]

    def test_run_until_complete_returns_the_result(self, any_loop):
        async def main():
            await asyncio.sleep(0)
            return 42

        assert any_loop.run_until_complete(main()) == 42

    def test_run_until_complete_raises_the_exception(self, any_loop):
        async def main():
            raise LookupError("text")

        with pytest.raises(LookupError, match="text"):
            any_loop.run_until_complete(main())

    def test_run_until_complete_of_a_done_future(self, any_loop):
        future = any_loop.create_future()
        future.set_result(1)
        assert any_loop.run_until_complete(future) == 1

    def test_run_until_complete_stopped_before_the_end(self, any_loop):
        future = any_loop.create_future()
        any_loop.call_soon(any_loop.stop)
        with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
            any_loop.run_until_complete(future)
        future.set_result("late")
        assert any_loop.run_until_complete(future) == "late"

    def test_run_until_complete_of_what_is_no_future(self, any_loop):
        with pytest.raises(TypeError):
            any_loop.run_until_complete(42)

    def test_run_inside_a_run_is_refused(self, any_loop, stdlib_is_wrong):
        stdlib_is_wrong((3, 13), "forgets the loop that runs")

        async def main():
            with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
                any_loop.run_forever()
            coroutine = asyncio.sleep(0)
            with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
                any_loop.run_until_complete(coroutine)
            coroutine.close()
            assert asyncio.get_running_loop() is any_loop
            return "goes on"

        assert any_loop.run_until_complete(main()) == "goes on"

    def test_run_while_another_loop_runs_is_refused(self, any_loop, any_factory, stdlib_is_wrong):
        stdlib_is_wrong((3, 13), "forgets the loop that runs")
        other = any_factory()

        async def main():
            text = r"^Cannot run the event loop while another loop is running$"
            with pytest.raises(RuntimeError, match=text):
                other.run_forever()
            return asyncio.get_running_loop()

        try:
            assert any_loop.run_until_complete(main()) is any_loop
            assert not other.is_running()
            other.run_until_complete(asyncio.sleep(0))
        finally:
            other.close()

    def test_is_running_and_the_running_loop(self, any_loop):
        seen = []

        def look():
            seen.append((any_loop.is_running(), asyncio.get_running_loop() is any_loop))
            any_loop.stop()

        any_loop.call_soon(look)
        any_loop.run_forever()
        assert seen == [(True, True)]
        assert not any_loop.is_running()
        assert asyncio._get_running_loop() is None

    def test_create_future_and_task_belong_to_the_loop(self, any_loop):
        async def main():
            task = asyncio.current_task()
            assert task.get_loop() is any_loop
            return any_loop.create_future().get_loop()

        assert any_loop.run_until_complete(main()) is any_loop

    def test_it_is_an_abstract_event_loop(self, any_loop):
        assert isinstance(any_loop, asyncio.AbstractEventLoop)
        assert isinstance(any_loop, asyncio.BaseEventLoop)
        assert weakref.ref(any_loop)() is any_loop


class TestClosing:
    def test_close_while_running_is_refused(self, any_loop):
        async def main():
            with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
                any_loop.close()
            await asyncio.sleep(0)
            return 1

        assert any_loop.run_until_complete(main()) == 1
        assert not any_loop.is_closed()

    def test_close_twice_does_nothing(self, any_loop):
        any_loop.close()
        any_loop.close()
        assert any_loop.is_closed()
        assert "closed=True" in repr(any_loop)

    def test_use_after_close_says_that_it_is_closed(self, any_loop):
        future = any_loop.create_future()
        any_loop.close()
        coroutine = asyncio.sleep(0)
        for call in (
            lambda: any_loop.call_soon(print),
            lambda: any_loop.call_soon_threadsafe(print),
            lambda: any_loop.call_later(1, print),
            lambda: any_loop.call_at(1, print),
            lambda: any_loop.add_reader(0, print),
            lambda: any_loop.add_writer(1, print),
            lambda: any_loop.run_in_executor(None, print),
            lambda: any_loop.create_task(coroutine),
            lambda: any_loop.add_signal_handler(signal.SIGUSR1, print),
            any_loop.run_forever,
            lambda: any_loop.run_until_complete(future),
        ):
            with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
                call()
        coroutine.close()

    def test_what_is_harmless_after_close_stays_so(self, any_loop):
        handle, timer = any_loop.call_soon(print), any_loop.call_later(1, print)
        any_loop.close()
        handle.cancel()
        timer.cancel()
        any_loop.stop()
        assert any_loop.time() > 0
        assert any_loop.get_debug() in (True, False)
        assert not any_loop.is_running()
        assert any_loop.remove_reader(0) is False

    def test_an_unclosed_loop_warns_and_its_fds_are_closed(self, any_factory, no_leaks):
        loop = any_factory()
        loop.call_soon(print)
        with pytest.warns(ResourceWarning, match="unclosed event loop"):
            del loop
            gc.collect()

    def test_an_unclosed_loop_with_work_pending_is_collectable(self, any_factory, no_leaks):
        """Readers, timers, callbacks, futures: all of them point back at the loop."""
        loop = any_factory()
        a, b = socket.socketpair()
        with a, b:
            loop.call_soon(loop.get_debug)
            loop.call_later(3600, loop.get_debug)
            loop.add_reader(a, loop.get_debug)
            loop.add_writer(b, loop.get_debug)
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.call_later(1800, loop.stop)
            loop.call_soon(loop.stop)
            loop.extra = [loop.create_future(), loop]
            ref = weakref.ref(loop)
            with pytest.warns(ResourceWarning, match="unclosed event loop"):
                del loop
                gc.collect()
            gc.collect()  # from 3.15 on weak references outlive the collection that runs finalizers
            assert ref() is None

    def test_a_closed_loop_is_collectable(self, any_factory):
        loop = any_factory()
        loop.call_later(3600, loop.run_forever)
        loop.call_soon(loop.run_forever)
        loop.close()
        ref = weakref.ref(loop)
        del loop
        gc.collect()
        assert ref() is None

    def test_a_thousand_loops_leave_nothing(self, any_factory, no_leaks):
        gc.collect()
        before = open_fd_count()
        for i in range(1000):
            loop = any_factory()
            if i % 10 == 0:
                loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        assert open_fd_count() == before

    def test_pending_work_is_dropped_when_the_loop_is_closed(self, any_loop):
        class Token:
            pass

        token = Token()
        ref = weakref.ref(token)
        a, b = socket.socketpair()
        with a, b:
            any_loop.call_soon(print, token)
            any_loop.call_later(3600, print, token)
            any_loop.add_reader(a, print, token)
            any_loop.close()
            del token
            gc.collect()
            assert ref() is None


class TestAsyncgensAndExecutor:
    def test_asyncgen_hooks_are_set_while_running_and_put_back(self, any_loop):
        before = sys.get_asyncgen_hooks()
        inside = []

        async def main():
            inside.append(sys.get_asyncgen_hooks())

        any_loop.run_until_complete(main())
        assert sys.get_asyncgen_hooks() == before
        assert inside[0].firstiter is not None and inside[0].finalizer is not None

    def test_shutdown_asyncgens_finishes_what_is_open(self, any_loop):
        events = []

        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                events.append("closed")

        async def main():
            generator = numbers()
            assert await generator.__anext__() == 1
            return generator

        generator = any_loop.run_until_complete(main())
        assert events == []
        any_loop.run_until_complete(any_loop.shutdown_asyncgens())
        assert events == ["closed"]
        del generator

    def test_an_asyncgen_that_is_dropped_is_finished_by_the_loop(self, any_loop):
        closed = any_loop.create_future()

        async def numbers():
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                closed.set_result(True)

        async def main():
            async for _ in numbers():
                break
            gc.collect()
            await asyncio.wait_for(closed, 10)

        any_loop.run_until_complete(main())

    def test_run_in_executor_and_its_shutdown(self, any_loop):
        async def main():
            results = await asyncio.gather(*(any_loop.run_in_executor(None, pow, i, 2) for i in range(50)))
            name = await any_loop.run_in_executor(None, threading.get_ident)
            return results, name

        results, ident = any_loop.run_until_complete(main())
        assert results == [i * i for i in range(50)]
        assert ident != threading.get_ident()
        any_loop.run_until_complete(any_loop.shutdown_default_executor())
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            any_loop.run_in_executor(None, print)
