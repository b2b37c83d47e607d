"""io_uring only where the loop says so; no fd of a loop gets into programs that it starts."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket

import pytest

import aioqemu_loop

HOST = "127.0.0.1"


def fds():
    """Number -> target of every open fd, but that of the listing."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
    return found


def rings():
    return [number for number, target in fds().items() if target == "anon_inode:[io_uring]"]


async def everything(loop, echo, shut, tls, tmp_path, look):
    """Uses each kind of fd that a loop opens, then calls look()."""
    servers = [
        await loop.create_server(echo, HOST, 0),
        await loop.create_server(echo, HOST, 0, ssl=tls[0]),
        await loop.create_unix_server(echo, str(tmp_path / "socket")),
    ]
    loop.add_signal_handler(signal.SIGUSR1, print)
    names = [server.sockets[0].getsockname() for server in servers]
    streams = [
        await asyncio.open_connection(*names[0]),
        await asyncio.open_connection(*names[1], ssl=tls[1], server_hostname="localhost"),
        await asyncio.open_unix_connection(names[2]),
    ]
    for reader, writer in streams:
        writer.write(b"x")
        assert await reader.read(1) == b"x"
    datagram, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(HOST, 0))
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1, stderr=-1)
    await loop.getaddrinfo("localhost", 80)
    await loop.run_in_executor(None, int)
    look()
    await process.communicate(b"x")
    datagram.close()
    for server, (_, writer) in zip(servers, streams, strict=True):
        await shut(server, writer)
    loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize("poll_max_ns", [0, 50_000])
def test_there_is_a_ring_exactly_where_the_loop_says_so(fdmon, no_leaks, poll_max_ns, echo, shut, tls, tmp_path):
    before, during = rings(), []
    loop = aioqemu_loop.new_event_loop(fdmon=fdmon, poll_max_ns=poll_max_ns)
    try:
        loop.run_until_complete(everything(loop, echo, shut, tls, tmp_path, lambda: during.extend(rings())))
        assert loop.fdmon == fdmon
        assert len(during) - len(before) == (fdmon in ("io_uring", "liburing"))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.parametrize("name", ["epoll", "poll"])
def test_switching_away_leaves_no_ring(no_leaks, name):
    if aioqemu_loop.fdmons()["io_uring"] is not None:
        pytest.skip("io_uring is not usable here")
    before = rings()
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    loop.context.set_fdmon(name)
    assert loop.fdmon == name
    loop.run_until_complete(asyncio.sleep(0))
    assert rings() == before
    loop.close()


def test_every_fd_is_closed_on_exec(any_factory, no_leaks, echo, shut, tls, tmp_path):
    before = fds()
    wrong = {}

    def look():
        for number, target in fds().items():
            if before.get(number) != target and not fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                wrong[number] = target

    loop = any_factory()
    try:
        loop.run_until_complete(everything(loop, echo, shut, tls, tmp_path, look))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert wrong == {}


def test_an_accepted_sock_is_closed_on_exec_and_does_not_block(run, any_loop):
    async def main():
        with socket.create_server((HOST, 0)) as listener, socket.create_connection(listener.getsockname()):
            listener.setblocking(False)
            conn, _ = await any_loop.sock_accept(listener)
            with conn:
                assert not os.get_inheritable(conn.fileno()) and conn.gettimeout() == 0

    run(main())
