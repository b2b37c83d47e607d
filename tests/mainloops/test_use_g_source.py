"""use_g_source() on a loop: by the classic rule io_uring goes, and nothing that was registered is lost."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import threading
import warnings

import pytest

import aioqemu_loop

from ..conftest import need_fdmon, open_fds
from ..context.helpers import in_child, in_thread
from .guest import drive


def rings() -> list[str]:
    return [name for name in open_fds() if "io_uring" in name]


class TestTheClassicRule:
    def test_io_uring_is_given_up(self, loop):
        loop.run_until_complete(asyncio.sleep(0))
        loop.use_g_source()
        assert loop.fdmon == loop.context.fdmon == "poll"
        assert loop.context.g_source_mode
        assert not rings()
        loop.use_g_source()  # nothing more happens
        assert loop.fdmon == "poll"

    def test_io_uring_does_not_come_back(self, loop):
        loop.use_g_source()
        with pytest.raises(aioqemu_loop.FDMonUnavailable, match=r"use_g_source\(\)") as caught:
            loop.context.set_fdmon("io_uring")
        assert caught.value.name == "io_uring"
        if aioqemu_loop.fdmons()["liburing"] is None:
            with pytest.raises(aioqemu_loop.FDMonUnavailable, match=r"use_g_source\(\)"):
                loop.context.set_fdmon("liburing")
        assert loop.fdmon == "poll"
        loop.context.set_fdmon("auto")
        assert loop.fdmon == "poll"
        with pytest.raises(RuntimeError, match="not in use"):
            loop.use_g_source(keep_io_uring=True)
        loop.context.set_fdmon("epoll")  # that was not what it is about
        assert loop.fdmon == "epoll"
        assert not rings()
        loop.run_until_complete(asyncio.sleep(0))

    def test_the_loop_still_runs_by_itself(self, loop):
        loop.use_g_source()

        async def main():
            reader, writer = await asyncio.open_connection(sock=(pair := socket.socketpair())[0])
            pair[1].sendall(b"abc")
            assert await reader.readexactly(3) == b"abc"
            writer.close()
            await writer.wait_closed()
            pair[1].close()

        loop.run_until_complete(main())

    def test_made_for_it(self, fdmon, no_leaks):
        for spec in ("auto", fdmon):
            loop = aioqemu_loop.new_event_loop(fdmon=spec, g_source=True)
            assert loop.fdmon == "poll"
            assert loop.context.g_source_mode
            loop.close()

    def test_one_that_cannot_be_made_for_it_is_closed(self, fdmon, no_leaks, monkeypatch):
        def fail(loop, **options):
            raise OSError("no monitor today")

        monkeypatch.setattr(aioqemu_loop.Loop, "use_g_source", fail)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(OSError, match="no monitor today") as caught:
                aioqemu_loop.new_event_loop(fdmon=fdmon, g_source=True)
        assert caught.traceback[-2].frame.f_locals["loop"].is_closed()

    def test_readers_writers_and_their_pending_events_move(self, loop):
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        got = []
        loop.add_reader(ours, lambda: got.append(ours.recv(10)))
        loop.add_writer(theirs, lambda: (got.append("writable"), loop.remove_writer(theirs)))
        loop.call_soon(loop.stop)
        loop.run_forever()
        theirs.send(b"pending")
        loop.use_g_source()
        with loop.context.get_g_source() as source:
            while len(got) < 2:
                assert drive(source, 10**10)
        assert got == ["writable", b"pending"] or got == [b"pending", "writable"]
        loop.remove_reader(ours)
        ours.close()
        theirs.close()

    def test_transports_carry_on(self, loop):
        # On io_uring the bytes of the one that is paused have come by the completion engine already.
        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def connect():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            made = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
            for reader, writer in made:
                writer.write(b"early ")
                assert await reader.readexactly(6) == b"early "
            made[0][1].transport.pause_reading()
            for _, writer in made:
                writer.write(b"late ")
            for reader, _ in made[1:]:
                assert await reader.readexactly(5) == b"late "
            return server, made

        async def finish(server, made):
            made[0][1].transport.resume_reading()
            block = bytes(300_000)
            for _, writer in made:
                writer.write(block)
                writer.write_eof()
            for i, (reader, writer) in enumerate(made):
                assert await reader.read() == (b"" if i else b"late ") + block
                writer.close()
                await writer.wait_closed()
            server.close()

        server, made = loop.run_until_complete(connect())
        loop.use_g_source()
        with loop.context.get_g_source() as source:
            task = loop.create_task(finish(server, made))
            while not task.done():
                assert drive(source, 10**10)
            task.result()
        loop.run_until_complete(server.wait_closed())


class TestTheNewRule:
    @pytest.mark.parametrize("kind", ["io_uring", "epoll", "poll", "liburing"])
    def test_the_monitor_stays(self, kind, no_leaks):
        need_fdmon(kind)
        loop = aioqemu_loop.new_event_loop(fdmon=kind)
        loop.use_g_source(keep_io_uring=True)
        assert loop.fdmon == kind
        assert not loop.context.g_source_mode
        with loop.context.get_g_source() as source:
            fds = source.poll_fds()
            assert loop.fdmon == kind
            if kind == "io_uring":  # the loop's and the ring's eventfd; never the ring
                names = {name.partition(" ")[0]: name for name in open_fds()}
                assert len(fds) == 2 and all("[eventfd]" in names[str(fd)] for fd, _ in fds)
        loop.use_g_source()
        assert loop.fdmon == "poll"
        loop.close()


class TestWhileItRuns:
    def test_use_g_source_is_refused_and_nothing_changes(self, loop, fdmon):
        async def main():
            for options in ({}, {"keep_io_uring": True}):
                with pytest.raises(RuntimeError, match="running"):
                    loop.use_g_source(**options)
            with pytest.raises(RuntimeError, match="running"):
                loop.context.get_g_source()
            assert loop.fdmon == fdmon
            await asyncio.sleep(0)

        loop.run_until_complete(main())
        assert not loop.context.g_source_mode

    def test_a_closed_loop(self, loop):
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            loop.use_g_source()


class TestHeld:
    """While a GSource is held the loop counts as running in the thread that drives it."""

    def test_it_counts_as_running(self, guest_loop):
        assert not guest_loop.is_running()
        with guest_loop.context.get_g_source():
            assert guest_loop.is_running()
            assert asyncio._get_running_loop() is None
            with pytest.raises(RuntimeError, match="already running"):
                guest_loop.run_forever()
            with pytest.raises(RuntimeError, match="running"):
                guest_loop.close()
            with pytest.raises(RuntimeError, match="another GSource"):
                guest_loop.context.get_g_source()
            with pytest.raises(RuntimeError, match="running"):
                guest_loop.use_g_source()
        assert not guest_loop.is_running()
        guest_loop.run_until_complete(asyncio.sleep(0))

    def test_its_callbacks_see_the_running_loop(self, guest_loop):
        seen = []
        with guest_loop.context.get_g_source() as source:
            guest_loop.call_soon(lambda: seen.append(asyncio.get_running_loop()))
            guest_loop.call_later(0.001, lambda: seen.append(asyncio.get_running_loop()))
            while len(seen) < 2:
                drive(source)
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
        assert seen == [guest_loop, guest_loop]

    def test_driven_inside_another_loop(self, guest_loop):
        # Each is the running loop in its own callbacks.
        seen = []

        async def guest():
            await asyncio.sleep(0)
            seen.append((asyncio.get_running_loop(), asyncio.current_task()))

        async def host():
            with guest_loop.context.get_g_source() as source:
                task = guest_loop.create_task(guest())
                while not task.done():
                    drive(source)
                    assert asyncio.get_running_loop() is not guest_loop
                    assert asyncio.current_task() is not task
                assert seen == [(guest_loop, task)]

        asyncio.run(host())

    def test_driven_inside_one_of_its_own_tasks(self, guest_loop):
        # A dialog: other tasks go on, and the one that waits is the current one again afterwards.
        async def other():
            for _ in range(3):
                await asyncio.sleep(0)
            return asyncio.current_task()

        async def dialog(source):
            mine = asyncio.current_task()
            task = guest_loop.create_task(other())
            while not task.done():
                drive(source)
            assert task.result() is task
            assert asyncio.current_task() is mine

        with guest_loop.context.get_g_source() as source:
            task = guest_loop.create_task(dialog(source))
            while not task.done():
                drive(source)
            task.result()

    def test_stop(self, guest_loop):
        with guest_loop.context.get_g_source() as source:
            drive(source, 0)
            assert not source.stopped
            guest_loop.stop()  # from outside its callbacks: seen in the next iteration, at once
            drive(source)
            assert source.stopped
        ran = []
        with guest_loop.context.get_g_source() as source:
            guest_loop.call_soon(guest_loop.stop)
            guest_loop.call_soon(lambda: guest_loop.call_soon(ran.append, 1))
            drive(source)
            assert source.stopped
            assert ran == []  # as run_forever: the turn in which stop() was called is the last
            drive(source)
            assert ran == [1]

    def test_stop_in_a_nested_iteration_is_seen_outside(self, guest_loop):
        with guest_loop.context.get_g_source() as source:

            def dialog():
                guest_loop.call_soon(guest_loop.stop)
                for _ in range(3):
                    drive(source, 0)

            guest_loop.call_soon(dialog)
            drive(source)
            assert source.stopped

    def test_another_thread_drives_it(self, guest_loop):
        async def main():
            await asyncio.sleep(0.001)
            return threading.get_ident()

        with guest_loop.context.get_g_source() as source:
            task = guest_loop.create_task(main())

            def drive_it():
                while not task.done():
                    drive(source)

            thread = threading.Thread(target=drive_it)
            thread.start()
            ident = thread.ident
            thread.join()
            assert task.result() == ident

    def test_a_forked_child_closes_its_copy(self, guest_loop):
        def child():
            source.destroy()
            guest_loop.close()
            return guest_loop.is_closed()

        with guest_loop.context.get_g_source() as source:
            drive(source, 0)
            assert in_child(child) == "True"
            drive(source, 0)

    def test_destroyed_in_another_thread_python_writes_signals_to_no_stranger(self, guest_loop):
        # It can be told only in the main thread where to write them.
        guest_loop.add_signal_handler(signal.SIGUSR1, lambda: None)
        source = guest_loop.context.get_g_source()
        in_thread(source.destroy)
        guest_loop.remove_signal_handler(signal.SIGUSR1)
        in_thread(guest_loop.close)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        strangers = [os.pipe2(os.O_NONBLOCK) for _ in range(8)]
        try:
            signal.raise_signal(signal.SIGUSR1)
            for reader, _ in strangers:
                with pytest.raises(BlockingIOError):
                    os.read(reader, 1)
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            for pair in strangers:
                for fd in pair:
                    os.close(fd)

    def test_asyncgen_hooks_and_debug_mode(self, guest_loop, caplog):
        closed = []

        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                closed.append(1)

        async def main():
            async for _ in numbers():
                break
            assert sys.get_coroutine_origin_tracking_depth() > 0
            for _ in range(3):
                await asyncio.sleep(0)

        hooks = sys.get_asyncgen_hooks()
        guest_loop.set_debug(True)
        guest_loop.slow_callback_duration = 0.0
        with guest_loop.context.get_g_source() as source:
            task = guest_loop.create_task(main())
            while not task.done():
                drive(source)
            assert sys.get_asyncgen_hooks() == hooks
            assert sys.get_coroutine_origin_tracking_depth() == 0
        task.result()
        assert closed == [1]
        assert "Executing" in caplog.text

    def test_timers_move_the_outside_loops_sleep(self, guest_loop):
        with guest_loop.context.get_g_source() as source:
            drive(source, 0)
            assert source.prepare() is None
            due = []
            guest_loop.call_later(0.01, lambda: due.append(1))  # by the outside loop, after it had asked
            poller = select.poll()
            for fd, events in source.poll_fds():
                poller.register(fd, events)
            assert source.check(poller.poll(10_000))
            source.dispatch()
            while not due:
                drive(source, 10**10)
