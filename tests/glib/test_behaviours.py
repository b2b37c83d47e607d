"""What asyncio programs do, on every kind of guest and host, with GLib's own sources going on meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import socket
import statistics
import sys
import threading
import time

import pytest

from ..conftest import PATIENCE
from ..processor import kept_waiting
from .helpers import ticking
from .real import GLib

HOST = "127.0.0.1"
TICK_MS = 2


@pytest.fixture
def ticks():
    """Moments at which a GLib timeout of 2 ms fired."""
    with ticking(TICK_MS) as moments:
        yield moments


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


class TestTimers:
    def test_never_early_in_order_and_a_millisecond_late_at_most_where_nothing_else_happens(self, any_loop, kind, run):
        delays = [0, 0.0001, 0.0004, 0.001, 0.0015, 0.003, 0.0071, 0.02]
        late = []

        async def measure():
            for delay in delays:
                fired = any_loop.create_future()
                waited = kept_waiting()
                due = any_loop.time() + delay
                any_loop.call_at(due, lambda fired=fired: fired.set_result(any_loop.time()))
                late.append(await fired - due)
                assert late[-1] >= 0
                late[-1] -= kept_waiting() - waited

        for _ in range(10):
            run(measure())
        # A guest's are rounded up to GLib's ms; a host's are not. The median, for machines are shared.
        bound = 0.0016 if kind.startswith("guest") else 0.0009
        assert statistics.median(late) < bound

    def test_hundreds_at_once_fire_in_the_order_of_their_times(self, any_loop, run, ticks):
        order = []

        async def main():
            done = any_loop.create_future()
            base = any_loop.time() + 0.01
            for i in reversed(range(500)):
                any_loop.call_at(base + i * 0.0001, order.append, i)
            any_loop.call_at(base + 0.08, done.set_result, None)
            cancelled = [any_loop.call_at(base + 0.001, order.append, "cancelled") for _ in range(500)]
            for handle in cancelled:
                handle.cancel()
            await done

        run(main())
        assert order == list(range(500))
        assert ticks

    def test_a_long_timer_does_not_overflow_glib(self, any_loop, run):
        async def main():
            handles = [any_loop.call_later(seconds, lambda: None) for seconds in (3e6, 1e9, 1e12, math.inf)]
            await asyncio.sleep(0.01)
            for handle in handles:
                handle.cancel()

        run(main())


class TestFairness:
    def test_a_busy_loop_starves_neither_fds_nor_glib(self, any_loop, run, ticks):
        async def main():
            a, b = socket.socketpair()
            with a, b:
                a.setblocking(False)
                came = any_loop.create_future()
                any_loop.add_reader(a, lambda: came.done() or came.set_result(a.recv(10)))
                b.send(b"x")
                turns = 0
                deadline = any_loop.time() + PATIENCE
                while not (came.done() and len(ticks) > 3) and any_loop.time() < deadline:
                    turns += 1
                    await asyncio.sleep(0)
                any_loop.remove_reader(a)
                return await asyncio.wait_for(came, PATIENCE)

        assert run(main()) == b"x"
        assert len(ticks) > 3

    def test_busy_glib_idles_do_not_starve_the_loop(self, any_loop, run):
        source = GLib.idle_source_new()
        source.set_callback(lambda *_: True)
        source.attach()
        try:
            run(asyncio.sleep(0.01))
        finally:
            source.destroy()


class TestSockets:
    def test_streams_of_many_connections(self, run, ticks):
        async def talk(port, number):
            reader, writer = await asyncio.open_connection(HOST, port)
            for size in (1, 1000, 100_000):
                data = bytes([number]) * size
                writer.write(data)
                assert await reader.readexactly(size) == data
            writer.close()
            await writer.wait_closed()

        async def main():
            server = await asyncio.start_server(echo, HOST, 0)
            port = server.sockets[0].getsockname()[1]
            await asyncio.gather(*(talk(port, number) for number in range(50)))
            server.close()
            await server.wait_closed()

        run(main())
        assert ticks

    def test_bulk_both_ways_with_flow_control(self, run, ticks):
        size = 20 << 20

        async def main():
            server = await asyncio.start_server(echo, HOST, 0)
            reader, writer = await asyncio.open_connection(HOST, server.sockets[0].getsockname()[1])

            async def send():
                for _ in range(size >> 16):
                    writer.write(bytes(1 << 16))
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.ensure_future(send())
            received = 0
            while data := await reader.read(1 << 18):
                received += len(data)
            await sending
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            return received

        assert run(main()) == size
        assert ticks

    def test_tls(self, run, tls, ticks):
        async def main():
            server = await asyncio.start_server(echo, HOST, 0, ssl=tls[0])
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(HOST, port, ssl=tls[1], server_hostname="localhost")
            for size in (1, 16385, 500_000):
                writer.write(bytes(size))
                assert await reader.readexactly(size) == bytes(size)
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(main())

    def test_datagrams(self, any_loop, run):
        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, peer):
                self.transport.sendto(data, peer)

        class Client(asyncio.DatagramProtocol):
            def __init__(self):
                self.came = asyncio.Queue()

            def datagram_received(self, data, peer):
                self.came.put_nowait(data)

        async def main():
            server, _ = await any_loop.create_datagram_endpoint(Echo, local_addr=(HOST, 0))
            client, protocol = await any_loop.create_datagram_endpoint(
                Client, remote_addr=server.get_extra_info("sockname")
            )
            for number in range(200):
                client.sendto(b"%d" % number)
                assert await protocol.came.get() == b"%d" % number
            client.close()
            server.close()
            await asyncio.sleep(0)

        run(main())

    def test_unix_sockets_and_sock_calls(self, any_loop, run, tmp_path):
        async def main():
            server = await asyncio.start_unix_server(echo, tmp_path / "socket")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                await any_loop.sock_connect(sock, str(tmp_path / "socket"))
                for _ in range(100):
                    await any_loop.sock_sendall(sock, b"ping")
                    assert await any_loop.sock_recv(sock, 100) == b"ping"
            server.close()
            await server.wait_closed()

        run(main())

    def test_readers_and_writers(self, any_loop, run):
        async def main():
            a, b = socket.socketpair()
            with a, b:
                a.setblocking(False)
                b.setblocking(False)
                left = 2000
                done = any_loop.create_future()

                def readable(sock):
                    nonlocal left
                    sock.recv(1)
                    left -= 1
                    if left > 0:
                        sock.send(b"x")
                    elif not done.done():
                        done.set_result(None)

                writable = any_loop.create_future()
                any_loop.add_writer(a, lambda: any_loop.remove_writer(a) and writable.set_result(None))
                await writable
                for sock in (a, b):
                    any_loop.add_reader(sock, readable, sock)
                a.send(b"x")
                await done
                for sock in (a, b):
                    assert any_loop.remove_reader(sock)

        run(main())


class TestPipesAndProcesses:
    def test_pipes(self, any_loop, run):
        async def main():
            read_end, write_end = os.pipe()
            reader = asyncio.StreamReader()
            reading, _ = await any_loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
            )
            writing, _ = await any_loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write_end, "wb", 0))
            writing.write(bytes(1 << 20))
            assert await reader.readexactly(1 << 20) == bytes(1 << 20)
            writing.close()
            assert await reader.read() == b""
            reading.close()

        run(main())

    def test_subprocesses(self, run, ticks):
        async def one(number):
            child = await asyncio.create_subprocess_exec(
                "sh", "-c", f"cat; exit {number}", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await child.communicate(b"%d" % number * 1000)
            return out, child.returncode

        async def main():
            return await asyncio.gather(*(one(number) for number in range(8)))

        assert run(main()) == [(b"%d" % number * 1000, number) for number in range(8)]

    def test_executors(self, any_loop, run, ticks):
        async def main():
            return await asyncio.gather(*(any_loop.run_in_executor(None, pow, 2, n) for n in range(200)))

        assert run(main()) == [2**n for n in range(200)]


class TestThreads:
    ROUNDS = 5000

    def test_no_wake_up_is_lost(self, any_loop, run):
        """Each thread waits until its callback ran before it asks for the next: a lost wake-up would be a hang."""

        async def main():
            def ask():
                ran = threading.Event()
                for _ in range(self.ROUNDS):
                    ran.clear()
                    any_loop.call_soon_threadsafe(ran.set)
                    if not ran.wait(PATIENCE):
                        return False
                return True

            return await asyncio.gather(*(any_loop.run_in_executor(None, ask) for _ in range(4)))

        assert run(main()) == [True] * 4

    def test_run_coroutine_threadsafe(self, any_loop, run):
        async def double(number):
            await asyncio.sleep(0)
            return 2 * number

        def ask():
            return [asyncio.run_coroutine_threadsafe(double(n), any_loop).result(PATIENCE) for n in range(300)]

        async def main():
            return await any_loop.run_in_executor(None, ask)

        assert run(main()) == [2 * n for n in range(300)]


class TestAsyncioItself:
    def test_the_running_loop_is_this_one_inside_and_none_outside(self, any_loop, run):
        async def main():
            assert asyncio.get_running_loop() is any_loop
            assert any_loop.is_running()
            seen = any_loop.create_future()
            any_loop.call_soon(lambda: seen.set_result(asyncio.get_running_loop()))
            assert await seen is any_loop

        run(main())
        assert not any_loop.is_running()
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    def test_what_fails_goes_to_the_exception_handler_and_all_goes_on(self, any_loop, run, errors):
        async def fail():
            raise ValueError("in a task")

        async def main():
            any_loop.call_soon(lambda: 1 / 0)
            any_loop.call_later(0.001, lambda: 1 / 0)
            task = any_loop.create_task(fail())
            await asyncio.sleep(0.01)
            del task
            await asyncio.sleep(0)
            return "went on"

        assert run(main()) == "went on"
        kinds = [type(details["exception"]) for details in errors]
        assert sorted(kinds, key=str) == [ValueError, ZeroDivisionError, ZeroDivisionError]
        errors.clear()

    def test_context_variables(self, any_loop, run):
        variable = contextvars.ContextVar("variable", default="outside")

        async def main():
            variable.set("inside")
            seen = []
            any_loop.call_soon(lambda: seen.append(variable.get()))
            await asyncio.sleep(0.001)
            return seen

        assert run(main()) == ["inside"]
        assert variable.get() == "outside"

    def test_asynchronous_generators_are_closed(self, any_loop, run):
        closed = []

        async def generate():
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                closed.append(True)

        async def main():
            async for _ in generate():
                break
            left = generate()
            await left.__anext__()
            await asyncio.sleep(0.01)
            assert closed == [True]
            return left

        left = run(main())
        any_loop.run_until_complete(any_loop.shutdown_asyncgens())
        assert closed == [True, True]
        del left
        assert sys.get_asyncgen_hooks() == (None, None)

    def test_debug_mode_tells_of_slow_callbacks_and_of_where_coroutines_were_made(self, any_loop, run, caplog):
        async def forgotten():
            pass

        async def main():
            any_loop.call_soon(time.sleep, 0.03)
            await asyncio.sleep(0.001)
            coroutine = forgotten()
            assert coroutine.cr_origin
            coroutine.close()

        any_loop.set_debug(True)
        any_loop.slow_callback_duration = 0.02
        with caplog.at_level(logging.WARNING, "asyncio"):
            run(main())
        assert any("sleep" in record.message and "took" in record.message for record in caplog.records)
        assert sys.get_coroutine_origin_tracking_depth() == 0

    def test_stop_before_running_is_one_turn(self, any_loop):
        ran = []
        any_loop.call_soon(lambda: (ran.append(1), any_loop.call_soon(ran.append, 2)))
        any_loop.stop()
        any_loop.run_forever()
        assert ran == [1]
        any_loop.stop()
        any_loop.run_forever()
        assert ran == [1, 2]

    def test_it_can_run_again_and_again(self, any_loop, run):
        for number in range(50):
            assert run(asyncio.sleep(0, number)) == number

    def test_the_monitor_can_be_changed_meanwhile(self, any_loop, run):
        async def main():
            server = await asyncio.start_server(echo, HOST, 0)
            reader, writer = await asyncio.open_connection(HOST, server.sockets[0].getsockname()[1])
            for name in ("epoll", "poll", "epoll", "poll"):
                any_loop.context.set_fdmon(name)
                for _ in range(5):
                    writer.write(b"ping")
                    assert await reader.readexactly(4) == b"ping"
                await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(main())
