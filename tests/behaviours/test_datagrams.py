"""Datagrams: endpoints over IP and Unix paths, and all of sock_recvfrom, sock_recvfrom_into and sock_sendto."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

HOST = "127.0.0.1"


class Mailbox(asyncio.DatagramProtocol):
    """Keeps what comes in a queue."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.errors = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.queue.put_nowait((data, address))

    def error_received(self, exc):
        self.errors.put_nowait(exc)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.fixture
def endpoint(any_loop):
    """await endpoint(**options) -> a Mailbox."""

    async def make(**options):
        return (await any_loop.create_datagram_endpoint(Mailbox, **options))[1]

    return make


async def close(*mailboxes):
    for mailbox in mailboxes:
        mailbox.transport.close()
        assert await mailbox.lost is None


class TestEndpoints:
    @pytest.mark.parametrize("host", [HOST, "::1"])
    def test_there_and_back(self, run, endpoint, host):
        async def main():
            server = await endpoint(local_addr=(host, 0))
            client = await endpoint(remote_addr=server.transport.get_extra_info("sockname")[:2])
            for data in (b"one", b"x" * 60_000):
                client.transport.sendto(data)
                got, address = await server.queue.get()
                assert got == data
                assert address == client.transport.get_extra_info("sockname")
                server.transport.sendto(data, address)
                assert await client.queue.get() == (data, server.transport.get_extra_info("sockname"))
            await close(client, server)

        run(main())

    def test_unix_paths(self, run, endpoint, tmp_path):
        async def main():
            names = [str(tmp_path / name) for name in ("server", "client")]
            server = await endpoint(local_addr=names[0], family=socket.AF_UNIX)
            client = await endpoint(local_addr=names[1], remote_addr=names[0], family=socket.AF_UNIX)
            client.transport.sendto(b"ping")
            assert await server.queue.get() == (b"ping", names[1])
            server.transport.sendto(b"pong", names[1])
            assert await client.queue.get() == (b"pong", names[0])
            await close(client, server)

        run(main())

    def test_abstract_unix_names(self, run, endpoint):
        async def main():
            name = f"\0aioqemu-datagram-{os.getpid()}"
            server = await endpoint(local_addr=name, family=socket.AF_UNIX)
            client = await endpoint(remote_addr=name, family=socket.AF_UNIX)
            client.transport.sendto(b"ping")
            assert (await server.queue.get())[0] == b"ping"
            await close(client, server)

        run(main())

    def test_a_socket_of_the_programs_own(self, run, endpoint, any_loop, stdlib_is_wrong):
        stdlib_is_wrong((3, 10), "takes a peer without a name for none")

        async def main():
            ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            peer.setblocking(False)
            mailbox = await endpoint(sock=ours)
            mailbox.transport.sendto(b"ping")
            assert await any_loop.sock_recv(peer, 100) == b"ping"
            peer.send(b"pong")
            assert (await mailbox.queue.get())[0] == b"pong"
            peer.close()
            await close(mailbox)

        run(main())

    def test_a_refused_datagram_is_told_and_the_endpoint_goes_on(self, run, endpoint):
        async def main():
            server = await endpoint(local_addr=(HOST, 0))
            name = server.transport.get_extra_info("sockname")
            client = await endpoint(remote_addr=name)
            await close(server)
            client.transport.sendto(b"for nobody")
            assert isinstance(await client.errors.get(), ConnectionRefusedError)
            again = await endpoint(local_addr=name)
            client.transport.sendto(b"for somebody")
            assert (await again.queue.get())[0] == b"for somebody"
            await close(client, again)

        run(main())

    def test_a_thousand_keep_their_order(self, run, endpoint):
        async def main():
            server = await endpoint(local_addr=(HOST, 0))
            client = await endpoint(remote_addr=server.transport.get_extra_info("sockname"))
            for start in range(0, 1000, 50):  # no more at a time than the receive buffer holds
                for i in range(start, start + 50):
                    client.transport.sendto(b"%d" % i)
                assert [int((await server.queue.get())[0]) for _ in range(50)] == list(range(start, start + 50))
            await close(client, server)

        run(main())


class TestSockets:
    @pytest.fixture
    def two(self, any_loop):
        """Two bound, non-blocking UDP sockets."""
        if not hasattr(any_loop, "sock_recvfrom"):
            pytest.skip("the stdlib's loop has it from 3.11 on")
        with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
            for sock in (a, b):
                sock.bind((HOST, 0))
                sock.setblocking(False)
            yield a, b

    def test_sendto_and_recvfrom(self, run, any_loop, two):
        a, b = two

        async def main():
            receiving = asyncio.ensure_future(any_loop.sock_recvfrom(b, 100))
            await asyncio.sleep(0)
            assert await any_loop.sock_sendto(a, b"ping", b.getsockname()) == 4
            assert await receiving == (b"ping", a.getsockname())

        run(main())

    @pytest.mark.parametrize(("nbytes", "expected"), [(0, b"0123456789"), (4, b"0123")])
    def test_recvfrom_into(self, run, any_loop, two, nbytes, expected):
        a, b = two

        async def main():
            buffer = bytearray(20)
            receiving = asyncio.ensure_future(any_loop.sock_recvfrom_into(b, buffer, nbytes))
            await asyncio.sleep(0)
            a.sendto(b"0123456789", b.getsockname())
            assert await receiving == (len(expected), a.getsockname())
            assert buffer == expected.ljust(20, b"\0")

        run(main())

    def test_sendto_waits_for_room(self, run, any_loop):
        """A full Unix datagram queue is the one that blocks."""

        async def main():
            ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            with ours, peer:
                ours.setblocking(False)
                sent = 0
                try:
                    while True:
                        ours.send(b"x")
                        sent += 1
                except BlockingIOError:
                    pass
                sending = asyncio.ensure_future(any_loop.sock_sendall(ours, b"last"))
                await asyncio.sleep(0.01)
                assert not sending.done()
                for _ in range(sent):
                    peer.recv(10)
                await sending
                assert peer.recv(10) == b"last"

        run(main())

    def test_a_cancelled_recvfrom_takes_nothing(self, run, any_loop, two):
        a, b = two

        async def main():
            receiving = asyncio.ensure_future(any_loop.sock_recvfrom(b, 100))
            await asyncio.sleep(0)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            a.sendto(b"kept", b.getsockname())
            assert (await any_loop.sock_recvfrom(b, 100))[0] == b"kept"

        run(main())


def test_an_empty_datagram_is_sent_or_not_as_by_this_pythons_own_loop(loop):
    async def arrived():
        this = asyncio.get_running_loop()
        _, server = await this.create_datagram_endpoint(Mailbox, local_addr=(HOST, 0))
        name = server.transport.get_extra_info("sockname")
        _, client = await this.create_datagram_endpoint(Mailbox, remote_addr=name)
        client.transport.sendto(b"")
        client.transport.sendto(b"last")
        got = []
        while b"last" not in got:
            got.append((await server.queue.get())[0])
        await close(client, server)
        return got

    reference = asyncio.SelectorEventLoop()
    expected = reference.run_until_complete(arrived())
    reference.close()
    assert loop.run_until_complete(asyncio.wait_for(arrived(), 30)) == expected
