"""Many streams at once, and streams that change how they receive: what a completion engine could lose or mix up.

They run on every backend and on the stdlib's loop: none of it may be seen from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import struct
import sys
import threading
import time

import pytest

import aioqemu_loop

from .helpers import in_executor, read_exactly, read_to_end, reset

MANY = 40
PATIENCE = 15.0


@contextlib.contextmanager
def connected(make, count):
    """`count` pairs of connected sockets by make(): (non-blocking, for a transport; plain blocking peer)."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            ours, peer = (stack.enter_context(sock) for sock in make())
            ours.setblocking(False)
            peer.settimeout(PATIENCE)
            made.append((ours, peer))
        yield made


@pytest.fixture
def pairs(new_tcp_pair):
    with connected(new_tcp_pair, MANY) as made:
        yield made


def numbered(size, seed):
    """Bytes of which no two connections have the same, and that show when one is missing or doubled."""
    return b"".join(struct.pack(">II", seed, i) for i in range(size // 8))


async def close_all(protocols):
    for protocol in protocols:
        protocol.transport.abort()
    for protocol in protocols:
        await protocol.until_lost()


class TestReceiving:
    def test_far_more_than_there_are_buffers_for(self, run, pairs, connect, recorder):
        blobs = [numbered(131_072, i) for i in range(MANY)]

        async def main():
            protocols = [recorder() for _ in pairs]
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)
            senders = [
                threading.Thread(target=peer.sendall, args=(blob,))
                for (_, peer), blob in zip(pairs, blobs, strict=True)
            ]
            for sender in senders:
                sender.start()
            for protocol, blob in zip(protocols, blobs, strict=True):
                await protocol.until(lambda protocol=protocol, blob=blob: len(protocol.data) == len(blob))
                assert protocol.data == blob
            for sender in senders:
                sender.join()
            await close_all(protocols)

        run(main())

    def test_paused_readers_get_nothing_and_lose_nothing_and_hold_nobody_up(self, run, pairs, connect, recorder):
        """Each pauses at its first bytes, with more on the way; one is never paused."""
        blobs = [numbered(65_536, i) for i in range(MANY)]

        async def main():
            pause = {"data_received": lambda self, data: self.transport.pause_reading()}
            protocols = [recorder(**pause) for _ in pairs[1:]]
            free = recorder()
            for (ours, peer), protocol, blob in zip(pairs, [free, *protocols], blobs, strict=True):
                peer.sendall(blob)
                await connect(ours, protocol)
            for protocol in protocols:
                await protocol.until_called("data_received")
            held = [len(protocol.data) for protocol in protocols]
            for i in range(200):
                pairs[0][1].sendall(numbered(4096, 1000 + i))
            wanted = blobs[0] + b"".join(numbered(4096, 1000 + i) for i in range(200))
            await free.until(lambda: len(free.data) == len(wanted))
            assert free.data == wanted
            assert [len(protocol.data) for protocol in protocols] == held
            for protocol, blob in zip(protocols, blobs[1:], strict=True):
                protocol.hooks.clear()
                protocol.transport.resume_reading()
                await protocol.until(lambda protocol=protocol, blob=blob: len(protocol.data) == len(blob))
                assert protocol.data == blob
            await close_all([free, *protocols])

        run(main())

    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_the_end_waits_behind_bytes_that_are_held(self, run, pairs, connect, recorder, end):
        ours, peer = pairs[0]
        blob = numbered(40_000, 7)

        async def main():
            pause = {"data_received": lambda self, data: self.transport.pause_reading()}
            protocol = recorder(**pause)
            await connect(ours, protocol)
            peer.sendall(blob[:4000])
            await protocol.until_called("data_received")
            peer.sendall(blob[4000:])
            for _ in range(5):
                await asyncio.sleep(0)
            if end == "reset":  # it may take with it what was not received yet
                reset(peer)
            else:
                peer.close()
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.names == ["connection_made"]
            protocol.hooks.clear()
            protocol.transport.resume_reading()
            await protocol.until_lost()
            if end == "close":
                assert protocol.data == blob
                assert protocol.names == ["connection_made", "eof_received", "connection_lost"]
                assert protocol.lost is None
            else:
                assert blob.startswith(protocol.data)
                assert protocol.names == ["connection_made", "connection_lost"]
                assert isinstance(protocol.lost, ConnectionResetError)

        run(main())

    def test_the_protocol_changes_between_plain_and_buffered(self, run, tcp, connect, recorder, buffered_recorder):
        """In every callback, with bytes on the way: they go on in order, whoever gets them."""
        ours, peer = tcp
        blob = numbered(800_000, 3)
        got = bytearray()

        def turn_plain(self, count):
            got.extend(self.buffer[:count])
            self.transport.set_protocol(plain)

        def turn_buffered(self, data):
            got.extend(data)
            self.transport.set_protocol(buffered)

        plain = recorder(data_received=turn_buffered)
        buffered = buffered_recorder(size=3000, buffer_updated=turn_plain)

        async def main():
            transport = await connect(ours, plain)
            buffered.transport = transport
            sender = threading.Thread(target=peer.sendall, args=(blob,))
            sender.start()
            while len(got) < len(blob):
                await asyncio.sleep(0)
            sender.join()
            assert got == blob
            transport.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        run(main())

    def test_a_writer_that_has_to_wait_still_receives(self, run, tcp, connect, recorder):
        """Full pipes both ways: it is watched for room to write, and receives all the while."""
        ours, peer = tcp
        there, back = numbered(3_000_000, 1), numbered(3_000_000, 2)

        def talk():
            sender = threading.Thread(target=peer.sendall, args=(back,))
            sender.start()
            got = read_exactly(peer, len(there))
            sender.join()
            return got

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            talking = asyncio.ensure_future(in_executor(talk))
            for start in range(0, len(there), 100_000):
                transport.write(there[start : start + 100_000])
            await protocol.until(lambda: len(protocol.data) == len(back))
            assert await talking == there
            assert protocol.data == back
            peer.sendall(b"once more")  # now by the ordinary way again
            await protocol.until(lambda: protocol.data.endswith(b"once more"))
            await close_all([protocol])

        run(main())


class TestSending:
    def test_each_gets_its_own(self, run, pairs, connect, recorder):
        async def main():
            protocols = [recorder() for _ in pairs]
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)
            for turn in range(30):
                for i, protocol in enumerate(protocols):
                    protocol.transport.write(numbered(80, i))
                    protocol.transport.write(numbered(8 * turn, turn))
                await asyncio.sleep(0)
            for i, (_, peer) in enumerate(pairs):
                wanted = b"".join(numbered(80, i) + numbered(8 * turn, turn) for turn in range(30))
                assert read_exactly(peer, len(wanted)) == wanted
            await close_all(protocols)

        run(main())

    def test_sockets_that_take_only_a_part(self, run, pairs, connect, recorder):
        """The rest waits, the protocol is paused and resumed, and nothing is lost or doubled."""
        for ours, _ in pairs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        blobs = [numbered(60_000, i) * 8 for i in range(MANY)]

        async def main():
            protocols = [recorder() for _ in pairs]
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)
            for part in range(8):
                for protocol, blob in zip(protocols, blobs, strict=True):
                    protocol.transport.write(blob[part * 60_000 : (part + 1) * 60_000])
                await asyncio.sleep(0)
            assert all(protocol.transport.get_write_buffer_size() for protocol in protocols)
            for i, (_, peer) in enumerate(pairs):
                assert await in_executor(read_exactly, peer, len(blobs[i])) == blobs[i]
            for protocol in protocols:
                await protocol.until(lambda protocol=protocol: protocol.transport.get_write_buffer_size() == 0)
                assert protocol.names.count("pause_writing") == protocol.names.count("resume_writing") > 0
            await close_all(protocols)

        run(main())

    @pytest.mark.parametrize("method", ["close", "write_eof", "abort"])
    def test_an_end_right_after_writing(self, run, pairs, connect, recorder, method):
        async def main():
            loop = asyncio.get_running_loop()
            protocols = [recorder() for _ in pairs]
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)
            for i, protocol in enumerate(protocols):
                loop.call_soon(protocol.transport.write, numbered(800, i))
            for protocol in protocols[::2]:  # in the same turn; the others in the next one
                loop.call_soon(getattr(protocol.transport, method))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for protocol in protocols[1::2]:
                getattr(protocol.transport, method)()
            for i, (_, peer) in enumerate(pairs):
                assert await in_executor(read_to_end, peer) == numbered(800, i)
            await close_all(protocols)

        run(main())

    def test_peers_that_are_gone(self, run, pairs, connect, recorder):
        """The error of a send that went out with others is that connection's, and nobody else's."""

        async def main():
            protocols = [recorder() for _ in pairs]
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)
                protocol.transport.pause_reading()  # so only writing can find out
            for _, peer in pairs[::2]:
                reset(peer)
            for protocol in protocols:
                protocol.transport.write(b"x" * 100)
            for protocol in protocols[::2]:
                await protocol.until_lost()
                assert isinstance(protocol.lost, ConnectionError)
            for (_, peer), protocol in zip(pairs[1::2], protocols[1::2], strict=True):
                assert read_exactly(peer, 100) == b"x" * 100
                assert protocol.names == ["connection_made"]
            await close_all(protocols[1::2])

        run(main())


class TestRuns:
    def test_what_was_written_is_out_when_the_run_ends(self, any_loop, pairs, connect, recorder):
        protocols = [recorder() for _ in pairs]

        async def begin():
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)

        def last():
            for i, protocol in enumerate(protocols):
                protocol.transport.write(numbered(800, i))
            any_loop.stop()

        any_loop.run_until_complete(begin())
        any_loop.call_soon(last)
        any_loop.run_forever()
        for i, (_, peer) in enumerate(pairs):
            assert read_exactly(peer, 800) == numbered(800, i)
        any_loop.run_until_complete(close_all(protocols))

    def test_bytes_that_come_between_runs_in_different_threads(self, any_loop, pairs, connect, recorder):
        protocols = [recorder() for _ in pairs]

        async def begin():
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)

        async def until(size):
            for protocol in protocols:
                await protocol.until(lambda protocol=protocol: len(protocol.data) == size)

        any_loop.run_until_complete(begin())
        for turn in range(4):
            for i, (_, peer) in enumerate(pairs):
                peer.sendall(numbered(9000, i)[turn * 2000 : turn * 2000 + 2000])
            run = functools.partial(any_loop.run_until_complete, until(2000 * (turn + 1)))
            if turn % 2:
                run()
            else:
                thread = threading.Thread(target=run)
                thread.start()
                thread.join(PATIENCE)
        for i, protocol in enumerate(protocols):
            assert protocol.data == numbered(9000, i)[:8000]
        any_loop.run_until_complete(close_all(protocols))

    def test_the_monitor_changes_under_them(self, loop, pairs, connect, recorder):
        blobs = [numbered(400_000, i) for i in range(MANY)]
        usable = [name for name, reason in aioqemu_loop.fdmons().items() if reason is None]

        async def main():
            protocols = [recorder(data_received=lambda self, data: self.transport.write(data)) for _ in pairs]
            for (ours, _), protocol in zip(pairs, protocols, strict=True):
                await connect(ours, protocol)

            def talk(peer, blob):
                sender = threading.Thread(target=peer.sendall, args=(blob,))
                sender.start()
                got = read_exactly(peer, len(blob))
                sender.join()
                return got

            talks = [
                asyncio.ensure_future(in_executor(talk, peer, blob))
                for (_, peer), blob in zip(pairs, blobs, strict=True)
            ]
            count = 0
            while not all(talk.done() for talk in talks):
                loop.context.set_fdmon(usable[count % len(usable)])
                count += 1
                for _ in range(3):
                    await asyncio.sleep(0)
            for talk, blob in zip(talks, blobs, strict=True):
                assert talk.result() == blob
            assert count > 3
            await close_all(protocols)

        loop.run_until_complete(asyncio.wait_for(main(), 3 * PATIENCE))


@pytest.fixture
def small():
    """Unix sockets that take little."""
    with connected(socket.socketpair, 8) as made:
        for ours, _ in made:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        yield made


class TestCorners:
    """Each of these hung, crashed, spun, or lost or doubled bytes once."""

    @pytest.mark.parametrize("poll_max_ns", [0, 200_000])
    @pytest.mark.parametrize("newcomers", [0, 80])
    def test_a_short_send_before_the_loop_sleeps(self, any_loop, run, small, connect, recorder, poll_max_ns, newcomers):
        """It may be found while the loop makes ready to spin, or makes room for many that are to be watched."""
        if hasattr(any_loop, "context"):
            any_loop.context.set_poll_params(poll_max_ns)

        async def main():
            loop = asyncio.get_running_loop()
            protocols = [recorder() for _ in small]
            for (ours, _), protocol in zip(small, protocols, strict=True):
                await connect(ours, protocol)
            reader = recorder(data_received=lambda self, data: self.transport.write(data))
            ours, peer = socket.socketpair()
            ours.setblocking(False)
            await connect(ours, reader)

            def ping_pong():  # keeps poll mode interested
                for _ in range(300):
                    peer.send(b"x")
                    peer.recv(1)

            await in_executor(ping_pong)
            watched = [socket.socketpair() for _ in range(newcomers)]
            for protocol in protocols:
                protocol.transport.write(numbered(60_000, 1))
            for one, _ in watched:
                loop.add_reader(one, lambda: None)
            for _, peer_of_one in small:
                assert await in_executor(read_exactly, peer_of_one, 60_000) == numbered(60_000, 1)
            for one, other in watched:
                loop.remove_reader(one)
                one.close()
                other.close()
            peer.close()
            await close_all([*protocols, reader])

        run(main())

    def test_the_end_comes_while_a_writer_begins_to_wait(self, run, pairs, connect, recorder):
        ours, peer = pairs[0]
        sockets = [socket.socketpair() for _ in range(70)]

        async def main():
            protocol = recorder()
            protocols = [recorder() for _ in sockets]
            transport = await connect(ours, protocol)
            for (one, _), other in zip(sockets, protocols, strict=True):
                one.setblocking(False)
                await connect(one, other)
            await asyncio.sleep(0)
            transport.write(numbered(4_000_000, 5))
            peer.shutdown(socket.SHUT_WR)
            for other in protocols:
                other.transport.write(b"more than one system call takes")
            await protocol.until_called("eof_received")
            assert await in_executor(read_exactly, peer, 4_000_000) == numbered(4_000_000, 5)
            await protocol.until_lost()
            assert protocol.lost is None
            await close_all(protocols)

        run(main())
        for _, other in sockets:
            other.close()

    def test_a_socket_that_cannot_be_received_from_is_its_own_problem(self, loop, tcp, connect, recorder):
        ours, peer = tcp

        async def main():
            protocol, bad = recorder(), recorder()
            await connect(ours, protocol)
            peer.send(b"one")
            await protocol.until(lambda: protocol.data == b"one")
            unconnected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            unconnected.setblocking(False)
            await connect(unconnected, bad)
            await bad.until_lost()
            assert isinstance(bad.lost, OSError)
            peer.send(b"two")
            await protocol.until(lambda: protocol.data == b"onetwo")
            await close_all([protocol])

        loop.run_until_complete(main())

    @pytest.mark.parametrize("count", [1, 8])
    def test_a_fork_after_writing(self, run, small, connect, recorder, count):
        """The child leaves by an exit: it must neither send the parent's bytes once more nor touch its ring."""

        async def main():
            protocols = [recorder() for _ in small]
            for (ours, _), protocol in zip(small, protocols, strict=True):
                await connect(ours, protocol)
            loop = asyncio.get_running_loop()
            children = []

            def write():
                for protocol in protocols[:count]:
                    protocol.transport.write(b"once.")

            def fork():
                child = os.fork()
                if child == 0:
                    raise SystemExit(0)
                children.append(child)

            loop.call_soon(write)
            loop.call_soon(fork)
            while not children:
                await asyncio.sleep(0)
            _, status = await in_executor(os.waitpid, children[0], 0)
            assert status == 0
            for _, peer in small[:count]:
                assert peer.recv(100) == b"once."
                peer.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    peer.recv(100)
            await close_all(protocols)

        parent = os.getpid()
        try:
            run(main())
        finally:
            if os.getpid() != parent:
                os._exit(0 if isinstance(sys.exc_info()[1], SystemExit) else 1)

    def test_an_end_that_is_known_keeps_no_monitor_busy(self, loop, tcp, connect, recorder):
        ours, peer = tcp

        async def main():
            protocol = recorder(eof_received=lambda self: True)
            await connect(ours, protocol)
            peer.shutdown(socket.SHUT_WR)
            await protocol.until_called("eof_received")
            loop.context.set_fdmon("poll")
            used = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - used < 0.15
            protocol.transport.write(b"still open this way")
            assert await in_executor(peer.recv, 100) == b"still open this way"
            await close_all([protocol])

        loop.run_until_complete(main())

    def test_resume_writing_closes_another_connection(self, any_loop, errors, small, connect, recorder):
        """While output goes out. What that one's connection_lost() raises is for the exception handler."""

        def fail(self, exc):
            raise ValueError("from connection_lost")

        async def main():
            first = recorder(resume_writing=lambda self: others[-1].transport.close())
            others = [recorder(connection_lost=fail) if i == 6 else recorder() for i in range(7)]
            for (ours, _), protocol in zip(small, [first, *others], strict=True):
                await connect(ours, protocol)
            first.transport.write(b"x" * 100)
            first.transport.set_write_buffer_limits(50, 20)
            for protocol in others:
                protocol.transport.write(b"hello")
            if not hasattr(any_loop, "context"):  # the stdlib's loop has sent it all at once and never paused
                others[-1].transport.close()
            await others[-1].until_lost()
            assert small[-1][1].recv(100) == b"hello"
            assert small[-1][1].recv(100) == b""
            await close_all([first, *others[:-1]])

        any_loop.run_until_complete(main())
        assert [str(error["exception"]) for error in errors] == ["from connection_lost"]
        errors.clear()

    def test_output_of_a_nested_poll(self, loop, small, connect, recorder):
        """It is out when poll() returns, and what is written then does not overtake it or get lost by abort()."""

        async def main():
            protocols = [recorder() for _ in small]
            for (ours, _), protocol in zip(small, protocols, strict=True):
                await connect(ours, protocol)

            def outer():
                loop.call_soon(lambda: [protocol.transport.write(b"one ") for protocol in protocols])
                loop.context.poll(False)
                assert [peer.recv(100) for _, peer in small] == [b"one "] * 8
                protocols[0].transport.write(b"two")
                assert protocols[0].transport.get_write_buffer_size() == 0
                protocols[0].transport.abort()
                done.set_result(small[0][1].recv(100))

            done = loop.create_future()
            loop.call_soon(outer)
            assert await done == b"two"
            await close_all(protocols[1:])

        loop.run_until_complete(main())
