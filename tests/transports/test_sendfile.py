"""loop.sendfile and loop.sock_sendfile, over TCP, Unix sockets and TLS, with and without the kernel's help."""

import asyncio
import contextlib
import functools
import io
import socket
import ssl

import pytest

WAYS = ("sock-tcp", "sock-unix", "tcp", "unix", "tls")
NATIVE = WAYS[:4]
SIZE = 3_000_000


class Way:
    """`await send(file, ...)` sends; `peer` is the blocking socket at the other end; `transport` is None for a plain
    socket, `sock` is ours for a plain one."""

    transport = None

    def receive(self, count):
        data = bytearray()
        while len(data) < count:
            chunk = self.peer.recv(65536)
            assert chunk, f"the end after {len(data)} of {count}"
            data += chunk
        return bytes(data)

    def receive_all(self):
        data = bytearray()
        with contextlib.suppress(OSError):
            while chunk := self.peer.recv(65536):
                data += chunk
        return bytes(data)

    async def received(self, count):
        return await asyncio.get_running_loop().run_in_executor(None, self.receive, count)

    async def all_received(self):
        return await asyncio.get_running_loop().run_in_executor(None, self.receive_all)

    def write(self, data):
        """At once: only for what fits."""
        self.transport.write(data) if self.transport else self.sock.send(data)

    async def close(self):
        if self.transport:
            self.transport.abort()  # close() would wait for the peer's goodbye over TLS
            await self.protocol.until_lost()
        self.sock.close()
        self.peer.close()


@pytest.fixture(params=WAYS)
def kind(request):
    return request.param


@pytest.fixture
def connect_way(kind, pairs, recorder, tls):
    """await connect_way() -> Way."""

    async def make(protocol=None):
        loop = asyncio.get_running_loop()
        way = Way()
        way.sock, way.peer = pairs("unix" if "unix" in kind else "tcp")
        if kind.startswith("sock"):
            way.send = functools.partial(loop.sock_sendfile, way.sock)
            return way
        way.protocol = protocol or recorder()
        options = {"ssl": tls[1], "server_hostname": "localhost"} if kind == "tls" else {}
        if options:
            shake = functools.partial(tls[0].wrap_socket, way.peer, server_side=True)
            shaken = loop.run_in_executor(None, shake)
        way.transport, _ = await loop.create_connection(lambda: way.protocol, sock=way.sock, **options)
        if options:
            way.peer = await shaken
        way.send = functools.partial(loop.sendfile, way.transport)
        return way

    return make


@pytest.fixture
def pairs():
    """pairs(kind) -> two connected sockets with small buffers, the second one blocking; closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(kind):
            if kind == "unix":
                ours, peer = socket.socketpair()
            else:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
                    ours = socket.create_connection(listener.getsockname())
                    peer, _ = listener.accept()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
            ours.setblocking(False)
            peer.settimeout(15)
            stack.enter_context(ours)
            stack.enter_context(peer)
            return ours, peer

        yield make


@pytest.fixture
def content(numbered):
    return numbered(SIZE)


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with open(path, "rb", 0) as opened:
        yield opened


class TestWhatIsSent:
    @pytest.mark.parametrize(
        "offset, count, expected",
        [
            (0, None, slice(0, SIZE)),
            (1_000_001, None, slice(1_000_001, SIZE)),
            (0, 1, slice(0, 1)),
            (5, 2_000_000, slice(5, 2_000_005)),
            (2_999_990, 1000, slice(2_999_990, SIZE)),
            (SIZE, None, slice(0, 0)),
            (SIZE + 5, 10, slice(0, 0)),
        ],
    )
    def test_part_of_a_file(self, run, connect_way, file, content, offset, count, expected):
        async def main():
            way = await connect_way()
            wanted = content[expected]
            receiving = asyncio.ensure_future(way.received(len(wanted)))
            assert await way.send(file, offset, count) == len(wanted)
            assert await receiving == wanted
            if wanted:
                assert file.tell() == offset + len(wanted)
            way.write(b"after")
            assert await way.received(5) == b"after"
            await way.close()

        run(main())

    def test_an_empty_file(self, run, connect_way, tmp_path):
        (tmp_path / "empty").touch()

        async def main():
            way = await connect_way()
            with open(tmp_path / "empty", "rb") as file:
                assert await way.send(file) == 0
            await way.close()

        run(main())

    def test_a_file_that_grows(self, run, connect_way, tmp_path, numbered):
        """What is appended while it is sent is sent too."""
        data = numbered(4_000_000)
        path = tmp_path / "growing"
        path.write_bytes(data[:2_000_000])

        async def main():
            way = await connect_way()
            with open(path, "rb", 0) as file, open(path, "ab", 0) as more:
                sending = asyncio.ensure_future(way.send(file))
                await asyncio.sleep(0)
                assert not sending.done()
                more.write(data[2_000_000:])
                assert await way.received(len(data)) == data
                assert await sending == len(data)
            await way.close()

        run(main())

    def test_the_position_of_the_file_does_not_matter_to_the_kernel(self, run, connect_way, file, content, kind):
        if kind == "tls":
            pytest.skip("copying starts where the file stands")
        file.seek(77)

        async def main():
            way = await connect_way()
            assert await way.send(file, 0, 1000) == 1000
            assert await way.received(1000) == content[:1000]
            await way.close()

        run(main())

    def test_what_is_no_regular_file_is_copied(self, run, connect_way, content, stdlib_is_wrong):
        stdlib_is_wrong((3, 12), "reads the next piece into a buffer that its transport still has to send")

        async def main():
            way = await connect_way()
            file = io.BytesIO(content)
            receiving = asyncio.ensure_future(way.received(2_000_000))
            assert await way.send(file, 100, 2_000_000) == 2_000_000
            assert await receiving == content[100:2_000_100]
            assert file.tell() == 2_000_100
            way.write(b"after")
            assert await way.received(5) == b"after"
            await way.close()

        run(main())

    def test_without_fallback(self, run, connect_way, content, kind):
        async def main():
            way = await connect_way()
            text = "fallback is disabled" if kind == "tls" else "not a regular file"
            error = RuntimeError if kind == "tls" else asyncio.SendfileNotAvailableError
            with pytest.raises(error, match=text):
                await way.send(io.BytesIO(content), fallback=False)
            way.write(b"after")
            assert await way.received(5) == b"after"
            await way.close()

        run(main())


class TestMistakes:
    @pytest.mark.parametrize("kind", NATIVE)
    @pytest.mark.parametrize(
        "arguments, error, text",
        [
            ((0, 0), ValueError, r"count must be a positive integer \(got 0\)"),
            ((0, -1), ValueError, r"count must be a positive integer \(got -1\)"),
            ((0, "1"), TypeError, r"count must be a positive integer \(got '1'\)"),
            ((-1,), ValueError, r"offset must be a non-negative integer \(got -1\)"),
            ((1.5,), TypeError, r"offset must be a non-negative integer \(got 1.5\)"),
        ],
    )
    def test_numbers(self, run, connect_way, file, arguments, error, text):
        async def main():
            way = await connect_way()
            with pytest.raises(error, match=f"^{text}$"):
                await way.send(file, *arguments)
            way.write(b"after")
            assert await way.received(5) == b"after"
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", NATIVE)
    def test_a_text_file(self, run, connect_way, file):
        async def main():
            way = await connect_way()
            with open(file.name) as text, pytest.raises(ValueError, match=r"^file should be opened in binary mode$"):
                await way.send(text)
            await way.close()

        run(main())

    def test_a_closed_file(self, run, connect_way, file):
        file.close()

        async def main():
            way = await connect_way()
            with pytest.raises(ValueError, match="closed file"):
                await way.send(file)
            await way.close()

        run(main())

    def test_sockets_that_will_not_do(self, any_loop, run, pairs, file):
        one, other = pairs("tcp")

        async def main():
            with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
                datagrams.setblocking(False)
                with pytest.raises(ValueError, match="only SOCK_STREAM type sockets are supported"):
                    await any_loop.sock_sendfile(datagrams, file)
            any_loop.set_debug(True)
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await any_loop.sock_sendfile(other, file)
            any_loop.set_debug(False)
            context = ssl.create_default_context()
            with (
                context.wrap_socket(one, server_hostname="x", do_handshake_on_connect=False) as wrapped,
                pytest.raises(TypeError, match="SSLSocket"),
            ):
                await any_loop.sock_sendfile(wrapped, file)

        run(main())

    def test_transports_that_will_not_do(self, any_loop, run, pairs, file, recorder, pipe_ends, write_pipe):
        async def main():
            protocol = recorder()
            transport, _ = await any_loop.create_connection(lambda: protocol, sock=pairs("tcp")[0])
            transport.close()
            with pytest.raises(RuntimeError, match=r"^Transport is closing$"):
                await any_loop.sendfile(transport, file)
            await protocol.until_lost()
            pipe = recorder()
            transport = await write_pipe(pipe_ends[1], pipe)
            with pytest.raises(RuntimeError, match=r"^sendfile is not supported for transport "):
                await any_loop.sendfile(transport, file)
            transport.close()
            await pipe.until_lost()

        run(main())


class TestInTheMiddle:
    @pytest.mark.parametrize("kind", NATIVE)
    def test_cancelled(self, run, connect_way, file, content, stdlib_is_wrong):
        """The position tells how much was sent, and the connection can be used."""
        stdlib_is_wrong((3, 0), "leaves the position where it was")

        async def main():
            way = await connect_way()
            sending = asyncio.ensure_future(way.send(file, 8))
            await asyncio.sleep(0.02)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await asyncio.sleep(0)
            sent = file.tell() - 8
            assert 0 < sent < SIZE - 8
            assert await way.received(sent) == content[8 : 8 + sent]
            way.write(b"after")
            assert await way.received(5) == b"after"
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    def test_cancelled_and_much_written_at_once(self, run, connect_way, file, content, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "leaves the position where it was")

        async def main():
            way = await connect_way()
            for _ in range(3):
                sending = asyncio.ensure_future(way.send(file))
                await asyncio.sleep(0.02)
                sending.cancel()
                await asyncio.wait([sending])
                way.transport.write(content)
                sent = file.tell()
                assert await way.received(sent + SIZE) == content[:sent] + content
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", NATIVE)
    def test_the_peer_goes(self, run, connect_way, file):
        async def main():
            way = await connect_way()
            sending = asyncio.ensure_future(way.send(file))
            await way.received(100_000)
            way.peer.close()
            with pytest.raises(ConnectionError):
                await sending
            if way.transport:
                way.transport.abort()
                await way.protocol.until_lost()
            else:
                way.sock.close()

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    @pytest.mark.parametrize("end", ["abort", "close"])
    def test_the_transport_is_closed(self, run, connect_way, file, end, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "waits for ever")

        async def main():
            for turns in range(8):
                way = await connect_way()
                sending = asyncio.ensure_future(way.send(file))
                await asyncio.sleep(0.01)
                way.peer.recv(1 << 20)
                for _ in range(turns):
                    await asyncio.sleep(0)
                getattr(way.transport, end)()
                with pytest.raises(ConnectionError):
                    await sending
                await way.protocol.until_lost()
                assert way.protocol.lost is None

        run(main())

    @pytest.mark.parametrize("kind", ["sock-tcp", "sock-unix"])
    def test_a_socket_that_was_closed_and_its_number_reused(self, run, connect_way, file, pairs, stdlib_is_wrong):
        """The file must not go to whoever has the number now."""
        stdlib_is_wrong((3, 0), "asks the closed socket for its number and stumbles")

        async def main():
            way = await connect_way()
            sending = asyncio.ensure_future(way.send(file))
            await asyncio.sleep(0.01)
            number = way.sock.fileno()
            way.sock.close()
            others = pairs("unix")
            stranger = next((pair for pair in (others, others[::-1]) if pair[0].fileno() == number), None)
            assert stranger is not None
            stranger[1].setblocking(False)
            await asyncio.sleep(0.02)
            with pytest.raises(BlockingIOError):
                stranger[1].recv(1)
            sending.cancel()
            await asyncio.wait([sending])

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
    def test_order_with_what_is_written_before_and_after(self, run, connect_way, file, content):
        async def main():
            way = await connect_way()
            way.transport.write(b"<" * 1_000_000)
            receiving = asyncio.ensure_future(way.received(2_000_000 + SIZE))
            assert await way.send(file) == SIZE
            way.transport.write(b">" * 1_000_000)
            assert await receiving == b"<" * 1_000_000 + content + b">" * 1_000_000
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    def test_writing_meanwhile_is_refused(self, run, connect_way, file, content):
        async def main():
            way = await connect_way()
            sending = asyncio.ensure_future(way.send(file))
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match=r"^unable to write; sendfile is in progress$"):
                way.transport.write(b"x")
            with pytest.raises(RuntimeError, match=r"^unable to write(lines)?; sendfile is in progress$"):
                way.transport.writelines([b"x"])
            assert await way.received(SIZE) == content
            assert await sending == SIZE
            way.transport.write(b"x")
            assert await way.received(1) == b"x"
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    def test_two_at_once(self, run, connect_way, file, content, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "KeyError from its bookkeeping, and reading stays paused")

        async def main():
            way = await connect_way()
            sending = asyncio.ensure_future(way.send(file))
            await asyncio.sleep(0.01)
            with open(file.name, "rb") as again, pytest.raises(RuntimeError, match=r"^Empty waiter is already set$"):
                await way.send(again)
            assert await way.received(SIZE) == content
            assert await sending == SIZE
            assert way.transport.is_reading()
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
    @pytest.mark.parametrize("paused", [False, True])
    def test_what_arrives_meanwhile_is_read_afterwards(self, run, connect_way, file, content, paused):
        async def main():
            way = await connect_way()
            if paused:
                way.transport.pause_reading()
            sending = asyncio.ensure_future(way.send(file))
            await asyncio.sleep(0.01)
            way.peer.send(b"hello")
            assert await way.received(SIZE) == content
            await sending
            if paused and way.protocol.data == b"":
                assert not way.transport.is_reading()
                way.transport.resume_reading()
            await way.protocol.until(lambda: way.protocol.data == b"hello")
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
    def test_with_a_buffered_protocol(self, run, connect_way, file, content, buffered_recorder):
        async def main():
            way = await connect_way(buffered_recorder())
            receiving = asyncio.ensure_future(way.received(SIZE))
            assert await way.send(file) == SIZE
            assert await receiving == content
            way.peer.send(b"hello")
            await way.protocol.until(lambda: way.protocol.data == b"hello")
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    def test_write_eof_follows(self, run, connect_way, file, content):
        async def main():
            way = await connect_way()
            receiving = asyncio.ensure_future(way.all_received())
            assert await way.send(file) == SIZE
            way.transport.write_eof()
            assert await receiving == content
            await way.close()

        run(main())

    @pytest.mark.parametrize("kind", NATIVE)
    def test_others_get_their_turn(self, run, connect_way, file, content):
        async def main():
            way = await connect_way()
            receiving = asyncio.ensure_future(way.received(SIZE))
            sending = asyncio.ensure_future(way.send(file))
            turns = 0
            while not sending.done():
                turns += 1
                await asyncio.sleep(0)
            assert turns > 3
            assert await receiving == content
            await way.close()

        run(main())
