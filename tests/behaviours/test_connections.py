"""Connections: bytes never reach the wrong peer, every documented extra info, servers and TLS peers that end."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import ssl
import sys

import pytest

HOST = "127.0.0.1"


class Waiting(asyncio.Protocol):
    """Tells when it is connected and when that is over."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.made, self.lost = loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.made.set_result(transport)

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.made.result().close()  # up to 3.10 a TLS transport that the peer ended warns that it is unclosed
        self.lost.set_result(exc)


async def received_by(peer, size):
    """What a blocking socket gets, up to `size` bytes or its end."""

    def receive():
        data = b""
        while len(data) < size and (more := peer.recv(size - len(data))):
            data += more
        return data

    return await asyncio.get_running_loop().run_in_executor(None, receive)


def fill_holes(number):
    """Take every free fd number below this one, so that it is the next one when it is closed."""
    holes = []
    while (fd := os.dup(0)) < number:
        holes.append(fd)
    os.close(fd)
    return holes


class Accepting:
    """A server and its newest connection."""

    def __init__(self, loop):
        self.loop = loop

    async def start(self):
        self.server = await self.loop.create_server(self.make, HOST, 0)
        self.address = self.server.sockets[0].getsockname()

    def make(self):
        self.newest = Waiting()
        return self.newest

    async def connection(self, meanwhile=lambda: None):
        """(transport, protocol, peer); `meanwhile` happens when the peer is there but not accepted."""
        self.newest = None
        peer = socket.create_connection(self.address, timeout=10)
        meanwhile()
        while self.newest is None:
            await asyncio.sleep(0)
        protocol = self.newest
        return await protocol.made, protocol, peer

    async def stop(self):
        self.server.close()
        await self.server.wait_closed()


def number_of(transport):
    return transport.get_extra_info("socket").fileno()


class TestReusedNumbers:
    """Somebody closes the fd of a transport, and a new connection of the loop gets the number."""

    @pytest.mark.parametrize("moment", ["idle", "paused", "blocked", "closing"])
    def test_no_byte_for_the_old_peer_reaches_the_new_one(self, loop, moment):
        async def main():
            accepting = Accepting(loop)
            await accepting.start()
            old, old_protocol, old_peer = await accepting.connection()
            number = number_of(old)
            if moment == "paused":
                old.pause_reading()
            if moment in ("blocked", "closing"):
                while not old.get_write_buffer_size():
                    old.write(b"CANARY" * 200_000)
            if moment == "closing":
                old.close()
            holes = fill_holes(number)
            new, new_protocol, new_peer = await accepting.connection(lambda: os.close(number))
            assert number_of(new) == number
            old.write(b"CANARY")
            new.write(b"for the new one")
            assert await received_by(new_peer, 15) == b"for the new one"
            assert isinstance(await old_protocol.lost, OSError)
            old.abort()
            new_peer.send(b"to the new one")
            while not new_protocol.data:
                await asyncio.sleep(0)
            assert new_protocol.data == b"to the new one" and not old_protocol.data
            new.close()
            await new_protocol.lost
            assert await received_by(new_peer, 100) == b""
            for fd in holes:
                os.close(fd)
            old_peer.close()
            new_peer.close()
            await accepting.stop()

        loop.run_until_complete(asyncio.wait_for(main(), 30))

    def test_a_storm_of_them_mixes_nothing_up(self, loop, fdmon):
        """Each peer hears its own name only, whoever had the number before. That a transport which is closed finds its
        fd closed already is told, as by the stdlib."""
        rng = random.Random(fdmon)
        told = []
        loop.set_exception_handler(lambda _, details: told.append(details["exception"]))

        async def main():
            live, wrong = [], []
            accepting = Accepting(loop)
            await accepting.start()

            async def check(peer, expected):
                if await received_by(peer, len(expected)) != expected:
                    wrong.append(expected)

            for i in range(300):
                if not live or rng.random() < 0.5:
                    connection = await accepting.connection()
                else:
                    victim, its_protocol, its_peer, its_name = live.pop(rng.randrange(len(live)))
                    victim.get_write_buffer_size()  # sends what is written
                    number = number_of(victim)
                    if rng.random() < 0.5:
                        connection = await accepting.connection(lambda: os.close(number))  # noqa: B023
                    else:
                        connection = await accepting.connection()
                        os.close(number)
                    rng.choice([victim.abort, victim.close, int])()
                    victim.write(b"for nobody")
                    await its_protocol.lost
                    await check(its_peer, its_name)
                    its_peer.close()
                name = b"<%d>" % i
                connection[0].write(name)
                live.append((*connection, name))
            for transport, protocol, peer, name in live:
                transport.write(b"again" + name)
                transport.close()
                await protocol.lost
                await check(peer, name + b"again" + name)
                assert peer.recv(1) == b""
                peer.close()
            await accepting.stop()
            return wrong

        assert loop.run_until_complete(asyncio.wait_for(main(), 50)) == []
        assert {exc.errno for exc in told} <= {errno.EBADF}

    @pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio closes the socket that was refused: the same fd")
    def test_a_socket_object_under_the_number_of_a_transport_is_refused(self, loop):
        async def main():
            ours, peer = socket.socketpair()
            transport, protocol = await loop.create_connection(Waiting, sock=ours)
            same = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, ours.fileno())
            with pytest.raises(RuntimeError, match="is used by transport"):
                await loop.create_connection(Waiting, sock=same)
            same.detach()
            transport.close()
            await protocol.lost
            peer.close()

        loop.run_until_complete(main())


class TestExtraInformation:
    def test_of_tcp_connections_and_servers(self, run, any_loop, shut):
        async def main():
            server = await any_loop.create_server(Waiting, HOST, 0)
            name = server.sockets[0].getsockname()
            transport, protocol = await any_loop.create_connection(Waiting, *name)
            sock = transport.get_extra_info("socket")
            assert type(server.sockets[0]) is type(sock) is asyncio.trsock.TransportSocket
            assert transport.get_extra_info("peername") == name == sock.getpeername()
            assert transport.get_extra_info("sockname") == sock.getsockname()
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
            for other in ("sslcontext", "cipher", "pipe", "subprocess"):
                assert transport.get_extra_info(other) is None
            transport.close()
            await protocol.lost
            await shut(server)

        run(main())

    def test_of_tls_connections(self, run, any_loop, shut, tls):
        async def main():
            accepted = any_loop.create_future()

            class Accepted(Waiting):
                def connection_made(self, transport):
                    accepted.set_result(self)
                    super().connection_made(transport)

            server = await any_loop.create_server(Accepted, HOST, 0, ssl=tls[0])
            name = server.sockets[0].getsockname()
            transport, protocol = await any_loop.create_connection(
                Waiting, *name, ssl=tls[1], server_hostname="localhost"
            )
            assert transport.get_extra_info("sslcontext") is tls[1]
            assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
            assert transport.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
            assert len(transport.get_extra_info("cipher")) == 3
            assert transport.get_extra_info("compression") is None
            assert transport.get_extra_info("peername") == name
            assert isinstance(transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
            other = (await accepted).made.result()
            assert other.get_extra_info("sslcontext") is tls[0]
            assert other.get_extra_info("peername") == transport.get_extra_info("sockname")
            transport.close()
            await protocol.lost
            await accepted.result().lost
            await shut(server)

        run(main())

    def test_of_datagrams(self, run, any_loop):
        async def main():
            transport, _ = await any_loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(HOST, 0))
            name = transport.get_extra_info("sockname")
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket) and sock.getsockname() == name
            other, _ = await any_loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=name)
            assert other.get_extra_info("peername") == name
            assert transport.get_extra_info("peername") is None
            transport.close()
            other.close()
            await asyncio.sleep(0.01)

        run(main())

    def test_of_pipes_and_processes(self, run, any_loop):
        async def main():
            read_fd, write_fd = os.pipe()
            reading, writing = os.fdopen(read_fd, "rb", 0), os.fdopen(write_fd, "wb", 0)
            reader, _ = await any_loop.connect_read_pipe(asyncio.Protocol, reading)
            writer, _ = await any_loop.connect_write_pipe(asyncio.BaseProtocol, writing)
            assert reader.get_extra_info("pipe") is reading
            assert writer.get_extra_info("pipe") is writing
            writer.close()
            reader.close()
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            popen = process._transport.get_extra_info("subprocess")
            assert popen.pid == process.pid
            process.stdin.close()
            await process.wait()
            await process.stdin.wait_closed()
            await process.stdout.read()

        run(main())


class TestServers:
    def test_serve_forever_that_is_cancelled_closes_and_waits_as_the_stdlib(self, run, any_loop):
        async def main():
            server = await any_loop.create_server(Waiting, HOST, 0)
            name = server.sockets[0].getsockname()
            serving = asyncio.ensure_future(server.serve_forever())
            transport, protocol = await any_loop.create_connection(Waiting, *name)
            await asyncio.sleep(0.01)
            serving.cancel()
            await asyncio.sleep(0.01)
            assert server.sockets == () and not server.is_serving()
            with pytest.raises(ConnectionRefusedError):
                await any_loop.create_connection(Waiting, *name)
            transport.close()
            await protocol.lost
            with pytest.raises(asyncio.CancelledError):
                await serving

        run(main())

    def test_async_with_closes_it(self, run, any_loop):
        async def main():
            async with await any_loop.create_server(Waiting, HOST, 0) as server:
                name = server.sockets[0].getsockname()
                assert server.is_serving()
            with pytest.raises(ConnectionRefusedError):
                await any_loop.create_connection(Waiting, *name)

        run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11 TLS closes without an answer")
@pytest.mark.parametrize("how", ["end", "reset"])
def test_tls_does_not_wait_half_a_minute_for_a_peer_that_vanishes(run, any_loop, tls, how):
    """The default ssl_shutdown_timeout is 30 s."""

    async def main():
        with socket.create_server((HOST, 0)) as listener:

            def serve():
                sock, _ = listener.accept()
                return tls[0].wrap_socket(sock, server_side=True)

            serving = any_loop.run_in_executor(None, serve)
            transport, protocol = await any_loop.create_connection(
                Waiting, *listener.getsockname(), ssl=tls[1], server_hostname="localhost"
            )
            peer = await serving
            transport.write(b"x" * 1000)
            transport.close()
            if how == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            socket.socket.close(peer)  # without TLS's goodbye
            started = any_loop.time()
            await protocol.lost
            assert any_loop.time() - started < 5

    run(main())
