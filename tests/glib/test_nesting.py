"""A nested GLib.MainLoop, as dialogs run one: in GLib's callbacks, in the loop's, in tasks, several deep."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time

import pytest

from .real import GLib


def once(function):
    source = GLib.idle_source_new()
    source.set_callback(lambda *_: function() and False)
    source.attach()


def dialog(new_main, seconds, during=None):
    """Runs a nested main loop, which a GLib timeout ends."""
    inner = new_main()
    source = GLib.timeout_source_new(int(seconds * 1000))
    source.set_callback(lambda *_: inner.quit())
    source.attach()
    if during is not None:
        during()
    inner.run()


async def count(counts, until):
    while not until.done():
        counts.append(asyncio.current_task())
        await asyncio.sleep(0.001)


class TestNested:
    @pytest.mark.parametrize("where", ["glib", "callback", "task"])
    def test_others_go_on_meanwhile(self, any_loop, run, new_main, where):
        async def main():
            counts = []
            closed = any_loop.create_future()
            ticker = any_loop.create_task(count(counts, closed))
            await asyncio.sleep(0.002)
            me = asyncio.current_task()
            before = len(counts)

            def show():
                dialog(new_main, 0.05)
                closed.set_result(len(counts) - before)

            if where == "glib":
                once(show)
            elif where == "callback":
                any_loop.call_soon(show)
            else:
                show()
                assert asyncio.current_task() is me
                assert asyncio.get_running_loop() is any_loop
            during = await closed
            await ticker
            assert set(counts) == {ticker}
            assert asyncio.current_task() is me
            return during

        assert run(main()) > 5
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    def test_three_deep(self, any_loop, run, new_main):
        async def level(depth):
            me = asyncio.current_task()
            inner = new_main()
            if depth:
                task = any_loop.create_task(level(depth - 1))
                task.add_done_callback(lambda _: inner.quit())
                inner.run()
                assert asyncio.current_task() is me
                await asyncio.sleep(0.001)
                return [depth, *task.result()]
            await asyncio.sleep(0.001)
            return [0]

        assert run(level(3)) == [3, 2, 1, 0]

    def test_dialogs_that_end_in_another_order(self, any_loop, run, new_main):
        """The outer is told to quit first, and can return only when the inner has ended."""

        async def main():
            outer, inner = new_main(), new_main()
            order = []
            any_loop.call_soon(lambda: (inner.run(), order.append("inner")))
            any_loop.call_later(0.002, outer.quit)
            any_loop.call_later(0.006, inner.quit)
            outer.run()
            order.append("outer")
            return order

        assert run(main()) == ["inner", "outer"]

    def test_sockets_are_served_in_a_dialog(self, any_loop, run, new_main):
        async def serve(reader, writer):
            writer.write(await reader.readexactly(4))
            await writer.drain()
            writer.close()

        async def ask(port, inner):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"ping")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            inner.quit()
            return answer

        async def main():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            for _ in range(10):
                inner = new_main()
                task = any_loop.create_task(ask(server.sockets[0].getsockname()[1], inner))
                inner.run()
                assert task.result() == b"ping"
            server.close()
            await server.wait_closed()

        run(main())

    def test_a_callback_that_waits_for_its_own_fd_again(self, any_loop, run, new_main):
        """The reader's callback reads, then shows a dialog in which the fd becomes ready again."""
        a, b = socket.socketpair()
        inner = new_main()
        seen = []

        def readable():
            seen.append(a.recv(10))
            if len(seen) == 1:
                b.send(b"2")
                inner.run()
                seen.append("closed")
            else:
                inner.quit()

        async def main():
            any_loop.add_reader(a, readable)
            b.send(b"1")
            while len(seen) < 3:
                await asyncio.sleep(0.001)
            any_loop.remove_reader(a)
            return seen

        with a, b:
            assert run(main()) == [b"1", b"2", "closed"]

    def test_the_main_task_ends_in_a_dialog_of_glibs(self, any_loop, run, new_main):
        """run_until_complete() is told so by stop(), inside the nested main loop, which goes on for a while."""
        closed = []

        async def main():
            shown = any_loop.create_future()
            once(lambda: (shown.set_result(None), dialog(new_main, 0.03), closed.append(time.monotonic())))
            any_loop.call_later(0.02, lambda: None)  # a dispatch after the one with stop()
            await shown

        run(main())
        assert closed

    def test_asynchronous_generators_and_debugging_are_as_before(self, any_loop, run, new_main, caplog):
        async def nothing():
            pass

        async def main():
            hooks = sys.get_asyncgen_hooks()
            any_loop.call_later(0.001, lambda: None)
            dialog(new_main, 0.005)
            coroutine = nothing()
            assert coroutine.cr_origin
            coroutine.close()
            assert sys.get_asyncgen_hooks() == hooks

        any_loop.set_debug(True)
        with caplog.at_level(logging.ERROR, "asyncio"):
            run(main())
