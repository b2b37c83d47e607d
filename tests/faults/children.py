"""Single situations, run under faults.c in a process of their own: python -m tests.faults.children NAME ARGUMENTS."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import signal
import socket
import sys
from asyncio import constants
from typing import Any

import aioqemu_loop
from aioqemu_loop.context.fdmons import BACKENDS
from tests.faults.faults import WAITS, Faults, Plan
from tests.faults.scenarios import SCENARIOS, Report
from tests.faults.sweep import open_fds

faults = Faults()


class Counter(asyncio.Protocol):
    """A server's end that answers with what it gets."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def answered(address: Any) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()


def accept_fails(backend: str) -> None:
    """Whatever accept() says for some time: the loop is told a few times, does not spin, and serves who waited."""
    constants.ACCEPT_RETRY_DELAY = 0.02

    async def serve(error: int) -> None:
        told: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, details: told.append(details))
        server = await loop.create_server(Counter, "127.0.0.1", 0, backlog=20)
        faults.arm(Plan("accept4", error, count=-1))
        client = asyncio.ensure_future(answered(server.sockets[0].getsockname()))
        await asyncio.sleep(0.2)
        calls = faults.calls()
        faults.disarm()
        await client
        assert calls["accept4"] <= 400, calls
        assert sum(calls.get(call, 0) for call in WAITS) <= 100, calls
        assert 1 <= len(told) <= 12, told
        assert {details["exception"].errno for details in told} == {error}, told
        assert all("accept" in details["message"] for details in told), told
        server.close()

    for name in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "ECONNABORTED", "EINVAL", "ENOSYS", "EIO"]:
        aioqemu_loop.run(serve(getattr(errno, name)), fdmon=backend)


def accept_under_a_shortage_that_lasts(backend: str) -> None:
    """After the pause the monitor has no room for the listener, for some time."""
    constants.ACCEPT_RETRY_DELAY = 0.02

    async def serve() -> None:
        told: list[int] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, details: told.append(details["exception"].errno))
        server = await loop.create_server(Counter, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        faults.arm(Plan("accept4", errno.EMFILE))
        while not faults.done:
            await asyncio.sleep(0)
        faults.arm(Plan("epoll_ctl", errno.ENOSPC, count=3))
        while backend == "epoll" and faults.done < 3:
            await asyncio.sleep(0.01)
        faults.disarm()
        client.setblocking(False)
        await loop.sock_sendall(client, b"hello")
        assert await loop.sock_recv(client, 5) == b"hello"
        assert told == [errno.EMFILE] + [errno.ENOSPC] * (3 if backend == "epoll" else 0), told
        client.close()
        server.close()
        await asyncio.sleep(0)

    aioqemu_loop.run(serve(), fdmon=backend)


def ring_denied_later(error: str) -> None:
    """The ring is there and in use, then a seccomp profile forbids io_uring_enter for good."""
    number = getattr(errno, error)
    before = open_fds()
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    report = Report()
    loop.run_until_complete(SCENARIOS["tcp"](report))
    task = loop.create_task(asyncio.sleep(3600))
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    loop.run_until_complete(loop.create_server(Counter, sock=listener))
    faults.arm(Plan("io_uring_enter", number, count=-1))
    for _ in range(3):
        try:
            loop.run_until_complete(task)
        except OSError as exc:
            assert exc.errno == number, exc
        else:
            raise AssertionError("no error")
    assert faults.calls()["io_uring_enter"] < 50, faults.calls()
    task.cancel()
    try:
        loop.close()
    except OSError as exc:
        assert exc.errno == number, exc
    assert loop.is_closed()
    assert aioqemu_loop.new_event_loop().fdmon == "epoll"
    assert error in aioqemu_loop.fdmons()["io_uring"]
    faults.disarm()
    listener.close()
    del loop, task
    gc.collect()
    left = {name for name in open_fds() - before if "io_uring" in name or "socket" in name}
    assert not left, left
    socket.create_server(address).close()
    assert not report.wrong, report.wrong


def workload_as_user(limit: str) -> None:
    """A user's first loops with RLIMIT_MEMLOCK of so many KiB: everything works, by the ring or without."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(limit) * 1024,) * 2)
    uid = 41000 + os.getpid() % 10_000
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    names = set()
    for scenario in ("tcp", "streams", "file_io", "udp", "subprocess"):
        report = Report()
        loop = aioqemu_loop.new_event_loop()
        names.add(loop.fdmon)
        loop.run_until_complete(SCENARIOS[scenario](report))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert not report.wrong and not report.errors, (scenario, report.wrong, report.errors)
    print(*sorted(names), aioqemu_loop.fdmons()["io_uring"])


def overflow(level: str, seconds: str) -> None:
    """More completions at once than the completion queue has room for, again and again; no callback is lost."""
    count = 600

    async def run() -> int:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(count)]
        got = [0] * count
        expected = 0
        round_over = asyncio.Event()
        left = 0

        def read(i: int) -> None:
            nonlocal left
            got[i] += len(pairs[i][1].recv(100))
            left -= 1
            if not left:
                round_over.set()

        for i, pair in enumerate(pairs):
            for sock in pair:
                sock.setblocking(False)
            loop.add_reader(pair[1], read, i)
        until = loop.time() + float(seconds)
        while loop.time() < until:
            round_over.clear()
            left = count
            expected += 1
            for writer, _ in pairs:
                writer.send(b"x")
            await round_over.wait()
        assert got == [expected] * count
        for writer, reader in pairs:
            loop.remove_reader(reader)
            writer.close()
            reader.close()
        return expected

    faults.arm(Plan(level=int(level)))
    monitor = BACKENDS["io_uring"]()
    print(aioqemu_loop.run(run(), fdmon=monitor), monitor.overflowed)


def first_polls(level: str) -> None:
    """Connections that are all made before the kernel has said what it thinks of the first poll."""

    async def run() -> None:
        pairs = [socket.socketpair() for _ in range(4)]
        streams = await asyncio.gather(*(asyncio.open_connection(sock=near) for near, _ in pairs))
        for _ in range(3):
            for _, far in pairs:
                far.send(b"x")
            got = await asyncio.wait_for(asyncio.gather(*(reader.read(10) for reader, _ in streams)), 10)
            assert got == [b"x"] * 4
        for (_, writer), (_, far) in zip(streams, pairs, strict=True):
            writer.close()
            far.close()

    faults.arm(Plan("sqe_poll", errno.ENOMEM, level=int(level)))  # the wake-up's, which would have been told first
    aioqemu_loop.run(run(), fdmon="io_uring")


def paused_readers(backend: str) -> None:
    """A thousand connections that read nothing, and more data for them than the shared buffers hold: another one goes
    on as if they were not there, and in the end they get every byte."""
    count, size = 1000, 30_000

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ends: list[Any] = []
        paused: list[Any] = []

        class Paused(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport
                self.got = bytearray()
                ends.append(self)

            def data_received(self, data: bytes) -> None:
                self.got += data
                if len(self.got) == len(data):
                    self.transport.pause_reading()
                    paused.append(self)

        server = await loop.create_server(Paused, "127.0.0.1", 0, backlog=2000)
        echo = await loop.create_server(Counter, "127.0.0.1", 0)
        payloads = [bytes([i % 251, i // 251]) * (size // 2) for i in range(count)]
        peers = []
        for payload in payloads:
            peer = socket.create_connection(server.sockets[0].getsockname())
            peer.setblocking(False)
            peers.append(peer)
            peer.send(payload[:10])
        while len(paused) < count:
            await asyncio.sleep(0)
        for peer, payload in zip(peers, payloads, strict=True):
            await loop.sock_sendall(peer, payload[10:])
        for _ in range(50):
            await answered(echo.sockets[0].getsockname())
        assert sum(len(end.got) for end in ends) == 10 * count
        for end in ends:  # all at once: 30 times of what the buffers hold
            end.transport.resume_reading()
        while sum(len(end.got) for end in ends) < count * size:
            await asyncio.sleep(0)
        by_name = {end.transport.get_extra_info("peername"): bytes(end.got) for end in ends}
        for peer, payload in zip(peers, payloads, strict=True):
            assert by_name[peer.getsockname()] == payload
            peer.close()
        server.close()
        echo.close()
        await asyncio.sleep(0)

    resource.setrlimit(resource.RLIMIT_NOFILE, (4000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    aioqemu_loop.run(run(), fdmon=backend)


if __name__ == "__main__":
    signal.alarm(50)
    globals()[sys.argv[1]](*sys.argv[2:])
