"""Reports about other loops, as small programs: connections, servers, TLS.

What users wrote to the trackers of uvloop, zuvloop, asyncio and the servers that run on them. docs/from-uvloop.md tells
how each loop fares.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import weakref

import pytest

HOST = "127.0.0.1"
RESET_AT_CLOSE = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class Noting(asyncio.Protocol):
    """Notes what it is told; `on` has what it does besides."""

    def __init__(self, **on):
        self.on = on
        self.seen = []
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def told(self, what, *args):
        self.seen.append(what)
        return self.on[what](self.transport, *args) if what in self.on else None

    def connection_made(self, transport):
        self.transport = transport
        self.told("made")

    def data_received(self, data):
        self.data += data
        self.told("data", data)

    def eof_received(self):
        return self.told("eof")

    def pause_writing(self):
        self.told("pause")

    def resume_writing(self):
        self.told("resume")

    def connection_lost(self, exc):
        self.told("lost")
        self.lost.set_result(exc)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


@pytest.fixture
def connected(any_loop):
    """await connected(**on) -> (transport, protocol, blocking peer)."""
    peers = []

    async def connect(**on):
        ours, peer = socket.socketpair()
        peers.append(peer)
        peer.settimeout(10)
        transport, protocol = await any_loop.create_connection(lambda: Noting(**on), sock=ours)
        return transport, protocol, peer

    yield connect
    for peer in peers:
        peer.close()


@pytest.fixture
def read_all(any_loop):
    """await read_all(peer): what a blocking peer gets until the end."""

    def receive(peer):
        return b"".join(iter(lambda: peer.recv(1 << 20), b""))

    return lambda peer: any_loop.run_in_executor(None, receive, peer)


class TestWriting:
    def test_everything_when_closed(self, run, connected, stdlib_is_wrong):
        """uvloop #506, #685, websockets #1511, uvicorn #1251, sanic #3068: RuntimeError, the handler is closed."""
        stdlib_is_wrong((3, 12), "TypeError of writelines()")

        async def main():
            transport, protocol, _ = await connected()
            transport.close()
            for _ in range(2):  # closing, and closed
                transport.write(b"x")
                transport.writelines([b"x", b"y"])
                transport.write_eof()
                transport.pause_reading()
                transport.resume_reading()
                transport.set_write_buffer_limits(10)
                assert transport.get_write_buffer_size() == 0
                transport.close()
                await protocol.lost
            assert protocol.seen == ["made", "lost"]

        run(main())

    def test_writelines_that_does_not_fit(self, run, connected, read_all):
        """cpython #103462: what was left after the first sendmsg() was never sent."""

        async def main():
            transport, protocol, peer = await connected()
            transport.writelines([bytes(6500)] * 1000 + [b"end"])
            transport.close()
            data = await read_all(peer)
            assert (len(data), data[-3:]) == (6_500_003, b"end")
            await protocol.lost

        run(main())

    @pytest.mark.parametrize("chunks", [[b"hello", b""], [b""], [b"", b"a", b""], []])
    def test_writelines_with_empty_chunks(self, run, connected, read_all, stdlib_is_wrong, chunks):
        """cpython #155888: an empty chunk was never written, so the transport never closed."""
        stdlib_is_wrong((3, 12), "never closes")

        async def main():
            transport, protocol, peer = await connected()
            transport.writelines(chunks)
            transport.close()
            assert await read_all(peer) == b"".join(chunks)
            await protocol.lost

        run(main())

    def test_writelines_pauses_the_protocol(self, run, connected, stdlib_is_wrong):
        """cpython #127655: writelines() filled memory without pause_writing()."""
        stdlib_is_wrong((3, 12), "does not before gh-127655")

        async def main():
            transport, protocol, _ = await connected()
            transport.writelines([bytes(1 << 20)] * 8)
            await until(lambda: "pause" in protocol.seen)
            transport.abort()
            await protocol.lost

        run(main())

    def test_writelines_after_the_peer_is_gone(self, run, connected, stdlib_is_wrong):
        """cpython #136234: AttributeError or TypeError, where write() drops the data."""
        stdlib_is_wrong((3, 12), "TypeError before gh-136234")

        async def main():
            transport, protocol, peer = await connected()
            peer.close()
            await protocol.lost
            transport.writelines([b"a", b"b"])
            assert transport.get_write_buffer_size() == 0

        run(main())

    @pytest.mark.parametrize("how", ["close", "abort"])
    def test_closing_in_resume_writing(self, run, connected, read_all, stdlib_is_wrong, how):
        """cpython #156512: the connection was lost twice, the second time with an AttributeError."""
        stdlib_is_wrong((3, 10), "AttributeError in a callback")

        async def main():
            transport, protocol, peer = await connected(resume=lambda transport: getattr(transport, how)())
            transport.write(bytes(8 << 20))
            reading = read_all(peer)
            await protocol.lost
            assert len(await reading) == 8 << 20
            assert protocol.seen == ["made", "pause", "resume", "lost"]

        run(main())

    def test_closing_with_much_to_send(self, run, connected, read_all):
        """cpython #115514: after close() the rest was not sent."""

        async def main():
            transport, protocol, peer = await connected()
            for _ in range(5):
                transport.write(bytes(1 << 20))
            transport.close()
            assert len(await read_all(peer)) == 5 << 20
            await protocol.lost

        run(main())

    def test_what_was_to_be_sent_is_let_go_of(self, run, connected):
        """uvloop #548: the buffers of a lost connection stayed in memory."""

        async def main():
            transport, protocol, peer = await connected()
            data = bytes(8 << 20)
            before = sys.getrefcount(data)
            transport.write(data)
            transport.write(data)
            peer.close()
            await protocol.lost
            await asyncio.sleep(0)
            assert sys.getrefcount(data) == before

        run(main())


class TestReading:
    def test_paused_from_the_beginning(self, run, connected, stdlib_is_wrong):
        """cpython #103607: pause_reading() in connection_made() was forgotten when the loop began to read."""
        if sys.version_info < (3, 11):
            stdlib_is_wrong((3, 10), "reads before gh-103607")

        async def main():
            transport, protocol, peer = await connected(made=lambda transport: transport.pause_reading())
            peer.send(b"x")
            for _ in range(10):
                await asyncio.sleep(0)
            assert not transport.is_reading()
            assert not protocol.data
            transport.resume_reading()
            await until(lambda: protocol.data == b"x")
            transport.close()
            await protocol.lost

        run(main())

    def test_data_received_that_raises_is_called_once(self, run, connected, errors):
        """zuvloop #23: it got the next chunk and the next, and connection_lost() no reason."""

        async def main():
            _, protocol, peer = await connected(data=lambda transport, data: 1 / 0)
            peer.send(b"x")
            assert isinstance(await protocol.lost, ZeroDivisionError)
            assert protocol.seen == ["made", "data", "lost"]

        run(main())
        assert [type(error["exception"]) for error in errors] == [ZeroDivisionError]
        errors.clear()

    def test_another_protocol_in_data_received(self, run, connected):
        """cpython #77835, #76943: from Protocol to BufferedProtocol and back, each chunk by its own."""

        class Buffered(asyncio.BufferedProtocol):
            def __init__(self):
                self.buffer = bytearray(100)
                self.got = []

            def get_buffer(self, sizehint):
                return self.buffer

            def buffer_updated(self, size):
                self.got.append(bytes(self.buffer[:size]))

        async def main():
            buffered = Buffered()
            transport, protocol, peer = await connected(data=lambda transport, _: transport.set_protocol(buffered))
            peer.send(b"one")
            await until(lambda: protocol.data)
            peer.send(b"two")
            await until(lambda: buffered.got)
            transport.set_protocol(protocol)
            peer.send(b"three")
            await until(lambda: protocol.data == b"onethree")
            assert buffered.got == [b"two"]
            transport.set_protocol(protocol)
            transport.close()
            await protocol.lost

        run(main())

    def test_a_method_that_the_protocol_gets_later(self, run, connected):
        """A protocol's attributes are looked up at each call: programs put hooks there while the connection is open."""

        async def main():
            transport, protocol, peer = await connected()
            peer.send(b"one")
            await until(lambda: protocol.data)
            hooked = []
            protocol.data_received = hooked.append
            peer.send(b"two")
            await until(lambda: hooked)
            assert (bytes(protocol.data), hooked) == (b"one", [b"two"])
            transport.close()
            await protocol.lost

        run(main())


class TestServers:
    @pytest.mark.parametrize("port", [0, None, "0"])
    def test_any_port(self, run, any_loop, port):
        """uvloop #7: None was no port."""

        async def main():
            server = await any_loop.create_server(asyncio.Protocol, HOST, port)
            assert server.sockets[0].getsockname()[1] > 0
            server.close()
            await server.wait_closed()
            assert tuple(server.sockets) == ()  # uvloop #231

        run(main())

    def test_the_peers_name_when_it_is_gone(self, run, any_loop):
        """uvloop #560: peername was None where the client had left before it was accepted."""
        names = []

        class Asking(asyncio.Protocol):
            def connection_made(self, transport):
                names.append(transport.get_extra_info("peername"))
                transport.abort()

        async def main():
            server = await any_loop.create_server(Asking, HOST, 0)
            with socket.create_connection(server.sockets[0].getsockname()) as client:
                client.setsockopt(*RESET_AT_CLOSE)
                name = client.getsockname()
            await until(lambda: names)
            assert names == [name]
            server.close()
            await server.wait_closed()

        run(main())

    def test_close_ends_serve_forever(self, run, any_loop):
        """uvloop #602, zuvloop #31: who awaited serve_forever() waited for ever."""

        async def main():
            server = await any_loop.create_server(asyncio.Protocol, HOST, 0)
            serving = asyncio.ensure_future(server.serve_forever())
            await asyncio.sleep(0)
            server.close()
            with pytest.raises(asyncio.CancelledError):
                await serving

        run(main())

    @pytest.mark.parametrize("turns", range(5))
    def test_closing_while_connections_come(self, run, any_loop, stdlib_is_wrong, turns):
        """cpython #109564: an AssertionError for those that were accepted when the server was closed."""
        stdlib_is_wrong((3, 10), "leaves them open, or an AssertionError")

        async def main():
            server = await any_loop.create_server(Noting, HOST, 0)
            clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            server.close()
            for client in clients:
                client.close()
            await server.wait_closed()

        run(main())

    def test_a_server_that_nobody_holds(self, run, any_loop, tmp_path):
        """uvloop #261: it was collected, and its socket closed."""

        async def main():
            server = weakref.ref(await asyncio.start_unix_server(lambda reader, writer: writer.close(), tmp_path / "s"))
            gc.collect()
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            server().close()

        run(main())

    def test_the_given_socket_may_be_closed_again(self, run, any_loop):
        """python/asyncio #449: EBADF, as the loop had closed its number behind it."""

        async def main():
            listening = socket.create_server((HOST, 0))
            server = await any_loop.create_server(asyncio.Protocol, sock=listening)
            server.close()
            await server.wait_closed()
            listening.close()
            assert listening.fileno() == -1

        run(main())


class TestTls:
    @pytest.mark.parametrize("case", ["close", "garbage", "reset"])
    def test_debug_mode_and_a_handshake_that_fails(self, run, any_loop, tls, errors, case):
        """uvloop #449: a TypeError in debug mode where the connection ended before its handshake began."""
        any_loop.set_debug(True)

        async def main():
            server = await any_loop.create_server(asyncio.Protocol, HOST, 0, ssl=tls[0])
            with socket.create_connection(server.sockets[0].getsockname()) as client:
                if case == "garbage":
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    await until(lambda: errors)
                elif case == "reset":
                    client.setsockopt(*RESET_AT_CLOSE)
            await until(lambda: errors)
            server.close()
            await server.wait_closed()

        run(main())
        any_loop.set_debug(False)
        assert {type(error["exception"]) for error in errors} <= {ConnectionResetError, *OSError.__subclasses__()}
        errors.clear()

    def test_the_hello_came_with_the_last_line_before_start_tls(self, run, any_loop, tls, stdlib_is_wrong):
        """cpython #142352, uvloop #707: what the StreamReader had read already was lost, and the handshake hung."""
        stdlib_is_wrong((3, 10), "hangs before gh-142352")
        if sys.version_info < (3, 11):
            pytest.skip("StreamWriter.start_tls() came with 3.11")

        async def serve(reader, writer):
            assert await reader.readline() == b"PROXY\r\n"
            await until(lambda: reader._buffer)
            await writer.start_tls(tls[0])
            writer.write(await reader.readline())
            writer.close()

        async def main():
            server = await asyncio.start_server(serve, HOST, 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"PROXY\r\n")
            await writer.start_tls(tls[1], server_hostname="localhost")
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(main())

    def test_a_peer_that_closes_in_the_handshake(self, run, any_loop, tls):
        """python/asyncio #472: create_connection() never returned."""

        async def main():
            ours, peer = socket.socketpair()
            connecting = asyncio.ensure_future(
                any_loop.create_connection(asyncio.Protocol, sock=ours, ssl=tls[1], server_hostname="localhost")
            )
            assert await any_loop.run_in_executor(None, peer.recv, 4)
            peer.close()
            with pytest.raises(ConnectionError):
                await connecting

        run(main())
