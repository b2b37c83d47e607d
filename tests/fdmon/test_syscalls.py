"""What the backends ask of the kernel, seen by strace: one sleep when idle, and each only its own calls."""

from __future__ import annotations

import pytest

from ..conftest import need_fdmon
from .tracing import WAITS, names, strace

OWN_WAITS = {
    "io_uring": {"io_uring_enter"},
    "epoll": {"epoll_wait", "epoll_pwait", "epoll_pwait2"},
    "poll": {"ppoll"},
    "liburing": {"ppoll", "io_uring_enter"},  # the package does not let go of the GIL when it sleeps
}

# SIGALRM ends the sleep: a timer would be work to do, and the sleep one with a limit.
IDLE_CONTEXT = """
    import os, signal, sys
    import aioqemu_loop

    context = aioqemu_loop.AioContext(sys.argv[1], int(sys.argv[2]))
    reader, writer = os.pipe()
    context.set_fd_handler(reader, print)
    context.poll(False)
    over = []
    signal.signal(signal.SIGALRM, lambda *_: over.append(1))
    signal.setitimer(signal.ITIMER_REAL, 2)
    os.write(2, b"BEGIN")
    while not over:
        context.poll()
    os.write(2, b"END")
"""

IDLE_LOOP = """
    import asyncio, os, sys
    import aioqemu_loop

    async def main():
        async def echo(reader, writer):
            await reader.read()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        assert loop.fdmon == sys.argv[1]
        await asyncio.sleep(0.05)
        due = loop.create_future()
        loop.call_later(2, due.set_result, None)
        os.write(2, b"BEGIN")
        await due
        os.write(2, b"END")
        server.close()

    aioqemu_loop.run(main(), fdmon=sys.argv[1])
"""

ECHO = """
    import asyncio, os
    import aioqemu_loop

    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def client(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(50):
            writer.write(b"x" * 100)
            assert await reader.readexactly(100) == b"x" * 100
            await asyncio.sleep(0.0001)
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(client(port) for _ in range(10)))
        server.close()

    aioqemu_loop.fdmons()  # starts a process, once, to try "liburing"
    os.write(2, b"BEGIN")
    aioqemu_loop.run(main())
    os.write(2, b"END")
"""

BUSY = """
    import os, sys
    import aioqemu_loop

    left = [300_000]
    loop = aioqemu_loop.new_event_loop(fdmon=sys.argv[1])

    def tick():
        left[0] -= 1
        if left[0]:
            loop.call_soon(tick)
        else:
            loop.stop()

    loop.call_soon(tick)
    os.write(2, b"BEGIN")
    loop.run_forever()
    os.write(2, b"END")
"""


@pytest.fixture(params=OWN_WAITS)
def backend(request):
    need_fdmon(request.param)
    return request.param


def waits(lines: list[str]) -> list[str]:
    return [name for name in names(lines) if name in WAITS]


@pytest.mark.parametrize("poll_max_ns", [0, 50_000])
def test_an_idle_context_makes_one_wait_call_in_two_seconds(backend, poll_max_ns):
    lines = strace(IDLE_CONTEXT, backend, str(poll_max_ns))
    calls = waits(lines)
    assert len(calls) == 1, lines
    assert set(calls) <= OWN_WAITS[backend]
    # Besides it: the signal that ends it, and its handler's return.
    assert set(names(lines)) - set(calls) <= {"rt_sigreturn"}, lines


def test_an_idle_loop_makes_one_wait_call_in_two_seconds(backend):
    lines = strace(IDLE_LOOP, backend)
    sleeping = [line for line in lines if names([line]) and names([line])[0] in WAITS]
    # One to arm what is new, at the most, then one that sleeps.
    assert 1 <= len(sleeping) <= 2, lines
    assert set(names(lines)) <= OWN_WAITS[backend], lines


def test_an_echo_server_waits_by_its_own_call_only(backend):
    lines = strace(ECHO, env={"AIOQEMU_FDMON": backend})
    calls = waits(lines)
    assert calls
    assert set(calls) <= OWN_WAITS[backend]


def test_a_busy_loop_makes_almost_no_system_calls(backend):
    # It looks at the fds every 100 us, not every turn: 300,000 turns take some tens of ms.
    lines = strace(BUSY, backend)
    assert len(names(lines)) < 30_000
    assert set(waits(lines)) <= OWN_WAITS[backend]


def test_the_ring_is_entered_only_with_something_to_do():
    # TASKRUN_FLAG makes looking a memory read: 1,000 looks with nothing pending are no call at all.
    lines = strace(
        """
        import os, aioqemu_loop

        context = aioqemu_loop.AioContext("io_uring")
        reader, writer = os.pipe()
        context.set_fd_handler(reader, print)
        context.poll(False)
        os.write(2, b"BEGIN")
        for _ in range(1000):
            context.poll(False)
        os.write(2, b"END")
        """
    )
    assert names(lines) == []


def test_one_enter_submits_everything_and_waits():
    # 50 handlers to arm, one of them ready: a single io_uring_enter(50, 1).
    lines = strace(
        """
        import os, aioqemu_loop

        context = aioqemu_loop.AioContext("io_uring")
        context.poll(False)
        pipes = [os.pipe() for _ in range(50)]
        for reader, _ in pipes:
            context.set_fd_handler(reader, lambda reader=reader: os.read(reader, 1))
        os.write(pipes[7][1], b"x")
        os.write(2, b"BEGIN")
        context.poll()
        os.write(2, b"END")
        """
    )
    assert names(lines) == ["io_uring_enter", "read"], lines
    submitted, waited_for = lines[0].split("(")[1].split(",")[1:3]
    assert (int(submitted), int(waited_for)) == (50, 1)


def test_many_connections_send_and_receive_by_the_one_enter():
    """50 echo connections, both ends on the loop: 2,000 sends and as many receives, gathered."""
    lines = strace(
        """
        import asyncio, os
        import aioqemu_loop

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        class Client(asyncio.Protocol):
            def __init__(self, done):
                self.done, self.left = done, 20
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                assert data == b"x" * 1000
                self.left -= 1
                if self.left:
                    self.transport.write(data)
                else:
                    self.done.set_result(None)

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            done = [loop.create_future() for _ in range(50)]
            clients = []
            for one in done:
                clients.append((await loop.create_connection(lambda: Client(one), "127.0.0.1", port))[0])
            os.write(2, b"BEGIN")
            for client in clients:
                client.write(b"x" * 1000)
            await asyncio.gather(*done)
            os.write(2, b"END")
            server.close()
            for client in clients:
                client.close()

        aioqemu_loop.run(main(), fdmon="io_uring")
        """
    )
    calls = names(lines)
    assert set(calls) <= {"io_uring_enter", "sendto"}, set(calls)
    # 4,000 by readiness, and as many waits as there are turns. What is sent outside the loop's turns goes directly.
    assert len(calls) < 400, len(calls)
