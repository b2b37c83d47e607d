"""An IOThread's two routes: by itself, and by a GLib main context from the moment that somebody asked for that."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import socket
import threading
from collections import Counter

import pytest

import aioqemu_loop
from aioqemu_loop import IOThread

from ..fdmon.tracing import WAITS, strace_threads

PATIENCE = 15


@pytest.fixture
def GLib():
    if importlib.util.find_spec("gi") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("PyGObject is not installed")
    from gi.repository import GLib

    # What is opened once and for all: an eventfd, and libffi's own file for its first closure.
    GLib.MainContext.default()
    GLib.idle_source_new().set_callback(lambda *_: False)
    return GLib


def call_in(GLib, main_context, callback):
    """Have the thread that iterates the main context call it; waits for that."""
    done = threading.Event()
    source = GLib.idle_source_new()
    source.set_callback(lambda *_: (callback(), done.set(), False)[2])
    source.attach(main_context)
    assert done.wait(PATIENCE)


async def nap():
    await asyncio.sleep(0.001)
    return asyncio.get_running_loop()


class TestRoutes:
    def test_by_itself_until_the_context_is_asked_for(self, fdmon, GLib, no_leaks):
        with IOThread("it", fdmon=fdmon) as iothread:
            assert iothread.submit(nap()).result(PATIENCE) is iothread.loop
            assert iothread.fdmon == fdmon
            main_context = iothread.get_g_main_context()
            seen = []
            call_in(GLib, main_context, lambda: seen.append(threading.get_native_id()))
            assert seen == [iothread.thread_id]
            assert iothread.fdmon == "poll"
            assert iothread.submit(nap()).result(PATIENCE) is iothread.loop
            assert iothread.get_g_main_context() == main_context
        assert not iothread.running

    def test_it_is_the_threads_default_context(self, fdmon, GLib, no_leaks):
        with IOThread("it", fdmon=fdmon) as iothread:
            main_context = iothread.get_g_main_context()
            same = []
            call_in(GLib, main_context, lambda: same.append(GLib.MainContext.get_thread_default() == main_context))
            call_in(GLib, main_context, lambda: same.append(asyncio.get_running_loop() is iothread.loop))
            assert same == [True, True]

    def test_exits_end_neither_the_thread_nor_the_process(self, fdmon, GLib, no_leaks):
        told = []
        with IOThread("it", fdmon=fdmon) as iothread:
            iothread.loop.set_exception_handler(lambda _, details: told.append(type(details["exception"])))
            main_context = iothread.get_g_main_context()
            call_in(GLib, main_context, lambda: None)
            for kind in (SystemExit, KeyboardInterrupt):

                def leave(kind=kind):
                    raise kind

                iothread.loop.call_soon_threadsafe(leave)
                assert iothread.submit(nap()).result(PATIENCE) is iothread.loop
                call_in(GLib, main_context, lambda: None)
        assert told == [SystemExit, KeyboardInterrupt]

    def test_connections_survive_the_change(self, fdmon, GLib, no_leaks):
        # While bytes are under way in both directions.
        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def start():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            return server, server.sockets[0].getsockname()

        async def end(server):
            server.close()
            while iothread.loop.context.fdmon != "poll":
                await asyncio.sleep(0)

        sent = b"".join(b"%07d\n" % i for i in range(200_000))
        got = bytearray()
        with IOThread("it", fdmon=fdmon) as iothread:
            server, address = iothread.submit(start()).result(PATIENCE)
            with socket.create_connection(address) as client:

                def send():
                    client.sendall(sent)
                    client.shutdown(socket.SHUT_WR)

                sender = threading.Thread(target=send)
                sender.start()
                while data := client.recv(65536):
                    got += data
                    if len(got) > 500_000:
                        iothread.get_g_main_context()
                sender.join()
            iothread.submit(end(server)).result(PATIENCE)
        assert got == sent

    def test_asked_for_by_many_at_once_and_while_it_stops(self, fdmon, GLib, no_leaks):
        found, refused = [], []
        iothread = IOThread("it", fdmon=fdmon)
        start = threading.Barrier(5)

        def ask():
            start.wait()
            try:
                for _ in range(100):
                    found.append(iothread.get_g_main_context())
            except RuntimeError as exc:
                refused.append(str(exc))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        start.wait()
        iothread.stop()
        for thread in threads:
            thread.join(PATIENCE)
        assert all(main_context == found[0] for main_context in found)
        assert all("stopped" in text for text in refused)
        with pytest.raises(RuntimeError, match="stopped"):
            iothread.get_g_main_context()

    def test_stop_ends_tasks_and_sources_of_the_second_route(self, fdmon, GLib, no_leaks):
        ended = []

        async def endless():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(threading.get_native_id())

        iothread = IOThread("it", fdmon=fdmon)
        main_context = iothread.get_g_main_context()
        call_in(GLib, main_context, lambda: None)
        future = iothread.submit(endless())
        iothread.submit(nap()).result(PATIENCE)
        iothread.stop()
        assert future.cancelled()
        assert ended == [iothread.thread_id]

    def test_loop_stop_by_the_program_ends_neither_route(self, fdmon, GLib, no_leaks):
        with IOThread("it", fdmon=fdmon) as iothread:
            for _ in range(2):
                iothread.loop.call_soon_threadsafe(iothread.loop.stop)
                assert iothread.submit(nap()).result(PATIENCE) is iothread.loop
                main_context = iothread.get_g_main_context()
                call_in(GLib, main_context, lambda: None)

    def test_properties_and_metrics_work_on_the_second_route(self, fdmon, GLib, no_leaks):
        with IOThread("it", fdmon=fdmon) as iothread:
            call_in(GLib, iothread.get_g_main_context(), lambda: None)
            iothread.poll_max_ns = 1000
            assert iothread.context.poll_max_ns == 1000
            assert iothread.loop.metrics().poll_spins >= 0
            with pytest.raises(RuntimeError, match="running"):
                iothread.loop.use_g_source()


PUZZLE = """
    import asyncio, os, threading
    import aioqemu_loop

    async def nap():
        await asyncio.sleep(0.01)

    async def together(monitor, worker):
        for _ in range(5):
            await asyncio.gather(monitor.run(nap()), worker.run(nap()), nap())

    async def changed(*iothreads):
        for iothread in iothreads:
            iothread.get_g_main_context()
        while any(iothread.fdmon != "poll" for iothread in iothreads):
            await asyncio.gather(*(iothread.run(nap()) for iothread in iothreads))
        await together(*iothreads)

    main = aioqemu_loop.new_event_loop(g_source=True)
    # Poll mode would look without sleeping.
    IOThread = aioqemu_loop.IOThread
    with IOThread("monitor", poll_max_ns=0) as monitor, IOThread("worker", poll_max_ns=0) as worker:
        main.run_until_complete(together(monitor, worker))
        ids = threading.get_native_id(), monitor.thread_id, worker.thread_id
        os.write(2, b"BEGIN")
        os.write(2, b"IDS %d %d %d" % ids)
        main.run_until_complete(together(monitor, worker))
        os.write(2, b"ASK")
        main.run_until_complete(changed(monitor, worker))
        os.write(2, b"CHANGED")
        main.run_until_complete(together(monitor, worker))
        os.write(2, b"END")
    main.close()
"""


def waits(calls: list[tuple[int, str]]) -> dict[int, Counter[str]]:
    """Per thread, how often it slept in which call."""
    found: dict[int, Counter[str]] = {}
    for thread, call in calls:
        match = re.match(r"(\w+)\(", call)
        if match and match[1] in WAITS:
            found.setdefault(thread, Counter())[match[1]] += 1
    return found


def test_the_puzzle_three_threads_and_what_they_wait_in(GLib):
    # Tracing QEMU showed three threads that all sat in ppoll, although io_uring is the monitor it prefers. Here is why.
    reason = aioqemu_loop.fdmons()["io_uring"]
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"io_uring is not usable here: {reason}")
    calls = strace_threads(PUZZLE, env={"AIOQEMU_FDMON": ""})
    marks = [i for i, (_, call) in enumerate(calls) if re.match(r'write\(2, "(IDS|ASK|CHANGED)', call)]
    main, monitor, worker = map(int, re.findall(r"\d+", calls[marks[0]][1].partition(",")[2].partition('"')[2])[:3])
    before, after = waits(calls[marks[0] : marks[1]]), waits(calls[marks[2] :])
    for phase in (before, after):
        assert set(phase[main]) == {"ppoll"}
    for iothread in (monitor, worker):
        assert set(before[iothread]) == {"io_uring_enter"}
        assert set(after[iothread]) == {"ppoll"}
