"""A million changes of handlers in g_source mode, and a thousand attachments: nothing is left and nothing piles up."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import socket

import pytest

import aioqemu_loop

from ..leaks.conftest import KIB, nothing_left, resident
from .real import GLib, glib

CHANGES = 1_000_000  # pairs of add_reader and remove_reader
EVERY = 1000  # of them GLib gets to run
GROWN_MAX = 512 * KIB


def poll_records(context):
    """How many fds GLib polls for this main context, asked of GLib itself."""
    library = ctypes.CDLL("libglib-2.0.so.0")
    address, priority, timeout = ctypes.c_void_p(hash(context)), ctypes.c_int(), ctypes.c_int()
    assert context.acquire()
    try:
        library.g_main_context_prepare(address, ctypes.byref(priority))
        return library.g_main_context_query(address, GLib.MAXINT, ctypes.byref(timeout), None, 0)
    finally:
        context.release()


class TestPilingUp:
    @pytest.mark.timeout(120)
    @pytest.mark.parametrize("kind", ["guest-poll", "guest-kept-io_uring"])
    def test_a_million_changes(self, new_loop, kind, main):
        """QEMU 5.0 had each of them stay in the submission list of a ring that nobody entered."""
        loop = new_loop(kind)
        context = GLib.MainContext.default()
        a, b = socket.socketpair()
        fds = len(os.listdir("/proc/self/fd"))
        ran = []

        def change(rounds):
            for _ in range(rounds // EVERY):
                for _ in range(EVERY):
                    loop.add_reader(a, ran.append, 1)
                    loop.remove_reader(a)
                context.iteration(False)

        with a, b, glib.attach(loop):
            assert main.run_task(loop, asyncio.sleep(0.001, 1)) == 1
            change(CHANGES // 10)
            gc.collect()
            before, polled = resident(), poll_records(context)
            change(CHANGES)
            assert resident() - before < GROWN_MAX
            assert poll_records(context) == polled
            b.send(b"x")
            loop.add_reader(a, ran.append, 1)
            main.run_until(lambda: ran)
            loop.remove_reader(a)
        assert len(os.listdir("/proc/self/fd")) <= fds

    @pytest.mark.parametrize("kind", ["guest-poll", "guest-kept-io_uring"])
    def test_changes_while_glib_does_not_run_at_all(self, new_loop, kind, main):
        loop = new_loop(kind)
        a, b = socket.socketpair()
        with a, b, glib.attach(loop):
            for _ in range(1000):
                loop.add_reader(a, print)
                loop.remove_reader(a)
            before = resident()
            for _ in range(50_000):
                loop.add_reader(a, print)
                loop.remove_reader(a)
            assert resident() - before < GROWN_MAX
            assert main.run_task(loop, asyncio.sleep(0.001, 1)) == 1


class TestNothingIsLeft:
    def test_of_a_thousand_attachments(self, guest_loop, main):
        def use(rounds):
            for number in range(rounds):
                guest = glib.attach(guest_loop)
                if number % 10 == 0:
                    assert main.run_task(guest_loop, asyncio.sleep(0, number)) == number
                guest.detach()

        use(50)
        gc.collect()
        with nothing_left(GROWN_MAX):
            use(1000)

    def test_of_loops_that_are_attached_and_closed(self, fdmon, no_leaks, main):
        def use(rounds):
            for _ in range(rounds):
                loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
                with glib.attach(loop, GLib.MainContext.new()) as guest:
                    loop.call_soon(int)
                    guest.main_context.iteration(False)
                loop.close()

        use(20)
        with nothing_left(GROWN_MAX):
            use(200)

    def test_of_hosts(self, fdmon, no_leaks):
        def use(rounds):
            for _ in range(rounds):
                glib.run(asyncio.sleep(0), fdmon=fdmon)

        use(100)
        with nothing_left(4 * KIB * 500):  # less than a ring's memory each
            use(500)

    def test_of_watches(self, guest_loop, main):
        a, b = socket.socketpair()

        def use(rounds):
            for number in range(rounds):
                watch = glib.create_watch(a, GLib.IOCondition.IN, print)
                watch.attach()
                GLib.MainContext.default().iteration(False)
                if number % 2:
                    watch.attach_aio_context(guest_loop.context)
                watch.destroy()

        with a, b, glib.attach(guest_loop):
            use(50)
            gc.collect()
            with nothing_left(GROWN_MAX):
                use(1000)
