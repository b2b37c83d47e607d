"""loop.metrics(): every counter counts what its name says, on each backend."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import socket
import threading
import time

import pytest

from aioqemu_loop.context import inspection
from aioqemu_loop.loop.metrics import Metrics
from aioqemu_loop.loop.registry import loops

from ..fdmon.tracing import names, strace


def difference(after: Metrics, before: Metrics) -> dict[str, int]:
    return {
        field.name: getattr(after, field.name) - getattr(before, field.name)
        for field in dataclasses.fields(Metrics)
        if field.name != "busy_histogram"
    }


def test_it_is_a_snapshot_that_nobody_changes(loop, turn) -> None:
    before = loop.metrics()
    turn(loop, 3)
    assert loop.metrics().turns > before.turns
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.turns = 0
    assert len(before.busy_histogram) == 24


def test_turns_and_callbacks(loop, turn) -> None:
    turn(loop)
    before = loop.metrics()
    for _ in range(10):
        loop.call_soon(int)
    assert loop.metrics().queued == before.queued + 10
    turn(loop)
    gained = difference(loop.metrics(), before)
    assert gained["turns"] >= 1
    assert gained["callbacks"] == 11  # and the stop
    assert loop.metrics().queued == 0


def test_waiting_is_measured(loop) -> None:
    before = loop.metrics()
    started = time.monotonic_ns()
    loop.run_until_complete(asyncio.sleep(0.05))
    took = time.monotonic_ns() - started
    gained = difference(loop.metrics(), before)
    assert gained["sleeps"] >= 1
    assert gained["looks"] >= gained["sleeps"]
    assert 40_000_000 < gained["waited_ns"] <= took


def test_the_lag_that_a_slow_callback_makes(loop, turn) -> None:
    turn(loop)
    before = loop.metrics()

    def slow() -> None:
        loop.call_later(0.001, loop.stop)
        until = time.monotonic_ns() + 20_000_000
        while time.monotonic_ns() < until:
            pass

    loop.call_later(0.001, slow)
    loop.run_forever()
    after = loop.metrics()
    assert after.busy_max_ns >= 20_000_000
    slowest = after.busy_max_ns.bit_length() - 11
    assert after.busy_histogram[slowest] == before.busy_histogram[slowest] + 1
    assert not any(after.busy_histogram[slowest + 1 :])
    assert sum(after.busy_histogram) > sum(before.busy_histogram)


def test_the_time_between_two_runs_is_no_lag(loop, turn) -> None:
    turn(loop)
    looked = loop.metrics().busy_histogram
    until = time.monotonic_ns() + 300_000_000
    while time.monotonic_ns() < until:
        pass
    turn(loop)
    after = loop.metrics()
    assert sum(after.busy_histogram[18:]) == sum(looked[18:])  # from 262 ms


@pytest.mark.parametrize("streams", ["tcp", "unix", "sock"])
def test_bytes_and_connections(loop, turn, streams, tmp_path) -> None:
    async def echo(reader, writer):
        writer.write(await reader.readexactly(100_000))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        if streams == "unix":
            server = await asyncio.start_unix_server(echo, str(tmp_path / "socket"))
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
        else:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
        if streams == "tcp":
            reader, writer = await asyncio.open_connection(*address)
        if streams == "sock":
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                await loop.sock_sendall(sock, bytes(100_000))
                left = 100_000
                while left:
                    left -= len(await loop.sock_recv(sock, 65536))
                assert await loop.sock_recv(sock, 1) == b""
        else:
            writer.write(bytes(100_000))
            await reader.readexactly(100_000)
            assert not await reader.read()
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    turn(loop)  # from then on signals have their handler
    before = loop.metrics()
    loop.run_until_complete(main())
    gained = difference(loop.metrics(), before)
    assert gained["bytes_sent"] == gained["bytes_received"] == 200_000
    assert gained["connections_accepted"] == 1
    assert gained["transports_opened"] == gained["transports_closed"] == (1 if streams == "sock" else 2)
    if streams != "sock":  # epoll keeps a registration that may be wanted again
        assert gained["handlers"] == 0


def test_datagrams_and_pipes(loop) -> None:
    async def main():
        got = loop.create_future()

        class Receiver(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                got.set_result(data)

        receiver, _ = await loop.create_datagram_endpoint(Receiver, ("127.0.0.1", 0))
        sender, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=receiver.get_extra_info("sockname")
        )
        sender.sendto(bytes(700))
        assert len(await got) == 700
        sender.close()
        receiver.close()
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        reads, writes = os.fdopen(read_end, "rb", 0), os.fdopen(write_end, "wb", 0)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), reads)
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, writes)
        writing.write(bytes(300))
        writing.close()
        assert len(await reader.read()) == 300
        await asyncio.sleep(0)

    before = loop.metrics()
    loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0.01))
    gained = difference(loop.metrics(), before)
    assert gained["bytes_sent"] == gained["bytes_received"] == 1000
    assert gained["transports_opened"] == gained["transports_closed"] == 4


def test_a_transport_that_nobody_closed_has_ended_too(loop, pair) -> None:
    ours, _ = pair()
    before = loop.metrics()
    with pytest.warns(ResourceWarning, match="unclosed transport"):

        async def main():
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transport.pause_reading()
            return transport

        transport = loop.run_until_complete(main())
        loop.close()
        del transport
        gc.collect()
    after = inspection.counters(loop.context)
    assert after["transports_opened"] - before.transports_opened == 1
    assert after["transports_closed"] - before.transports_closed == 1


def test_counters_survive_another_monitor(loop, turn) -> None:
    loop.run_until_complete(asyncio.sleep(0.001))
    before = loop.metrics().system_calls
    assert before > 0
    loop.context.set_fdmon("poll")
    loop.context.set_fdmon("epoll")
    assert loop.metrics().system_calls >= before


ECHO = """
    import asyncio, os, sys
    import aioqemu_loop

    async def main():
        async def echo(reader, writer):
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        loop = asyncio.get_running_loop()
        async def rounds(count):
            for _ in range(count):
                writer.write(b"x" * 100)
                await reader.readexactly(100)
        await rounds(10)
        before = loop.metrics().system_calls
        os.write(2, b"BEGIN")
        await rounds(200)
        os.write(2, b"END")
        print(loop.metrics().system_calls - before, file=open(sys.argv[2], "w"))
        writer.close()
        server.close()

    aioqemu_loop.run(main(), fdmon=sys.argv[1], poll_max_ns=0)
"""


def test_system_calls_are_those_that_strace_sees(fdmon, tmp_path) -> None:
    seen = names(strace(ECHO, fdmon, str(tmp_path / "counted")))
    moving = {"recvfrom", "recvmsg", "sendto", "sendmsg", "writev", "read", "accept4"}
    waiting = {"io_uring_enter", "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "ppoll"}
    counted = int((tmp_path / "counted").read_text())
    assert counted > 200
    assert abs(counted - sum(name in moving | waiting for name in seen)) <= 2


def test_handlers_and_timers_are_counted(loop, pair) -> None:
    ours, _ = pair()
    loop.add_reader(ours, int)
    timer = loop.call_later(1000, int)
    assert (loop.metrics().handlers, loop.metrics().timers) == (1, 1)
    timer.cancel()
    loop.remove_reader(ours)
    assert (loop.metrics().handlers, loop.metrics().timers) == (0, 0)


# -- what others ask of a loop that runs --


def test_progress_tells_a_stuck_callback_from_sleep(loop) -> None:
    stuck, go_on = threading.Event(), threading.Event()
    seen = []

    def block() -> None:
        stuck.set()
        assert go_on.wait(30)

    def look() -> None:
        assert stuck.wait(30)
        seen.append(inspection.progress(loop.context))
        seen.append(inspection.progress(loop.context))
        go_on.set()

    other = threading.Thread(target=look)
    other.start()
    loop.call_soon(block)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    other.join()
    assert seen[0] == seen[1]
    assert seen[0][2] is False
    assert inspection.progress(loop.context)[1] > seen[0][1]


def test_a_loop_that_waits_is_asleep(loop) -> None:
    found = []

    def look() -> None:
        deadline = time.monotonic() + 30
        while not inspection.progress(loop.context)[2] and time.monotonic() < deadline:
            pass
        found.append(inspection.progress(loop.context)[2])
        loop.call_soon_threadsafe(loop.stop)

    other = threading.Thread(target=look)
    other.start()
    loop.run_forever()
    other.join()
    assert found == [True]


def test_handlers_name_their_owners(loop, pair) -> None:
    ours, _ = pair()
    third, _ = pair()

    def readable() -> None: ...

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        await asyncio.sleep(0)
        loop.add_reader(third, readable)
        found = {fd: owner for fd, events, handler, owner in inspection.handlers(loop.context)}
        assert found[ours.fileno()] is transport
        assert found[server.sockets[0].fileno()] is server
        reader, writer = found[third.fileno()]
        assert reader._callback is readable
        assert writer is None
        loop.remove_reader(third)
        transport.abort()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_timers_are_listed(loop) -> None:
    far = loop.call_later(1000, int)
    near = loop.call_later(500, int)
    loop.call_later(700, int).cancel()
    listed = inspection.timers(loop.context, 100)
    assert [item for _, item in listed] == [near, far]
    assert listed[0][0] == pytest.approx(near.when() * 1e9, abs=1e6)
    near.cancel()
    far.cancel()
    assert inspection.timers(loop.context, 100) == []


def test_many_timers_are_listed_without_a_collection(loop) -> None:
    """While the collector looks at the program, that stands still."""
    for i in range(20_000):
        loop.call_later(1000 - i / 1000, int)
    collections = []
    gc.collect()  # what was made above counts no more
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    try:
        (first, second) = inspection.timers(loop.context, 2)
    finally:
        gc.callbacks.pop()
    assert first < second
    assert first[1].when() == pytest.approx(loop.time() + 980, abs=15)
    assert collections == []


def test_loops_are_known_until_they_are_closed(loop_factory, no_leaks) -> None:
    before = loops()
    first, second = loop_factory(), loop_factory()
    assert loops() == [*before, first, second]
    first.close()
    assert loops() == [*before, second]
    second.close()
    child = os.fork()
    if child == 0:
        os._exit(1 if loops() else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_tasks_tell_their_age_where_somebody_asked(loop) -> None:
    async def main():
        unknown = asyncio.current_task()
        loop._notes_task_births = True
        known = loop.create_task(asyncio.sleep(0))
        loop.set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
        made = loop.create_task(asyncio.sleep(0))
        await known
        await made
        assert not hasattr(unknown, "_aioqemu_born")
        for task in (known, made):
            assert loop.time() - 30 < task._aioqemu_born <= loop.time()

    loop.run_until_complete(main())
