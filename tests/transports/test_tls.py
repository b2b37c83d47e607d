"""TLS over the stream transport; start_tls on both sides."""

import asyncio
import contextlib
import os
import socket
import ssl
import sys

import pytest

HOST = "127.0.0.1"


async def echo(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


def address_of(server):
    return server.sockets[0].getsockname()


async def shut(server):
    server.close()
    await asyncio.wait_for(server.wait_closed(), 15)


@pytest.fixture
def serve(tls):
    async def make(handler=echo, **options):
        return await asyncio.start_server(handler, HOST, 0, ssl=tls[0], **options)

    return make


@pytest.mark.parametrize("way", ["close", "abort"])
def test_a_writer_that_never_has_to_wait_hears_of_the_end(loop, serve, tls, way):
    """drain() suspends only where writing is paused or the transport is closing, so is_closing() has to tell at once
    that the connection broke: else the loop would never get to call connection_lost()."""
    writes_max = 20_000  # 280 MB to a peer that has long gone
    outcomes = []

    async def pour(reader, writer):
        for _ in range(writes_max):
            writer.write(b"piece of data " * 1000)
            try:
                await writer.drain()
            except ConnectionError:
                break
        else:
            outcomes.append("never told")
        writer.close()
        ended.set()

    async def main():
        server = await serve(pour)
        for amount in range(100_000, 400_000, 6_000):  # it takes a certain order of events
            ended.clear()
            reader, writer = await asyncio.open_connection(*address_of(server), ssl=tls[1], server_hostname="localhost")
            got = 0
            while got < amount:
                got += len(await reader.read(65536))
            if way == "abort":
                writer.transport.abort()
            else:
                writer.close()
            await ended.wait()
        await shut(server)

    ended = asyncio.Event()
    loop.run_until_complete(main())
    assert not outcomes


class TestTls:
    def test_five_megabytes_there_and_back(self, run, tls, serve):
        blob = os.urandom(5_000_000)

        async def main():
            server = await serve()
            reader, writer = await asyncio.open_connection(*address_of(server), ssl=tls[1], server_hostname="localhost")
            writer.write(blob)
            assert await reader.readexactly(len(blob)) == blob
            assert writer.get_extra_info("peercert")["subject"]
            assert writer.get_extra_info("cipher")
            assert writer.get_extra_info("ssl_object").version().startswith("TLS")
            assert writer.get_extra_info("socket").fileno() >= 0
            assert isinstance(writer.transport, asyncio.Transport)
            writer.close()
            await writer.wait_closed()
            await shut(server)

        run(main())

    def test_many_connections_at_once(self, run, tls, serve):
        async def main():
            server = await serve()

            async def client(i):
                reader, writer = await asyncio.open_connection(
                    *address_of(server), ssl=tls[1], server_hostname="localhost"
                )
                message = b"%d" % i * 1000
                writer.write(message)
                assert await reader.readexactly(len(message)) == message
                writer.close()
                await writer.wait_closed()

            await asyncio.gather(*(client(i) for i in range(30)))
            await shut(server)

        run(main())

    def test_over_a_unix_socket(self, run, tls, tmp_path):
        async def main():
            path = str(tmp_path / "s")
            server = await asyncio.start_unix_server(echo, path, ssl=tls[0])
            reader, writer = await asyncio.open_unix_connection(path, ssl=tls[1], server_hostname="localhost")
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()
            await shut(server)

        run(main())

    def test_a_certificate_that_is_not_trusted(self, run, serve, errors):
        async def main():
            server = await serve()
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(
                    *address_of(server), ssl=ssl.create_default_context(), server_hostname="localhost"
                )
            await asyncio.sleep(0.05)
            await shut(server)

        run(main())

    def test_a_peer_that_does_not_speak_tls(self, run, serve):
        async def main():
            server = await serve()
            reader, writer = await asyncio.open_connection(*address_of(server))
            writer.write(b"GET / HTTP/1.0\r\n\r\n" * 10)
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 10)
            writer.close()
            await asyncio.sleep(0.05)
            await shut(server)

        run(main())

    def test_a_server_that_never_answers_the_handshake(self, run, tls):
        async def main():
            text = r"SSL handshake is taking longer than 0\.1 seconds"
            with (
                socket.create_server((HOST, 0)) as silent,
                pytest.raises(ConnectionAbortedError, match=text),
            ):
                await asyncio.open_connection(
                    *silent.getsockname(), ssl=tls[1], server_hostname="localhost", ssl_handshake_timeout=0.1
                )

        run(main())

    def test_a_client_that_never_begins_the_handshake(self, run, serve):
        async def main():
            server = await serve(ssl_handshake_timeout=0.1)
            with socket.create_connection(address_of(server)) as silent:
                silent.settimeout(10)
                assert await asyncio.get_running_loop().run_in_executor(None, silent.recv, 10) == b""
            await shut(server)

        run(main())

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="ssl_shutdown_timeout came with 3.11")
    def test_a_peer_that_does_not_answer_the_shutdown(self, run, tls, recorder):
        async def main():
            loop = asyncio.get_running_loop()
            with socket.create_server((HOST, 0)) as listener:

                def handshake_and_sleep():
                    sock, _ = listener.accept()
                    return tls[0].wrap_socket(sock, server_side=True)

                accepting = loop.run_in_executor(None, handshake_and_sleep)
                protocol = recorder()
                transport, _ = await loop.create_connection(
                    lambda: protocol,
                    *listener.getsockname(),
                    ssl=tls[1],
                    server_hostname="localhost",
                    ssl_shutdown_timeout=0.1,
                )
                peer = await accepting
                transport.close()
                await protocol.until_lost()
                assert protocol.lost is None or isinstance(protocol.lost, TimeoutError)
                peer.close()

        run(main())

    def test_a_client_cancelled_in_the_handshake_leaves_nothing(self, run, tls):
        async def main():
            with socket.create_server((HOST, 0)) as silent:
                connecting = asyncio.ensure_future(
                    asyncio.open_connection(*silent.getsockname(), ssl=tls[1], server_hostname="localhost")
                )
                await asyncio.sleep(0.05)
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                await asyncio.sleep(0.05)

        run(main())


class TestStartTls:
    def test_both_sides_after_plain_text(self, run, tls):
        blob = os.urandom(1_000_000)

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                if data == b"STARTTLS":
                    self.task = asyncio.ensure_future(self.upgrade())
                else:
                    self.transport.write(data)

            async def upgrade(self):
                plain = self.transport
                plain.write(b"go")
                loop = asyncio.get_running_loop()
                self.transport = await loop.start_tls(plain, self, tls[0], server_side=True)
                self.transport.write(b"secure")

            def connection_lost(self, exc):
                self.transport.close()

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Server, HOST, 0)
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.create_connection(lambda: protocol, *address_of(server))
            transport.write(b"STARTTLS")
            assert await reader.readexactly(2) == b"go"
            secure = await loop.start_tls(transport, protocol, tls[1], server_hostname="localhost")
            assert secure.get_extra_info("ssl_object") is not None
            assert await reader.readexactly(6) == b"secure"
            secure.write(blob)
            assert await reader.readexactly(len(blob)) == blob
            secure.close()
            await asyncio.sleep(0.1)
            await shut(server)

        run(main())

    def test_what_is_no_context_is_refused(self, run, pair, connect, recorder):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            loop = asyncio.get_running_loop()
            with pytest.raises(TypeError, match="sslcontext is expected to be an instance of"):
                await loop.start_tls(transport, protocol, None)
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_a_peer_that_ends_in_the_handshake(self, run, pair, connect, recorder, tls):
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            peer.close()
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await asyncio.get_running_loop().start_tls(transport, protocol, tls[1], server_hostname="localhost")
            assert transport.is_closing()
            await asyncio.sleep(0.02)

        run(main())
