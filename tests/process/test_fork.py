"""fork() in every state of the parent's loop: the child makes a loop of its own and cannot use the parent's, and the
parent loses nothing, whatever the child does to what it has inherited."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading

import pytest

import aioqemu_loop
from aioqemu_loop import files

from ..mainloops.guest import GUESTS, drive, new_guest_loop
from .work import REFUSAL, all_of_it, by_a_process, counting, in_a_child, through_a_connection, told

# How often to fork while other threads run loops.
FORKS = int(os.environ.get("AIOQEMU_TEST_FORKS", "3"))


def use_in_child(loop, fdmon, things=()):
    """What a child does: tries the parent's loop, works with its own, takes apart all it has inherited."""
    running = loop.is_running()
    number, other = os.pipe()
    coroutine = asyncio.sleep(0)
    refused = [
        told(lambda: loop.call_soon_threadsafe(print)),
        told(lambda: loop.add_reader(number, print)),
        told(lambda: loop.add_writer(other, print)),
        told(lambda: loop.context.set_fdmon("poll")),
        told(lambda: loop.context.poll(False)),
        told(lambda: asyncio.run_coroutine_threadsafe(coroutine, loop)),
    ]
    coroutine.close()
    assert refused == [REFUSAL] * len(refused), refused
    assert told(loop.run_forever) == ("RuntimeError: This event loop is already running" if running else REFUSAL)
    did = aioqemu_loop.run(all_of_it(None, by_a_process()), fdmon=fdmon)
    for thing in things:
        for name in ("pause_reading", "resume_reading", "write_eof", "abort", "close"):
            with contextlib.suppress(RuntimeError, AttributeError, NotImplementedError):
                getattr(thing, name)()
    if not running:
        loop.close()
    gc.collect()
    return did + " " + aioqemu_loop.run(all_of_it(), fdmon=fdmon)


def check(outcome):
    assert outcome == "all all"


def test_a_loop_that_has_not_run(loop, fdmon):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_later(0.001, ran.append, 2)
    check(in_a_child(lambda: use_in_child(loop, fdmon)))
    assert loop.run_until_complete(all_of_it()) == "all"
    assert ran == [1, 2]


def test_inside_a_callback(loop, fdmon):
    outcome, ran = [], []
    for number in range(3):
        loop.call_soon(ran.append, number)
    loop.call_soon(lambda: outcome.append(in_a_child(lambda: use_in_child(loop, fdmon))))
    loop.call_soon(ran.append, 3)
    assert loop.run_until_complete(all_of_it()) == "all"
    check(outcome[0])
    assert ran == [0, 1, 2, 3]


@pytest.mark.parametrize("forked", ["here", "by a thread"])
def test_with_connections_and_output_queued(loop, fdmon, forked):
    """Four with a few bytes of this very callback, four with more than their sockets take."""
    data = counting(4_000_000)

    def fork(transports):
        return in_a_child(lambda: use_in_child(loop, fdmon, transports))

    async def main():
        pairs = [socket.socketpair() for _ in range(8)]
        transports, expected = [], []
        for number, (ours, theirs) in enumerate(pairs):
            theirs.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transports.append(transport)
            expected.append(data if number < 4 else b"a few bytes")
        for transport, output in zip(transports, expected, strict=True):
            transport.write(output)
        if forked == "here":
            check(fork(transports))
        else:
            outcome = []
            thread = threading.Thread(target=lambda: outcome.append(fork(transports)))
            thread.start()
            thread.join()  # the loop is held up: its output stays queued
            check(outcome[0])
        for transport in transports:
            transport.close()
        arrived = await asyncio.gather(*(read_all(loop, theirs) for _, theirs in pairs))
        assert arrived == expected

    loop.run_until_complete(main())


async def read_all(loop, sock):
    parts = []
    with sock:
        while part := await loop.sock_recv(sock, 1 << 18):
            parts.append(part)
    return b"".join(parts)


def test_with_operations_in_flight(loop, fdmon):
    """Receives, an accept, a connection that reads, a read of a file and a timer, begun and not ended."""
    data = counting(2_000_000)

    async def read_file(path):
        async with files.open(path, "rb") as file:
            return await file.read()

    async def main():
        with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as listener:
            file.write(data)
            file.flush()
            listener.setblocking(False)
            pairs = [socket.socketpair() for _ in range(6)]
            for ours, _ in pairs:
                ours.setblocking(False)
            receiving = [loop.create_task(loop.sock_recv(ours, 10)) for ours, _ in pairs[:4]]
            into = bytearray(10)
            receiving.append(loop.create_task(loop.sock_recv_into(pairs[4][0], into)))
            accepting = loop.create_task(loop.sock_accept(listener))
            reader, writer = await asyncio.open_connection(sock=pairs[5][0])
            timer = loop.create_task(asyncio.sleep(0.001, "timer"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            reading = loop.create_task(read_file(file.name))
            await asyncio.sleep(0)
            check(in_a_child(lambda: use_in_child(loop, fdmon, [writer.transport])))
            for number, (_, theirs) in enumerate(pairs):
                theirs.send(b"%d" % number)
            client = socket.create_connection(listener.getsockname())
            accepted, _ = await accepting
            assert await asyncio.gather(*receiving) == [b"0", b"1", b"2", b"3", 1]
            assert (into[:1], await reader.readexactly(1)) == (b"4", b"5")
            assert (await timer, await reading) == ("timer", data)
            writer.close()
            await writer.wait_closed()
            for sock in (client, accepted, *(sock for pair in pairs[:5] for sock in pair), pairs[5][1]):
                sock.close()

    loop.run_until_complete(main())


def test_while_other_threads_run_loops(loop, fdmon):
    async def keep_going():
        rounds = 0
        while not over.is_set():
            await through_a_connection(data)
            rounds += 1
        return rounds

    over = threading.Event()
    data = counting(60_000)
    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(aioqemu_loop.IOThread(f"busy {n}", fdmon=fdmon)) for n in range(3)]
        busy = [thread.submit(keep_going()) for thread in threads]

        async def main():
            for _ in range(FORKS):
                check(in_a_child(lambda: use_in_child(loop, fdmon)))
                assert await all_of_it() == "all"

        try:
            loop.run_until_complete(main())
        finally:
            over.set()
        assert all(future.result(20) > 0 for future in busy)


@pytest.mark.parametrize("kind", GUESTS)
@pytest.mark.parametrize("where", ["between", "in a callback"])
def test_driven_by_an_outside_main_loop(kind, where, no_leaks):
    loop = new_guest_loop(kind)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        got, outcome = [], []
        monitor = loop.fdmon

        def fork():
            outcome.append(in_a_child(lambda: use_in_child(loop, monitor)))

        with loop.context.get_g_source() as source:
            loop.add_reader(ours, lambda: got.append(ours.recv(10)))
            drive(source, 0)
            if where == "between":
                fork()
            else:
                loop.call_soon(fork)
            while not outcome:
                drive(source, 0)
            check(outcome[0])
            theirs.send(b"parent")
            while not got:
                drive(source, 1_000_000)
            loop.remove_reader(ours)
        assert got == [b"parent"]
        assert loop.run_until_complete(all_of_it()) == "all"
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


# -S and -E: nothing but the interpreter itself opens files.
FDS = [sys.executable, "-S", "-E", "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"]


@pytest.fixture(scope="module")
def inherited():
    """What the tests' own process hands down, and the listing's own."""
    return subprocess.check_output(FDS, close_fds=False, text=True)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # the test runner may have threads; from 3.12 on
@pytest.mark.parametrize("how", ["exec", "fork_exec", "preexec_fn", "spawn"])
def test_a_child_that_execs_inherits_nothing(inherited, loop, how):
    async def main():
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        loop.add_reader(theirs, print)
        writer.write(b"queued")
        output, to = os.pipe()
        if how == "exec":
            child = os.fork()
            if child == 0:
                os.dup2(to, 1)
                os.execv(FDS[0], FDS)
        elif how == "spawn":
            child = os.posix_spawn(FDS[0], FDS, {}, file_actions=[(os.POSIX_SPAWN_DUP2, to, 1)])
        else:
            options = {"preexec_fn": lambda: None} if how == "preexec_fn" else {}
            process = subprocess.Popen(FDS, stdout=to, close_fds=False, **options)
            process.wait()
            child = None
        os.close(to)
        with open(output) as pipe:
            assert pipe.read() == inherited
        if child is not None:
            assert os.waitpid(child, 0)[1] == 0
        loop.remove_reader(theirs)
        theirs.setblocking(False)
        assert await loop.sock_recv(theirs, 100) == b"queued"
        writer.close()
        await writer.wait_closed()
        theirs.close()
        assert await all_of_it() == "all"

    loop.run_until_complete(main())


def try_to_send(transport):
    """In a child: whatever might send something, or end the connection."""
    transport.get_write_buffer_size()
    outcomes = [told(lambda: transport.write(b"child")), told(lambda: transport.writelines([b"child"] * 3))]
    if transport.can_write_eof():
        outcomes.append(told(transport.write_eof))
    transport.close()
    transport.abort()
    return set(outcomes)


@pytest.mark.parametrize("kind", ["plain", "tls"])
@pytest.mark.parametrize("forked", ["here", "by a thread"])
@pytest.mark.parametrize("queued", [b"", b"queued "])
def test_a_child_sends_nothing_over_a_connection(loop, tls, kind, forked, queued):
    """Also not what the parent's callback has queued, nor that TLS ends. The connection goes on."""
    outcomes = []

    async def main():
        server_tls, client = tls[0], {"ssl": tls[1], "server_hostname": "localhost"}
        if kind == "plain":
            server_tls, client = None, {}
        served = loop.create_future()
        async with await asyncio.start_server(
            lambda reader, writer: served.set_result(writer), "127.0.0.1", 0, ssl=server_tls
        ) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **client)
            answers = await served
            answers.write(queued)

            def fork():
                outcomes.append(in_a_child(lambda: try_to_send(answers.transport)))

            if forked == "here":
                fork()
            else:
                thread = threading.Thread(target=fork)
                thread.start()
                thread.join()
            answers.write(b"parent")
            answers.close()
            assert await reader.read() == queued + b"parent"
            writer.close()
            await writer.wait_closed()

    loop.run_until_complete(main())
    assert outcomes == [str({REFUSAL})]
