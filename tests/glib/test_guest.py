"""attach(), detach(), stop() and the sources beside the guest, in a GLib.MainContext that the test runs."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import weakref

import pytest

from ..conftest import PATIENCE
from ..processor import undisturbed
from .real import GLib, glib


def call_once(function, priority=GLib.PRIORITY_DEFAULT):
    """function() in a GLib idle source of the default context."""
    source = GLib.idle_source_new()
    source.set_priority(priority)
    source.set_callback(lambda *_: function() and False)
    source.attach()


async def fail():
    raise ValueError


class TestStop:
    def test_it_detaches_where_nothing_else_was_asked_for(self, guest_loop, main):
        ran = []
        guest = glib.attach(guest_loop)
        guest_loop.call_soon(guest_loop.stop)
        guest_loop.call_soon(ran.append, "the batch is finished")
        main.run_until(lambda: not guest_loop.is_running())
        assert ran
        guest.detach()
        assert guest_loop.run_until_complete(asyncio.sleep(0, "runs by itself")) == "runs by itself"

    @pytest.mark.parametrize("caller", ["loop", "glib", "thread"])
    def test_on_stop_quits_the_main_loop_again_and_again(self, guest_loop, main, caller):
        with glib.attach(guest_loop, on_stop=main.quit):
            for _ in range(3):
                if caller == "loop":
                    guest_loop.call_later(0.002, guest_loop.stop)
                elif caller == "glib":
                    call_once(guest_loop.stop, GLib.PRIORITY_LOW)
                else:
                    threading.Timer(0.002, guest_loop.call_soon_threadsafe, [guest_loop.stop]).start()
                main.run()
                assert guest_loop.is_running()

    def test_inside_a_nested_main_loop(self, guest_loop, main, new_main):
        inner = new_main()
        ended = []

        def dialog():
            guest_loop.call_later(0.001, guest_loop.stop)
            inner.run()
            ended.append("inner")
            guest_loop.call_soon(guest_loop.stop)

        with glib.attach(guest_loop, on_stop=lambda: (inner if not ended else main).quit()):
            guest_loop.call_soon(dialog)
            main.run()
        assert ended == ["inner"]


class TestDetach:
    def test_inside_a_callback_of_the_loop(self, guest_loop, main):
        guest = glib.attach(guest_loop)
        ran = []
        guest_loop.call_soon(lambda: (guest.detach(), main.quit()))
        guest_loop.call_soon(ran.append, 1)
        main.run()
        assert ran == [1]
        assert not guest_loop.is_running()

    def test_inside_a_callback_of_glib_while_the_loop_is_ready(self, guest_loop, main):
        guest = glib.attach(guest_loop)
        ran = []

        def detach():
            guest.detach()
            guest.detach()
            main.quit()

        call_once(detach, GLib.PRIORITY_DEFAULT)
        guest_loop.call_later(0, ran.append, 1)
        main.run()
        guest_loop.run_until_complete(asyncio.sleep(0.001))
        assert ran == [1]

    def test_inside_a_task_which_goes_on_when_the_loop_is_attached_again(self, guest_loop, main):
        guest = glib.attach(guest_loop)

        async def leave():
            guest.detach()
            main.quit()
            await asyncio.sleep(0.001)
            return "went on"

        task = guest_loop.create_task(leave())
        main.run()
        assert not task.done()
        with glib.attach(guest_loop):
            task.add_done_callback(lambda _: main.quit())
            main.run()
        assert task.result() == "went on"

    def test_connections_live_on_under_either(self, guest_loop, main):
        async def talk(sock):
            await guest_loop.sock_sendall(sock, b"ping")
            return await asyncio.wait_for(reader.readexactly(4), PATIENCE)

        async def open_it():
            return await asyncio.open_connection(sock=a)

        a, b = socket.socketpair()
        b.setblocking(False)
        with b:
            reader, writer = guest_loop.run_until_complete(open_it())
            for _ in range(5):
                with glib.attach(guest_loop):
                    assert main.run_task(guest_loop, talk(b)) == b"ping"
                assert guest_loop.run_until_complete(talk(b)) == b"ping"
            writer.close()
            guest_loop.run_until_complete(writer.wait_closed())

    def test_the_last_reference_is_not_enough(self, guest_loop, main):
        """The main context's own data would not be, either: attach() is for good until detach() or stop()."""
        glib.attach(guest_loop)
        gc.collect()
        assert main.run_task(guest_loop, asyncio.sleep(0.001, 1)) == 1
        guest_loop.call_soon(guest_loop.stop)
        main.run_until(lambda: not guest_loop.is_running())


class TestContexts:
    def test_another_context_in_another_thread(self, guest_loop, new_main, in_thread):
        context = GLib.MainContext.new()
        guest = glib.attach(guest_loop, context)
        other = new_main(context)
        ran_in = []

        async def work():
            ran_in.append(threading.get_ident())
            reader, writer = await asyncio.open_connection(sock=a)
            data = await reader.readexactly(4)
            writer.close()
            await writer.wait_closed()
            return data

        a, b = socket.socketpair()
        with b:

            def serve():
                other.run()
                guest.detach()
                return threading.get_ident()

            join = in_thread(serve)
            future = asyncio.run_coroutine_threadsafe(work(), guest_loop)
            b.send(b"ping")
            assert future.result(PATIENCE) == b"ping"
            other.quit()
            assert ran_in == [join()]
        assert guest_loop.run_until_complete(asyncio.sleep(0, 1)) == 1

    def test_two_loops_in_two_contexts_of_one_thread(self, guest_loop, new_loop, main):
        other = new_loop("guest-poll")
        context = GLib.MainContext.new()
        with glib.attach(guest_loop), glib.attach(other, context):
            task = other.create_task(asyncio.sleep(0.001, "other"))
            assert main.run_task(guest_loop, asyncio.sleep(0.001, "first")) == "first"
            while not task.done():
                context.iteration(True)
        assert task.result() == "other"

    def test_a_context_that_nobody_else_holds(self, guest_loop):
        guest = glib.attach(guest_loop, GLib.MainContext.new())
        gc.collect()
        task = guest_loop.create_task(asyncio.sleep(0.001, 1))
        while not task.done():
            guest.main_context.iteration(True)
        guest.detach()
        dropped = weakref.ref(guest)
        del guest
        gc.collect()
        assert dropped() is None

    def test_from_thread_to_thread(self, guest_loop, new_main, in_thread):
        """A main context may be run by one thread after another."""
        context = GLib.MainContext.new()
        other = new_main(context)
        with glib.attach(guest_loop, context):
            for _ in range(3):
                join = in_thread(other.run)
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), guest_loop).result(PATIENCE)
                other.quit()
                join()
                assert other.run_task(guest_loop, asyncio.sleep(0.001, 1)) == 1


class TestBesideGLib:
    def test_run_quit_and_run_again(self, guest_loop, main):
        with glib.attach(guest_loop):
            for number in range(20):
                assert main.run_task(guest_loop, asyncio.sleep(0.0001 * (number % 3), number)) == number

    def test_a_context_that_is_iterated_by_hand(self, guest_loop):
        context = GLib.MainContext.default()
        with glib.attach(guest_loop):
            task = guest_loop.create_task(asyncio.sleep(0.005, 1))
            while not task.done():
                context.iteration(True)
            assert task.result() == 1

    def test_what_has_priority_starves_it_and_loses_nothing(self, guest_loop, main):
        """GLib does not even call check() of the guest while a source of higher priority is ready."""
        a, b = socket.socketpair()
        ran = []
        busy = GLib.idle_source_new()
        busy.set_priority(GLib.PRIORITY_HIGH)
        rounds = 0

        def hog(*_):
            nonlocal rounds
            rounds += 1
            if rounds == 1:
                b.send(b"x")
                guest_loop.call_soon(ran.append, "soon")
                guest_loop.call_soon_threadsafe(ran.append, "threadsafe")
                guest_loop.call_later(0.0001, ran.append, "later")
            if rounds < 2000:
                assert not ran
            return rounds < 2000

        with a, b, glib.attach(guest_loop):
            guest_loop.add_reader(a, lambda: ran.append(a.recv(10)))
            assert main.run_task(guest_loop, asyncio.sleep(0.001, 1)) == 1  # it is prepared and has slept
            busy.set_callback(hog)
            busy.attach()
            main.run_until(lambda: len(ran) == 4)
            guest_loop.remove_reader(a)
        assert set(ran) == {"soon", "threadsafe", "later", b"x"}

    def test_ready_by_its_fd_and_not_checked(self, guest_loop, main):
        """The fd of the guest and a GLib source of higher priority become ready in one poll."""
        a, b = socket.socketpair()
        c, d = socket.socketpair()
        order = []

        def first(*_):
            c.recv(10)
            order.append("glib")
            return True

        with a, b, c, d, glib.attach(guest_loop):
            guest_loop.add_reader(a, lambda: order.append(a.recv(10)))
            watch = GLib.io_add_watch(c.fileno(), GLib.PRIORITY_HIGH, GLib.IOCondition.IN, first)
            for _ in range(50):
                order.clear()
                threading.Timer(0.001, lambda: (b.send(b"x"), d.send(b"x"))).start()
                main.run_until(lambda: len(order) == 2)
                assert sorted(order, key=str) == [b"x", "glib"]
            GLib.source_remove(watch)
            guest_loop.remove_reader(a)

    @pytest.mark.parametrize("priority", [GLib.PRIORITY_LOW, GLib.PRIORITY_HIGH])
    def test_the_guests_own_priority(self, guest_loop, main, priority):
        order = []
        with glib.attach(guest_loop, priority=priority):
            call_once(lambda: order.append("glib"))
            guest_loop.call_soon(order.append, "loop")
            main.run_until(lambda: len(order) == 2)
        assert order == (["glib", "loop"] if priority > GLib.PRIORITY_DEFAULT else ["loop", "glib"])

    def test_create_task_in_callbacks_of_glib(self, guest_loop, main):
        tasks = []

        async def clicked():
            await asyncio.sleep(0.001)
            main.quit()
            return asyncio.get_running_loop()

        with glib.attach(guest_loop):
            call_once(lambda: tasks.append(glib.create_task(clicked(), name="clicked")))
            main.run()
        assert tasks[0].result() is guest_loop
        assert tasks[0].get_name() == "clicked"

    def test_what_fails_ends_neither_loop(self, guest_loop, main, errors, shown):
        with glib.attach(guest_loop):
            task = guest_loop.create_task(fail())
            guest_loop.call_soon(lambda: 1 / 0)
            call_once(lambda: 1 / 0)
            assert main.run_task(guest_loop, asyncio.sleep(0.005, 1)) == 1
            del task
            main.run_until(lambda: len(errors) == 2)
        assert {type(details["exception"]) for details in errors} == {ValueError, ZeroDivisionError}
        assert [type(exc) for exc in shown] == [ZeroDivisionError]
        errors.clear()
        shown.clear()

    def test_the_ring_wakes_a_poll_that_sleeps(self, guest_loop, main):
        """With DEFER_TASKRUN a ring's own fd would not (study of io_uring, fact 3)."""
        a, b = socket.socketpair()
        with a, b, glib.attach(guest_loop):
            came = guest_loop.create_future()
            guest_loop.add_reader(a, lambda: came.done() or came.set_result(undisturbed()))
            begin = undisturbed()
            threading.Timer(0.08, b.send, (b"x",)).start()
            at = main.run_task(guest_loop, asyncio.wait_for(came, PATIENCE))
            guest_loop.remove_reader(a)
        assert at - begin < 1  # else something wakes it after PATIENCE


class TestFork:
    def test_a_child_is_told_once_and_can_have_its_own(self, guest_loop, main, shown):
        a, b = socket.socketpair()
        with a, b, glib.attach(guest_loop) as guest:
            guest_loop.add_reader(a, a.recv, 10)
            assert main.run_task(guest_loop, asyncio.sleep(0.001, 1)) == 1
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for _ in range(3):
                        GLib.MainContext.default().iteration(False)
                    assert [type(exc) for exc in shown] == [RuntimeError], shown
                    import aioqemu_loop

                    own = aioqemu_loop.new_event_loop()
                    with glib.attach(own):
                        assert main.run_task(own, asyncio.sleep(0.001, 2)) == 2
                    own.close()
                    guest.detach()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            b.send(b"x")
            assert main.run_task(guest_loop, asyncio.sleep(0.005, 3)) == 3
            guest_loop.remove_reader(a)
