"""Regular files as pipes, and sendfile."""

from __future__ import annotations

import asyncio
import io
import os
import socket

import pytest

HOST = "127.0.0.1"


class Sink(asyncio.Protocol):
    """Gathers until the end."""

    def __init__(self):
        self.data = bytearray()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.transport.close()  # up to 3.10 a TLS transport that the peer ended warns that it is unclosed
        self.ended.set_result(exc)


@pytest.fixture
def blob(tmp_path):
    """(bytes, path of a file with them)."""
    data = os.urandom(3_000_017)
    path = tmp_path / "blob"
    path.write_bytes(data)
    return data, path


@pytest.fixture
def to_sink(any_loop, shut):
    """await to_sink(use, ssl...): `use(transport)` on a connection; returns what arrived."""

    async def send(use, tls=None):
        sinks = []

        def make():
            sinks.append(Sink())
            return sinks[0]

        options = {"ssl": tls[1], "server_hostname": "localhost"} if tls else {}
        server = await any_loop.create_server(make, HOST, 0, ssl=tls and tls[0])
        transport, _ = await any_loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname(), **options)
        try:
            result = await use(transport)
        finally:
            transport.close()
        await sinks[0].ended
        await shut(server)
        return result, bytes(sinks[0].data)

    return send


class TestRegularFilesAsPipes:
    """uvloop ended the process."""

    @pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
    @pytest.mark.parametrize("kind", ["file", "directory"])
    def test_they_are_refused_and_the_loop_goes_on(self, run, any_loop, tmp_path, method, kind):
        (tmp_path / "file").write_bytes(b"text")

        async def main():
            pipe = FdOnly(os.open(tmp_path if kind == "directory" else tmp_path / "file", os.O_RDONLY))
            with pytest.raises(ValueError, match=r"Pipe transport is (for pipes|only for pipes)"):
                await getattr(any_loop, method)(asyncio.Protocol, pipe)
            pipe.close()
            return await asyncio.sleep(0, "goes on")

        assert run(main()) == "goes on"

    def test_a_reader_of_one_is_refused_as_by_the_stdlib(self, any_loop, tmp_path):
        with (tmp_path / "file").open("wb") as file:
            if getattr(any_loop, "fdmon", "epoll") == "poll":
                any_loop.add_writer(file, int)  # poll(2) knows files: always ready
                any_loop.remove_writer(file)
            else:
                with pytest.raises(PermissionError):
                    any_loop.add_writer(file, int)


class FdOnly:
    """A file object for directories too, which open() refuses."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd

    def close(self):
        os.close(self.fd)


class TestSendfile:
    @pytest.mark.parametrize("part", [(0, None), (1000, None), (1000, 1_500_000), (0, 10**9)])
    def test_of_a_transport(self, run, any_loop, to_sink, blob, part):
        data, path = blob
        offset, count = part
        expected = data[offset:] if count is None else data[offset : offset + count]

        async def use(transport):
            transport.write(b"head")
            with path.open("rb") as file:
                sent = await any_loop.sendfile(transport, file, offset, count, fallback=False)
                assert file.tell() == offset + sent
            transport.write(b"tail")
            return sent

        assert run(to_sink(use)) == (len(expected), b"head" + expected + b"tail")

    def test_over_tls_it_copies(self, run, any_loop, to_sink, blob, tls):
        data, path = blob

        async def use(transport):
            with path.open("rb") as file:
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await any_loop.sendfile(transport, file, fallback=False)
                return await any_loop.sendfile(transport, file)

        assert run(to_sink(use, tls)) == (len(data), data)

    def test_what_is_no_file_is_copied_where_that_is_allowed(self, run, any_loop, to_sink, blob):
        data, _ = blob

        async def use(transport):
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await any_loop.sendfile(transport, io.BytesIO(data), fallback=False)
            return await any_loop.sendfile(transport, io.BytesIO(data))

        assert run(to_sink(use)) == (len(data), data)

    def test_of_a_closing_transport(self, run, any_loop, to_sink, blob):
        async def use(transport):
            transport.close()
            with blob[1].open("rb") as file, pytest.raises(RuntimeError, match="Transport is closing"):
                await any_loop.sendfile(transport, file)

        assert run(to_sink(use)) == (None, b"")

    @pytest.mark.parametrize("fallback", [False, True])
    def test_of_a_socket(self, run, any_loop, blob, fallback):
        data, path = blob

        async def main():
            ours, peer = socket.socketpair()
            with ours, peer, path.open("rb") as file:
                ours.setblocking(False)
                peer.setblocking(False)
                sending = asyncio.ensure_future(any_loop.sock_sendfile(ours, file, 17, fallback=fallback))
                got = b""
                while len(got) < len(data) - 17:
                    got += await any_loop.sock_recv(peer, 1 << 20)
                assert await sending == len(data) - 17
                assert file.tell() == len(data)
                return got == data[17:]

        assert run(main()) is True

    def test_the_peer_goes_away_in_the_middle(self, run, any_loop, blob):
        async def main():
            ours, peer = socket.socketpair()
            with ours, peer, blob[1].open("rb") as file:
                ours.setblocking(False)
                sending = asyncio.ensure_future(any_loop.sock_sendfile(ours, file))
                await asyncio.sleep(0.01)
                peer.close()
                with pytest.raises(ConnectionError):
                    await sending

        run(main())

    def test_text_files_and_wrong_numbers_are_refused(self, run, any_loop, blob):
        async def main():
            ours, peer = socket.socketpair()
            with ours, peer, blob[1].open("rb") as file, blob[1].open() as text:
                ours.setblocking(False)
                with pytest.raises(ValueError, match="binary mode"):
                    await any_loop.sock_sendfile(ours, text)
                with pytest.raises(TypeError, match="count must be a positive integer"):
                    await any_loop.sock_sendfile(ours, file, 0, "many")
                with pytest.raises(ValueError, match="count must be a positive integer"):
                    await any_loop.sock_sendfile(ours, file, 0, -1)
                with pytest.raises(ValueError, match="offset must be a non-negative integer"):
                    await any_loop.sock_sendfile(ours, file, -1)

        run(main())
