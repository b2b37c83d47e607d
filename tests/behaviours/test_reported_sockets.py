"""Reports about other loops, as small programs: sock_*, readers, datagrams, names, the loop itself."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import sys

import pytest

HOST = "127.0.0.1"


class Datagrams(asyncio.DatagramProtocol):
    """Notes what it is told."""

    def __init__(self):
        self.seen = []
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, address):
        self.seen.append(data)

    def error_received(self, exc):
        self.seen.append(exc)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


class TestSockCalls:
    @pytest.mark.parametrize("number", range(6))
    def test_a_cancelled_receive_loses_nothing(self, run, any_loop, pair, stdlib_is_wrong, number):
        """uvloop #169, cpython PR 20369 (bpo-30064): bytes that came in the turn of the cancellation were gone."""
        stdlib_is_wrong((3, 10), "loses them where they have been read")
        ours, peer = pair()

        async def main():
            receiving = asyncio.ensure_future(any_loop.sock_recv(ours, 10))
            await asyncio.sleep(0)
            peer.send(b"x")
            await turns(number)
            receiving.cancel()
            try:
                data = await receiving
            except asyncio.CancelledError:
                data = await any_loop.sock_recv(ours, 10)
            assert data == b"x"

        run(main())

    @pytest.mark.parametrize("number", range(6))
    def test_a_cancelled_accept_loses_no_connection(self, run, any_loop, stdlib_is_wrong, number):
        """cpython #153761: a connection that was accepted in the turn of the cancellation was dropped."""
        stdlib_is_wrong((3, 10), "drops it")

        async def main():
            with socket.create_server((HOST, 0)) as listening:
                listening.setblocking(False)
                accepting = asyncio.ensure_future(any_loop.sock_accept(listening))
                await asyncio.sleep(0)
                with socket.create_connection(listening.getsockname()):
                    await turns(number)
                    accepting.cancel()
                    try:
                        connection, _ = await accepting
                    except asyncio.CancelledError:
                        connection, _ = await any_loop.sock_accept(listening)
                    connection.close()

        run(main())

    def test_closed_in_the_turn_of_the_call(self, run, any_loop, pair):
        """uvloop #100: libuv ended the process where it was asked to watch a closed file."""

        async def main():
            ours, _ = pair()
            receiving = asyncio.ensure_future(any_loop.sock_recv(ours, 10))
            ours.close()
            with pytest.raises(OSError):
                await receiving

        run(main())

    def test_connecting_a_datagram_socket(self, run, any_loop):
        """cpython #90983: the address was resolved for a stream."""

        async def main():
            with socket.socket(type=socket.SOCK_DGRAM) as ours, socket.socket(type=socket.SOCK_DGRAM) as peer:
                ours.setblocking(False)
                peer.bind((HOST, 0))
                await any_loop.sock_connect(ours, peer.getsockname())
                await any_loop.sock_sendall(ours, b"x")
                assert peer.recv(10) == b"x"

        run(main())

    @pytest.mark.parametrize("number", range(3))
    def test_a_cancelled_receive_and_a_transport_for_the_same_socket(self, run, any_loop, pair, errors, number):
        """The receive's reader was taken away when it had become the transport's."""
        ours, peer = pair()

        async def main():
            receiving = asyncio.ensure_future(any_loop.sock_recv(ours, 10))
            await turns(number)
            receiving.cancel()
            reader, writer = await asyncio.open_connection(sock=ours)
            peer.send(b"x")
            assert await reader.read(10) == b"x"
            writer.close()
            await writer.wait_closed()

        run(main())
        if isinstance(any_loop, asyncio.SelectorEventLoop):
            errors.clear()  # "File descriptor is used by transport", from the cancelled receive


class TestReaders:
    def test_removed_and_closed_by_itself(self, any_loop, pair):
        """uvloop #97: the loop never ended, or ended the process."""
        ours, peer = pair()

        def read():
            any_loop.remove_reader(ours)
            any_loop.stop()
            ours.close()
            peer.close()

        any_loop.add_reader(ours, read)
        peer.send(b"x")
        any_loop.run_forever()
        any_loop.run_until_complete(asyncio.sleep(0))

    def test_a_transports_file_is_refused(self, run, any_loop, pair):
        """python/asyncio #372: remove_writer() of a transport's socket stopped its output without a word."""
        ours, _ = pair()

        async def main():
            _, writer = await asyncio.open_connection(sock=ours)
            number = writer.get_extra_info("socket").fileno()
            for call in (any_loop.remove_reader, any_loop.remove_writer):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    call(number)
            writer.close()
            await writer.wait_closed()

        run(main())


class TestDatagrams:
    def test_what_cannot_be_sent_does_not_end_it(self, run, any_loop):
        """uvloop #338, #601: a port 0, or a network that was away for a while, closed the socket for good."""

        async def main():
            transport, protocol = await any_loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
            transport.sendto(b"x", (HOST, 0))
            transport.sendto(bytes(70_000), transport.get_extra_info("sockname"))
            await until(lambda: len(protocol.seen) == 2)
            assert all(isinstance(exc, OSError) for exc in protocol.seen)
            transport.sendto(b"works", transport.get_extra_info("sockname"))
            await until(lambda: len(protocol.seen) == 3)
            assert protocol.seen[2] == b"works"
            transport.close()
            await protocol.lost

        run(main())

    def test_both_addresses(self, run, any_loop):
        """uvloop #276: local_addr and remote_addr together failed."""

        async def main():
            server, receiver = await any_loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
            client, sender = await any_loop.create_datagram_endpoint(
                Datagrams, local_addr=(HOST, 0), remote_addr=server.get_extra_info("sockname")
            )
            assert client.get_extra_info("sockname")[0] == HOST  # uvloop #85
            client.sendto(b"x", server.get_extra_info("sockname"))  # zuvloop #19
            client.sendto(b"y")
            await until(lambda: receiver.seen == [b"x", b"y"])
            client.close()
            server.close()
            await asyncio.gather(receiver.lost, sender.lost)

        run(main())

    def test_on_unix_sockets(self, run, any_loop, tmp_path):
        """uvloop #403, #196: local_addr was no tuple, and a path "requires a DNS lookup"."""

        async def main():
            path = str(tmp_path / "here")
            here, receiver = await any_loop.create_datagram_endpoint(Datagrams, local_addr=path, family=socket.AF_UNIX)
            away, sender = await any_loop.create_datagram_endpoint(Datagrams, family=socket.AF_UNIX)
            away.sendto(b"x", path)
            away.sendto(bytes(150_000), path)
            await until(lambda: len(receiver.seen) == 2)
            assert [len(data) for data in receiver.seen] == [1, 150_000]
            here.close()
            away.close()
            await asyncio.gather(receiver.lost, sender.lost)

        run(main())

    def test_closing_in_connection_made(self, run, any_loop):
        """python/asyncio #367: what was sent before close() was lost, with an exception in a callback."""

        class Once(Datagrams):
            def connection_made(self, transport):
                transport.sendto(b"bye")
                transport.close()

        async def main():
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.bind((HOST, 0))
                _, protocol = await any_loop.create_datagram_endpoint(Once, remote_addr=peer.getsockname())
                await protocol.lost
                assert peer.recv(10) == b"bye"

        run(main())


class TestNames:
    @pytest.mark.parametrize("flags", [0, socket.AI_PASSIVE, socket.AI_CANONNAME, socket.AI_NUMERICHOST])
    def test_the_resolvers_answers(self, run, any_loop, flags):
        """uvloop #596, #539, #494, python/asyncio #348: short cuts for numeric addresses that answered otherwise."""

        async def main():
            for host in ("", None, HOST, "::1", "localhost", "1.2", b"127.0.0.1", "fe80::1%lo"):
                for port in (0, None, 80, "80", "", "nosuch"):
                    try:
                        expected = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
                    except OSError as exc:
                        expected = exc
                    try:
                        answer = await any_loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
                    except OSError as exc:
                        answer = exc
                    assert repr(answer) == repr(expected), (host, port)

        run(main())

    def test_a_name_that_is_none(self, run, any_loop):
        """zuvloop #20: OSError in place of gaierror."""

        async def main():
            with pytest.raises(socket.gaierror):
                await any_loop.getnameinfo(("no.such.host.invalid", 80))

        run(main())


class TestLoop:
    def test_an_exit_in_a_task_and_another_run(self, any_loop):
        """uvloop #336: the next run ended at once: "Event loop stopped before Future completed"."""

        async def leave():
            sys.exit(3)

        with pytest.raises(SystemExit):
            any_loop.run_until_complete(leave())
        assert any_loop.run_until_complete(asyncio.sleep(0, "again")) == "again"

    def test_contexts_of_callbacks(self, run, any_loop):
        """uvloop #305: connection_made() of a server's connections did not run in the server's context."""
        variable = contextvars.ContextVar("variable")
        seen = []

        class Asking(asyncio.Protocol):
            def connection_made(self, transport):
                seen.append(variable.get())
                transport.close()

        async def main():
            variable.set("the server's")
            server = await any_loop.create_server(Asking, HOST, 0)
            with socket.create_connection(server.sockets[0].getsockname()):
                await until(lambda: seen)
            server.close()
            await server.wait_closed()

        run(main())
        assert seen == ["the server's"]

    def test_the_wakeup_fd_of_others(self, any_loop):
        """uvloop #270, #296: a run took the wake-up fd of an outer loop, which then heard of no signal."""
        reading, writing = os.pipe2(os.O_NONBLOCK)
        before = signal.set_wakeup_fd(writing)
        try:
            any_loop.run_until_complete(asyncio.sleep(0))
            assert signal.set_wakeup_fd(-1) == writing
        finally:
            signal.set_wakeup_fd(before)
            os.close(reading)
            os.close(writing)

    def test_nest_asyncio_is_refused(self, loop):
        """It would put turns of its own, which need the stdlib's queues and selector, into the class of the loop."""
        question = "hasattr(loop, '_nest_patched')"  # its first one
        with pytest.raises(ValueError, match="Can't patch loop of type"):
            eval(question, {"__name__": "nest_asyncio", "loop": loop})
        assert not eval(question)
