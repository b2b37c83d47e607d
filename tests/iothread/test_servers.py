"""create_server(..., iothreads=...) and its like: where connections live, who counts them, and what ends them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import os
import socket
import sys
import threading

import pytest

import aioqemu_loop

PATIENCE = 15.0
variable = contextvars.ContextVar("variable", default="unset")


def data_of(number, size):
    return b"".join(b"%d-%d;" % (number, i) for i in range(size))


class Echo(asyncio.Protocol):
    def __init__(self, made=None):
        self.made = made

    def connection_made(self, transport):
        self.transport = transport
        if self.made is not None:
            self.made.append((threading.get_native_id(), asyncio.get_running_loop()))

    def data_received(self, data):
        self.transport.write(data)


class Noted(Echo):
    """Tells in which thread it was called."""

    def __init__(self):
        super().__init__([])
        self.begun = threading.Event()
        self.lost = threading.Event()
        self.lost_in = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self.begun.set()

    def connection_lost(self, exc):
        self.lost_in = threading.get_native_id()
        self.lost.set()


async def wait(event):
    """For a threading.Event."""
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, PATIENCE)


async def echo_streams(threads, reader, writer):
    threads.append((threading.get_native_id(), asyncio.get_running_loop()))
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


async def others_end():
    """In an IOThread: all else has ended. Up to 3.11 a server's wait_closed() does not wait for handlers."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)


@contextlib.asynccontextmanager
async def connected(server, **options):
    address = server.sockets[0].getsockname()
    if isinstance(address, str):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        reader, writer = await asyncio.open_connection(*address[:2], **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def talk(server, number, **options):
    """Send and check 20 pieces, in and out at once."""
    async with connected(server, **options) as (reader, writer):
        data = data_of(number, 200 + number * 50)
        for _ in range(20):
            writer.write(data)
            await writer.drain()
            assert await reader.readexactly(len(data)) == data
        return number


@pytest.mark.parametrize("kind", ["protocol", "streams", "tls protocol", "tls streams", "unix", "unix streams"])
def test_echo_over_a_pool(pool, run, kind, tls, tmp_path):
    seen = []
    client_options = {}
    options = {}
    if "tls" in kind:
        options["ssl"] = tls[0]
        client_options = {"ssl": tls[1], "server_hostname": "localhost"}

    async def main():
        loop = asyncio.get_running_loop()
        handler = functools.partial(echo_streams, seen)
        path = tmp_path / "socket"
        if kind == "unix":
            server = await loop.create_unix_server(lambda: Echo(seen), path, iothreads=pool)
        elif kind == "unix streams":
            server = await asyncio.start_unix_server(handler, path, iothreads=pool)
        elif "streams" in kind:
            server = await asyncio.start_server(handler, "127.0.0.1", 0, iothreads=pool, **options)
        else:
            server = await loop.create_server(lambda: Echo(seen), "127.0.0.1", 0, iothreads=pool, **options)
        talks = [talk(server, i, **client_options) for i in range(60)]
        assert await asyncio.wait_for(asyncio.gather(*talks), 3 * PATIENCE) == list(range(60))
        server.close()
        await server.wait_closed()
        for thread in pool:
            await asyncio.wait_for(thread.run(others_end()), PATIENCE)

    run(main())
    threads = [(thread.thread_id, thread.loop) for thread in pool]
    assert len(seen) == 60
    assert all(where in threads for where in seen)
    assert set(seen) == set(threads)
    gc.collect()


def test_the_thread_with_the_fewest_connections_gets_the_next(pool, run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, iothreads=pool)
        async with contextlib.AsyncExitStack() as stack:

            async def connect():
                before = [set(thread.connections) for thread in pool]
                one = contextlib.AsyncExitStack()
                _, writer = await one.enter_async_context(connected(server))
                await stack.enter_async_context(one)
                writer.write(b"x")
                await _.readexactly(1)
                (index,) = [i for i, thread in enumerate(pool) if thread.connections - before[i]]
                return index, one

            first = [await connect() for _ in range(6)]
            assert [index for index, _ in first] == [0, 1, 2, 0, 1, 2]
            gone = [pool[1].connections.copy()]
            for index, one in first:
                if index == 1:
                    await one.aclose()
            while pool[1].connections & gone[0]:
                await asyncio.sleep(0.001)
            assert [(await connect())[0] for _ in range(3)] == [1, 1, 0]
        server.close()

    run(main())


def test_a_handler_that_blocks_does_not_delay_the_other_threads(pool, run):
    release = threading.Event()
    blocked = threading.Event()

    class Blocker(Echo):
        def data_received(self, data):
            if data == b"block":
                blocked.set()
                release.wait(PATIENCE)
            self.transport.write(data)

    async def main():
        server = await asyncio.get_running_loop().create_server(Blocker, "127.0.0.1", 0, iothreads=pool)
        async with connected(server) as (reader, writer):
            writer.write(b"block")
            await wait(blocked)
            others = [talk(server, i) for i in range(2)]  # two, so that none goes to the thread that is blocked
            await asyncio.wait_for(asyncio.gather(*others), PATIENCE)
            assert not release.is_set()
            release.set()
            assert await reader.readexactly(5) == b"block"
        server.close()

    run(main())


def test_context_variables_of_who_made_the_server_are_seen(pool, run):
    async def tell(reader, writer):
        writer.write(variable.get().encode())
        writer.close()

    async def main():
        variable.set("of the server")
        server = await asyncio.start_server(tell, "127.0.0.1", 0, iothreads=pool)
        async with connected(server) as (reader, _):
            assert await reader.read() == b"of the server"
        server.close()

    run(main())


def test_a_server_that_starts_later(pool, run):
    async def main():
        server = await asyncio.start_server(
            functools.partial(echo_streams, []), "127.0.0.1", 0, iothreads=pool, start_serving=False
        )
        assert not server.is_serving()
        await server.start_serving()
        assert await talk(server, 3) == 3
        server.close()
        for thread in pool:
            await asyncio.wait_for(thread.run(others_end()), PATIENCE)

    run(main())


def test_any_iothreads_will_do(new_iothread, run):
    one, other = new_iothread("one"), new_iothread("other")
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Echo(seen), "127.0.0.1", 0, iothreads=iter([one, other]))
        await talk(server, 1)
        await talk(server, 2)
        server.close()

    run(main())
    assert [thread for thread, _ in seen] == [one.thread_id, other.thread_id]


def test_a_server_in_an_iothread_may_use_itself(new_iothread):
    thread = new_iothread("all")

    async def main():
        server = await asyncio.start_server(functools.partial(echo_streams, []), "127.0.0.1", 0, iothreads=[thread])
        assert await talk(server, 3) == 3
        server.close()

    thread.submit(main()).result(PATIENCE)


@pytest.mark.parametrize("unix", [False, True])
def test_what_iothreads_cannot_be(pool, run, unix, tmp_path):
    pool[0].stop()

    async def main():
        loop = asyncio.get_running_loop()

        async def make(iothreads):
            if unix:
                await loop.create_unix_server(Echo, tmp_path / "socket", iothreads=iothreads)
            else:
                await loop.create_server(Echo, "127.0.0.1", 0, iothreads=iothreads)

        with pytest.raises(ValueError, match="empty"):
            await make([])
        with pytest.raises(RuntimeError, match="'pool-0' stopped"):
            await make(pool)
        with pytest.raises(TypeError, match="IOThread"):
            await make([loop])
        with pytest.raises(TypeError):
            await make(pool[1])
        assert not list(tmp_path.iterdir())

    run(main())


def test_a_factory_that_fails_costs_one_connection(pool, run):
    fails = [True]

    def factory():
        if fails.pop() if fails else False:
            raise ZeroDivisionError("no protocol today")
        return Echo()

    async def main():
        for thread in pool:
            thread.loop.set_debug(True)
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, iothreads=pool)
        async with connected(server) as (reader, _):
            assert await reader.read() == b""
        assert await talk(server, 1) == 1
        server.close()
        await server.wait_closed()

    run(main())
    (details,) = pool.errors
    assert isinstance(details["exception"], ZeroDivisionError)
    pool.errors.clear()


def test_a_tls_handshake_that_fails_costs_one_connection(pool, run, tls):
    async def main():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=tls[0], iothreads=pool)
        async with connected(server) as (reader, writer):
            writer.write(b"this is no TLS at all\n")
            await reader.read()
        assert await talk(server, 1, ssl=tls[1], server_hostname="localhost") == 1
        server.close()
        await server.wait_closed()

    run(main())


# -- the server's books --


def active(server):
    return len(server._clients) if sys.version_info >= (3, 13) else server._active_count


def test_the_server_counts_connections_of_other_threads(pool, run):
    async def main():
        made = []

        def factory():
            made.append(Noted())
            return made[-1]

        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, iothreads=pool)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(connected(server))
            while active(server) < 5:
                await asyncio.sleep(0.001)
        while active(server):
            await asyncio.sleep(0.001)
        assert len(made) == 5
        assert not any(thread.connections for thread in pool)
        server.close()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12, 1), reason="wait_closed() waits from 3.12.1 on")
def test_wait_closed_waits_for_connections_of_other_threads(pool, run):
    async def main():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, iothreads=pool)
        async with connected(server) as (reader, writer):
            writer.write(b"x")
            await reader.readexactly(1)
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, PATIENCE)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
@pytest.mark.parametrize("with_tls", [False, True])
def test_clients_of_other_threads_can_be_ended(pool, run, method, with_tls, tls):
    options = {"ssl": tls[0]} if with_tls else {}
    client_options = {"ssl": tls[1], "server_hostname": "localhost"} if with_tls else {}

    async def main():
        made = []

        def factory():
            made.append(Noted())
            return made[-1]

        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, iothreads=pool, **options)
        async with contextlib.AsyncExitStack() as stack:
            readers = []
            for _ in range(6):
                reader, writer = await stack.enter_async_context(connected(server, **client_options))
                writer.write(b"x")
                await reader.readexactly(1)
                readers.append(reader)
            server.close()
            getattr(server, method)()
            for reader in readers:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            await asyncio.wait_for(server.wait_closed(), PATIENCE)
        assert all(protocol.lost_in == protocol.made[0][0] for protocol in made)

    run(main())


# -- threads that stop --


def test_connections_of_a_thread_that_stops_are_closed_and_the_server_goes_on(pool, run):
    made = []

    def factory():
        made.append(Noted())
        return made[-1]

    async def main():
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, iothreads=pool)
        async with contextlib.AsyncExitStack() as stack:
            readers = {}
            for _ in range(3):
                reader, writer = await stack.enter_async_context(connected(server))
                writer.write(b"x")
                await reader.readexactly(1)
                readers[made[-1].made[0][0]] = reader
            stopped = pool[1].thread_id
            await asyncio.get_running_loop().run_in_executor(None, pool[1].stop)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(readers[stopped].read(), PATIENCE) == b""
            (ended,) = [protocol for protocol in made if protocol.lost.is_set()]
            assert ended.lost_in == stopped
            for i in range(6):
                assert await talk(server, i) == i
        server.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)

    run(main())
    assert len(made) == 9
    assert {protocol.made[0][0] for protocol in made[3:]} == {pool[0].thread_id, pool[2].thread_id}


def test_when_all_threads_are_stopped_what_comes_is_closed_and_told_once(pool, run):
    async def main():
        loop = asyncio.get_running_loop()
        told = []
        loop.set_exception_handler(lambda _, details: told.append(details))
        server = await loop.create_server(Echo, "127.0.0.1", 0, iothreads=pool)
        await loop.run_in_executor(None, pool.stop)
        for _ in range(3):
            async with connected(server) as (reader, _):
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        (details,) = told
        assert details["message"] == "All IOThreads of a server are stopped: what it accepts is closed"
        assert details["server"] is server
        server.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)

    run(main())


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_a_number_whose_file_was_closed_behind_a_transports_back_serves_again(iothread, run, with_tls, tls):
    """As on the server's own loop: the old protocol hears that its connection is lost, the new one works."""
    old = Noted()
    seen = []

    class NotedFd(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(transport.get_extra_info("socket").fileno())

    async def make(sock):
        await asyncio.get_running_loop().create_connection(lambda: old, sock=sock)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            NotedFd, "127.0.0.1", 0, iothreads=[iothread], **({"ssl": tls[0]} if with_tls else {})
        )
        client = socket.create_connection(server.sockets[0].getsockname())  # waits in the backlog
        one, other = socket.socketpair()
        number = one.fileno()
        iothread.submit(make(one)).result(PATIENCE)
        os.close(number)  # what accept() gets next
        options = {"ssl": tls[1], "server_hostname": "localhost"} if with_tls else {}
        reader, writer = await asyncio.open_connection(sock=client, **options)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), PATIENCE) == b"hello"
        await wait(old.lost)
        assert seen == [number]
        writer.close()
        await writer.wait_closed()
        other.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_thread_that_refuses_although_it_runs_is_given_up(pool, run):
    class Refusing:
        running = True
        connections = ()
        asked = 0

        def hand_in(self, *args, **options):
            self.asked += 1
            raise RuntimeError("it cannot be told")

    refusing = Refusing()

    async def main():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, iothreads=[refusing, pool[0]])
        for i in range(3):
            assert await talk(server, i) == i
        server.close()
        await server.wait_closed()

    run(main())
    assert refusing.asked == 1


def test_threads_that_stop_while_connections_come_lose_nothing_else(fdmon, run, no_leaks):
    """Whatever the moment, every client is served or sees the end, and the server's books come out even."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        for _ in range(5):
            pool = aioqemu_loop.IOThreadPool(2, fdmon=fdmon)
            server = await loop.create_server(Echo, "127.0.0.1", 0, iothreads=pool)

            async def client(server=server):
                with contextlib.suppress(ConnectionError):
                    async with connected(server) as (reader, writer):
                        writer.write(b"x")
                        assert await asyncio.wait_for(reader.read(1), PATIENCE) in (b"x", b"")

            clients = [asyncio.ensure_future(client()) for _ in range(60)]
            for _ in range(3):
                await asyncio.sleep(0)
            await loop.run_in_executor(None, pool.stop)
            await asyncio.gather(*clients)
            while active(server):
                await asyncio.sleep(0.001)
            server.close()
            await asyncio.wait_for(server.wait_closed(), PATIENCE)

    run(main())


def test_a_servers_loop_that_closes_leaves_connections_alone(pool, fdmon):
    made = []

    def factory():
        made.append(Noted())
        return made[-1]

    async def serve():
        return await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, iothreads=pool)

    loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
    server = loop.run_until_complete(serve())
    with socket.create_connection(server.sockets[0].getsockname(), PATIENCE) as client:

        async def accept():
            while not made:
                await asyncio.sleep(0.001)

        loop.run_until_complete(accept())
        server.close()
        loop.close()
        client.sendall(b"still there?")
        assert client.recv(100) == b"still there?"
    (protocol,) = made
    assert protocol.lost.wait(PATIENCE)
