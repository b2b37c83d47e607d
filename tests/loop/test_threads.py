"""Loops in other threads, and in forked children."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings

import pytest

import aioqemu_loop

from ..conftest import PATIENCE


def open_fd_count():
    return len(os.listdir("/proc/self/fd"))


class TestThreads:
    def test_a_loop_runs_in_another_thread(self, any_loop):
        result = []

        def work():
            result.append(any_loop.run_until_complete(asyncio.sleep(0.001, 5)))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert result == [5]

    def test_a_busy_loop_lets_other_threads_run(self, any_loop):
        """It lets go of the GIL when it looks. The interpreter, which would ask it to after 5 ms, does not here."""
        interval = sys.getswitchinterval()

        async def turns_until_called():
            """How many turns a call by a thread takes."""
            turns = 0
            called = any_loop.run_in_executor(None, threading.get_ident)
            enough = time.thread_time() + PATIENCE
            while not called.done():
                turns += 1
                await asyncio.sleep(0)
                if time.thread_time() > enough:
                    sys.setswitchinterval(interval)  # so that it ends
            return turns

        async def main():
            # Where others want the CPU the loop rests from yielding for a while: then it takes longer.
            for pause in (0, 0, 0, 0.1, 0.3, 1, 3):
                await asyncio.sleep(pause)
                turns = await turns_until_called()
                if turns < 1000:
                    break
            return turns

        sys.setswitchinterval(3600)
        try:
            assert any_loop.run_until_complete(main()) < 1000
        finally:
            sys.setswitchinterval(interval)

    def test_a_loop_moves_from_thread_to_thread_with_its_readers(self, any_loop):
        a, b = socket.socketpair()
        seen = []

        def read():
            seen.append((threading.get_ident(), a.recv(10)))
            any_loop.stop()

        idents = []

        def work(data):
            idents.append(threading.get_ident())
            b.send(data)
            any_loop.run_forever()

        with a, b:
            any_loop.add_reader(a, read)
            for i in range(5):
                if i % 2:
                    work(b"%d" % i)
                else:
                    thread = threading.Thread(target=work, args=(b"%d" % i,))
                    thread.start()
                    thread.join()
            any_loop.remove_reader(a)
        assert seen == list(zip(idents, [b"0", b"1", b"2", b"3", b"4"], strict=True))

    @pytest.mark.skipif(sys.version_info < (3, 14), reason="thread-safe handles came with 3.14")
    @pytest.mark.parametrize("question", ["cancel", "cancelled"])
    def test_asking_a_running_threadsafe_handle_from_another_thread_waits_until_it_has_ended(self, any_loop, question):
        running, go_on = threading.Event(), threading.Event()
        order = []

        def callback():
            running.set()
            assert handle.cancelled() is False  # its own thread does not wait
            assert go_on.wait(10)
            order.append("callback")
            any_loop.call_soon(any_loop.stop)

        def ask():
            assert running.wait(10)
            asking.set()
            getattr(handle, question)()
            order.append("asked")

        asking = threading.Event()
        handle = any_loop.call_soon_threadsafe(callback)
        assert isinstance(handle, asyncio.events._ThreadSafeHandle)
        threads = [threading.Thread(target=ask) for _ in range(3)]
        release = threading.Thread(target=lambda: (asking.wait(10), go_on.set()))
        for thread in (*threads, release):
            thread.start()
        any_loop.run_forever()
        for thread in (*threads, release):
            thread.join()
        assert order == ["callback", "asked", "asked", "asked"]

    def test_a_loop_that_ran_in_a_thread_that_has_ended_can_be_closed_here(self, any_factory, no_leaks):
        loop = any_factory()
        a, b = socket.socketpair()
        with a, b:
            loop.add_reader(a, print)
            thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.sleep(0)))
            thread.start()
            thread.join()
            loop.close()

    def test_running_in_two_threads_at_once_is_refused(self, any_loop):
        refused = []

        async def main():
            def work():
                try:
                    any_loop.run_forever()
                except RuntimeError as exc:
                    refused.append(str(exc))

            await any_loop.run_in_executor(None, work)

        any_loop.run_until_complete(main())
        assert refused == ["This event loop is already running"]


def in_child(function):
    """Run function() in a forked child; returns what it returned or raised, as text."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork() with threads about
        pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            text = f"ok: {function()!r}"
        except BaseException as exc:
            text = f"{type(exc).__name__}: {exc}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(pid, 0)
    return text


class TestFork:
    def test_the_inherited_loop_refuses_to_run_in_the_child(self, loop):
        text = in_child(loop.run_forever)
        assert text.startswith("RuntimeError") and "process" in text and "fork" in text
        loop.run_until_complete(asyncio.sleep(0))

    def test_the_child_runs_a_loop_of_its_own(self, loop, loop_factory):
        loop.run_until_complete(asyncio.sleep(0))

        def child():
            own = loop_factory()
            try:
                return own.run_until_complete(asyncio.sleep(0.001, 7))
            finally:
                own.close()

        assert in_child(child) == "ok: 7"

    def test_a_child_forked_in_a_callback_runs_a_loop_of_its_own(self, loop, fdmon):
        async def main():
            return in_child(lambda: aioqemu_loop.run(asyncio.sleep(0.001, 7), fdmon=fdmon))

        assert loop.run_until_complete(main()) == "ok: 7"
        loop.run_until_complete(asyncio.sleep(0))

    @pytest.mark.parametrize("how", ["nothing", "close", "collect", "remove", "exit"])
    def test_the_parent_is_not_affected_by_what_the_child_does(self, loop, how):
        a, b = socket.socketpair()
        seen = []

        def read():
            seen.append(a.recv(10))
            loop.stop()

        with a, b:
            loop.add_reader(a, read)
            loop.call_soon(loop.stop)
            loop.run_forever()

            def child():
                if how == "close":
                    loop.close()
                elif how == "remove":
                    loop.remove_reader(a)
                    a.close()
                    b.close()
                elif how == "collect":
                    gc.collect()
                elif how == "exit":
                    loop.call_soon(print)
                    loop.stop()
                return "done"

            assert in_child(child) == "ok: 'done'"
            b.send(b"parent")
            loop.call_later(10, loop.stop)
            loop.run_forever()
            assert seen == [b"parent"]
            loop.remove_reader(a)

    def test_a_loop_closed_in_the_child_frees_its_fds_there(self, loop):
        def child():
            before = open_fd_count()
            loop.close()
            return before > open_fd_count()

        assert in_child(child) == "ok: True"
