"""The TLS transport as asyncio's own: limits, extra information, errors of protocols, start_tls in all its forms."""

import asyncio
import gc
import os
import socket
import ssl
import sys
import warnings
from asyncio import sslproto

import pytest

HOST = "127.0.0.1"
PATIENCE = 15.0


@pytest.fixture
def ours_only(any_loop):
    if isinstance(any_loop, asyncio.SelectorEventLoop):
        pytest.skip("the stdlib's loop does worse")


@pytest.fixture
def ends(recorder, tls):
    """await ends() -> (client's recorder, server's recorder, server), connected over TLS. Keywords are the hooks of the
    client's, or what to use in its place."""

    async def make(client=None, **hooks):
        loop = asyncio.get_running_loop()
        theirs = recorder()
        ours = client or recorder(**hooks)
        server = await loop.create_server(lambda: theirs, HOST, 0, ssl=tls[0])
        await loop.create_connection(
            lambda: ours, *server.sockets[0].getsockname(), ssl=tls[1], server_hostname="localhost"
        )
        await theirs.until_called("connection_made")
        return ours, theirs, server

    return make


async def end(*ends):
    *recorders, server = ends
    server.close()
    for each in recorders:
        each.transport.abort()
    for each in recorders:
        await each.until_lost()


class TestTheTransport:
    def test_what_it_is(self, run, new_sslproto, ends):
        async def main():
            ours, theirs, server = await ends()
            transport = ours.transport
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport, sslproto._SSLProtocolTransport)
            assert transport._start_tls_compatible
            assert not transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            assert transport.get_protocol() is ours
            assert transport.is_reading()
            assert not transport.is_closing()
            assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
            assert transport.get_write_buffer_size() == transport.get_read_buffer_size() == 0
            transport.set_write_buffer_limits(high=1000)
            assert transport.get_write_buffer_limits() == (250, 1000)
            transport.set_read_buffer_limits(low=1000)
            assert transport.get_read_buffer_limits() == (1000, 4000)
            with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\) must be >= 0"):
                transport.set_write_buffer_limits(1, 2)
            for wrong in (3, "text", None):
                with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got"):
                    transport.write(wrong)
            await end(ours, theirs, server)

        run(main())

    def test_extra_information(self, run, new_sslproto, ends, tls):
        async def main():
            ours, theirs, server = await ends()
            info = ours.transport.get_extra_info
            assert info("sslcontext") is tls[1]
            assert isinstance(info("ssl_object"), ssl.SSLObject)
            assert info("cipher") == info("ssl_object").cipher()
            assert info("peercert") == info("ssl_object").getpeercert()
            assert theirs.transport.get_extra_info("peercert") is None
            assert info("compression") is None
            assert info("peername") == server.sockets[0].getsockname()
            assert info("sockname") == theirs.transport.get_extra_info("peername")
            assert info("socket").fileno() >= 0
            assert info("nothing", 5) == 5
            await end(ours, theirs, server)
            assert info("ssl_object") is not None
            assert info("peername", 7) == 7

        run(main())

    @pytest.mark.parametrize(
        "header",
        [b"\x17\x02\x03\x00\x40", b"\x17\x03\x01\x00\x40", b"\x16\x03\x01\x00\x40", b"\x17\x03\x03\x41\x01", b"GET /"],
        ids=["major", "minor", "clear", "length", "http"],
    )
    def test_a_header_that_is_wrong_is_told_before_the_rest_comes(self, run, new_sslproto, ends, header):
        async def main():
            ours, theirs, server = await ends()
            os.write(theirs.transport.get_extra_info("socket").fileno(), header)
            await ours.until_lost()
            assert isinstance(ours.lost, ssl.SSLError)
            await end(theirs, server)

        run(main())

    def test_a_write_of_nothing_is_nothing(self, run, ends):
        async def main():
            ours, theirs, server = await ends()
            for nothing in (b"", bytearray(), memoryview(b"")):
                ours.transport.write(nothing)
            ours.transport.writelines([])
            ours.transport.writelines([b"", b"a", b""])
            await theirs.until(lambda: theirs.data == b"a")
            await end(ours, theirs, server)

        run(main())

    def test_a_writer_is_paused_and_resumed(self, run, new_sslproto, ends):
        async def main():
            ours, theirs, server = await ends()
            theirs.transport.pause_reading()
            ours.transport.set_write_buffer_limits(high=100_000)
            total = 0
            while "pause_writing" not in ours.names:
                ours.transport.write(bytes(50_000))
                total += 50_000
                await asyncio.sleep(0)
            assert ours.transport.get_write_buffer_size() >= 100_000
            theirs.transport.resume_reading()
            await ours.until_called("resume_writing")
            await theirs.until(lambda: len(theirs.data) == total)
            await end(ours, theirs, server)

        run(main())

    def test_nothing_comes_while_reading_is_paused(self, run, new_sslproto, ends, turns):
        async def main():
            ours, theirs, server = await ends()
            ours.transport.pause_reading()
            assert not ours.transport.is_reading()
            theirs.transport.write(b"x" * 2_000_000)
            await asyncio.sleep(0.05)
            assert not ours.data
            assert 0 < ours.transport.get_read_buffer_size() < 1_000_000  # it is left to the kernel, and to the peer
            ours.transport.resume_reading()
            await ours.until(lambda: len(ours.data) == 2_000_000)
            await end(ours, theirs, server)

        run(main())

    def test_writes_of_one_callback_are_one_record(self, run, ours_only, tls, recorder):
        async def main():
            loop = asyncio.get_running_loop()
            client, wire = socket.socketpair()
            client.setblocking(False)
            wire.setblocking(False)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            peer = tls[0].wrap_bio(incoming, outgoing, server_side=True)
            protocol = recorder()
            connecting = asyncio.ensure_future(
                loop.create_connection(lambda: protocol, sock=client, ssl=tls[1], server_hostname="localhost")
            )
            shaken = False
            while not connecting.done() or not shaken:
                try:
                    peer.do_handshake()
                    shaken = True
                except ssl.SSLWantReadError:
                    if not outgoing.pending:
                        incoming.write(await loop.sock_recv(wire, 65536))
                await loop.sock_sendall(wire, outgoing.read())
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
            protocol.transport.write(b"headers ")
            protocol.transport.write(bytearray(b"body "))
            protocol.transport.write(memoryview(b"trailers"))
            received = await loop.sock_recv(wire, 65536)
            size = int.from_bytes(received[3:5], "big")
            assert len(received) == 5 + size
            incoming.write(received)
            assert peer.read(1000) == b"headers body trailers"
            wire.close()
            protocol.transport.abort()
            await protocol.until_lost()

        run(main())

    def test_methods_of_an_sslobject_class_are_called(self, run, ends, tls, tmp_path, recorder):
        from tools.certificates import localhost_tls

        calls = set()

        class Object(ssl.SSLObject):
            def read(self, *args):
                calls.add("read")
                return super().read(*args)

            def write(self, data):
                calls.add("write")
                return super().write(data)

        async def main():
            loop = asyncio.get_running_loop()
            server_context, client_context = localhost_tls(tmp_path)
            client_context.sslobject_class = Object
            ours, theirs = recorder(), recorder(data_received=lambda self, data: self.transport.write(data))
            server = await loop.create_server(lambda: theirs, HOST, 0, ssl=server_context)
            await loop.create_connection(
                lambda: ours, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
            ours.transport.write(b"abc")
            await ours.until(lambda: ours.data == b"abc")
            assert calls == {"read", "write"}
            await end(ours, theirs, server)

        run(main())

    def test_another_protocol_takes_over(self, run, new_sslproto, ends, recorder, buffered_recorder):
        async def main():
            ours, theirs, server = await ends()
            second = buffered_recorder(size=10)
            ours.transport.set_protocol(second)
            theirs.transport.write(b"0123456789" * 50)
            await second.until(lambda: len(second.data) == 500)
            assert not ours.data
            ours.transport.set_protocol(ours)
            theirs.transport.write(b"back")
            await ours.until(lambda: ours.data == b"back")
            await end(ours, theirs, server)

        run(main())


class TestMemory:
    def test_garbage_collected_between_two_records(self, run, new_sslproto, ends):
        """Finalizers that close other connections, which have not read what came, while records are decrypted."""

        class Closes:
            def __init__(self, transport):
                self.transport = transport
                self.cycle = self

            def __del__(self):
                self.transport.close()

        async def main():
            ours, theirs, server = await ends()
            others = []
            blob = bytes(range(256)) * 2000
            for _ in range(5):
                other, peer, its_server = await ends()
                other.transport.pause_reading()
                peer.transport.write(b"?" * 100_000)
                others.append((other, peer, its_server))
            await asyncio.sleep(0.05)
            ours.transport.pause_reading()
            theirs.transport.write(blob)
            await asyncio.sleep(0.05)
            for other, _, _ in others:
                Closes(other.transport)
            thresholds = gc.get_threshold()
            gc.set_threshold(1, 1, 1)
            try:
                ours.transport.resume_reading()
                await ours.until(lambda: len(ours.data) == len(blob))
            finally:
                gc.set_threshold(*thresholds)
            assert ours.data == blob
            gc.collect()
            for other, peer, its_server in others:
                await other.until_lost()
                await end(peer, its_server)
            await end(ours, theirs, server)

        run(main())


class TestErrors:
    @pytest.mark.parametrize("keyword", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
    def test_a_timeout_that_is_none(self, run, tls, keyword, new_sslproto):
        if sys.version_info < (3, 11) and keyword == "ssl_shutdown_timeout":
            pytest.skip("came with 3.11")

        async def main():
            with (
                socket.create_server((HOST, 0)) as listener,
                socket.create_connection(listener.getsockname()) as sock,
                pytest.raises(ValueError, match=f"{keyword} should be a positive number, got 0"),
            ):
                sock.setblocking(False)
                await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, sock=sock, ssl=tls[1], server_hostname="localhost", **{keyword: 0}
                )

        run(main())

    @pytest.mark.parametrize("method", ["data_received", "eof_received", "pause_writing"])
    def test_an_exception_of_the_protocol(self, run, new_sslproto, ends, errors, method):
        def fail(self, *args):
            raise ZeroDivisionError(method)

        async def main():
            ours, theirs, server = await ends(**{method: fail})
            if method == "data_received":
                theirs.transport.write(b"data")
            elif method == "eof_received":
                theirs.transport.close()
            else:
                ours.transport.set_write_buffer_limits(high=10)
                theirs.transport.pause_reading()
                for _ in range(200):
                    ours.transport.write(bytes(65536))
                    if errors:
                        break
                ours.transport.abort()
            await ours.until_lost()
            (details,) = errors
            assert isinstance(details["exception"], ZeroDivisionError)
            assert (
                details["message"]
                == {
                    "data_received": "Fatal error on SSL protocol",
                    "eof_received": "Error calling eof_received()",
                    "pause_writing": "protocol.pause_writing() failed",
                }[method]
            )
            if method != "pause_writing":
                assert isinstance(ours.lost, ZeroDivisionError)
            errors.clear()
            await end(theirs, server)

        run(main())

    def test_connection_made_raises(self, run, new_sslproto, tls, recorder, errors):
        def fail(self, *args):
            raise ZeroDivisionError

        async def main():
            loop = asyncio.get_running_loop()
            theirs, ours = recorder(), recorder(connection_made=fail)
            server = await loop.create_server(lambda: theirs, HOST, 0, ssl=tls[0])
            with pytest.raises(ZeroDivisionError):
                await loop.create_connection(
                    lambda: ours, *server.sockets[0].getsockname(), ssl=tls[1], server_hostname="localhost"
                )
            server.close()
            await ours.until_lost()
            assert isinstance(ours.lost, ZeroDivisionError)
            assert [type(details["exception"]) for details in errors] == [ZeroDivisionError]
            errors.clear()
            if "connection_made" in theirs.names:
                await theirs.until_lost()

        run(main())

    def test_a_server_name_that_is_refused(self, run, new_sslproto, tmp_path):
        from tools.certificates import localhost_tls

        async def main():
            server_context, client_context = localhost_tls(tmp_path)
            server_context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            server = await asyncio.start_server(lambda r, w: None, HOST, 0, ssl=server_context)
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await asyncio.open_connection(
                    *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
                )
            server.close()

        run(main())

    def test_writing_after_the_end_is_dropped_with_a_warning(self, run, new_sslproto, ends, caplog):
        async def main():
            ours, theirs, server = await ends()
            ours.transport.abort()
            await ours.until_lost()
            for _ in range(8):
                ours.transport.write(b"x")
            assert "SSL connection is closed" in caplog.text
            ours.transport.close()
            ours.transport.abort()
            await end(theirs, server)

        run(main())

    def test_close_while_reading_is_paused_and_the_peer_has_ended(self, run, ours_only, ends):
        async def main():
            ours, theirs, server = await ends()
            ours.transport.pause_reading()
            theirs.transport.write(b"never read")
            theirs.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)
            ours.transport.close()
            await asyncio.wait_for(ours.until_lost(), 5)
            assert not ours.data
            await end(theirs, server)

        run(main())

    def test_one_that_is_forgotten_warns(self, loop_factory, tls, no_leaks):
        loop = loop_factory()

        async def leave_open():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(asyncio.Protocol, HOST, 0, ssl=tls[0])
            await loop.create_connection(
                asyncio.Protocol, *server.sockets[0].getsockname(), ssl=tls[1], server_hostname="localhost"
            )
            server.close()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.run_until_complete(leave_open())
            loop.close()
            del loop, leave_open
            gc.collect()
        texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        assert any("unclosed transport <SSLTransport" in text for text in texts), texts


class TestStartTls:
    @pytest.mark.skipif(sys.version_info < (3, 11), reason="StreamWriter.start_tls came with 3.11")
    def test_by_a_stream_writer(self, run, tls):
        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.start_tls(tls[0])
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        async def main():
            server = await asyncio.start_server(serve, HOST, 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(tls[1], server_hostname="localhost")
            assert writer.get_extra_info("ssl_object") is not None
            writer.write(b"secret\n")
            assert await reader.readline() == b"SECRET\n"
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            server.close()

        run(main())

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="StreamWriter.start_tls came with 3.11")
    def test_a_client_that_does_not_wait_for_the_answer(self, run, ours_only, tls):
        """Its first bytes of TLS come with the plain text and lie in the StreamReader (3.14.3 has this, too)."""

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            await asyncio.sleep(0.05)
            await writer.start_tls(tls[0])
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        def client(address):
            with socket.create_connection(address) as sock:
                sock.sendall(b"STARTTLS\n")
                with tls[1].wrap_socket(sock, server_hostname="localhost") as secure:
                    secure.sendall(b"secret\n")
                    return secure.recv(100)

        async def main():
            server = await asyncio.start_server(serve, HOST, 0)
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, client, server.sockets[0].getsockname()) == b"SECRET\n"
            server.close()

        run(main())

    def test_tls_in_tls(self, run, new_sslproto, ends, recorder, tls):
        async def main():
            ours, theirs, server = await ends()
            loop = asyncio.get_running_loop()
            inner, inner_peer = recorder(), recorder()
            transport, peer = await asyncio.gather(
                loop.start_tls(ours.transport, inner, tls[1], server_hostname="localhost"),
                loop.start_tls(theirs.transport, inner_peer, tls[0], server_side=True),
            )
            blob = bytes(range(256)) * 8000
            transport.write(blob)
            peer.write(blob[::-1])
            await inner_peer.until(lambda: inner_peer.data == blob)
            await inner.until(lambda: inner.data == blob[::-1])
            assert transport.get_extra_info("ssl_object") is not ours.transport.get_extra_info("ssl_object")
            assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
            transport.close()
            await inner.until_lost()
            await inner_peer.until_lost()
            assert not ours.data
            assert ours.names == theirs.names == ["connection_made"]
            assert ours.transport.is_closing()
            server.close()

        run(main())

    def test_a_protocol_that_was_paused_is_resumed(self, run, ours_only, tls, recorder):
        """The transport below told it to pause, and will never tell it to go on."""

        async def main():
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            protocol = recorder()
            plain, _ = await loop.create_connection(lambda: protocol, sock=ours)
            size = 2_000_000
            plain.write(bytes(size))
            assert "pause_writing" in protocol.names
            starting = asyncio.ensure_future(loop.start_tls(plain, protocol, tls[1], server_hostname="localhost"))
            got = 0
            while got < size:
                got += len(await loop.sock_recv(theirs, min(65536, size - got)))
            peer = recorder()
            await asyncio.gather(starting, self.serve_tls(loop, theirs, peer, tls[0]))
            await protocol.until_called("resume_writing")
            starting.result().close()
            await protocol.until_lost()
            await peer.until_lost()

        run(main())

    async def serve_tls(self, loop, sock, protocol, context):
        await loop.connect_accepted_socket(lambda: protocol, sock, ssl=context)


def test_where_no_socket_object_can_be_made_the_connection_ends(loop, tls, monkeypatch):
    class Failing(socket.socket):
        def __init__(self, *args, **named):
            if len(args) == 4:  # of a fd
                raise MemoryError
            super().__init__(*args, **named)

    told = []
    loop.set_exception_handler(lambda _, details: told.append(type(details["exception"])))

    async def main():
        server = await loop.create_server(asyncio.Protocol, HOST, 0, ssl=tls[0])
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            peer.setblocking(False)
            monkeypatch.setattr("socket.socket", Failing)
            assert await asyncio.wait_for(loop.sock_recv(peer, 100), PATIENCE) == b""
            monkeypatch.undo()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    assert told == [MemoryError]
