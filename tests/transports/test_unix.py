"""Unix stream servers and clients: paths, abstract names, socket files and who removes them."""

import asyncio
import os
import pathlib
import socket
import sys

import pytest

CLEANS_UP = sys.version_info >= (3, 13)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def check(path):
    """One round trip over `path`."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"hello")
    assert await reader.read(10) == b"hello"
    writer.close()
    await writer.wait_closed()


async def shut(server):
    server.close()
    await server.wait_closed()


class TestPaths:
    @pytest.mark.parametrize("form", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "Path"])
    def test_a_path_in_every_form(self, run, tmp_path, form):
        async def main():
            path = form(str(tmp_path / "s"))
            server = await asyncio.get_running_loop().create_unix_server(Echo, path)
            await check(path)
            await shut(server)

        run(main())

    @pytest.mark.parametrize("form", [str, str.encode], ids=["str", "bytes"])
    def test_an_abstract_name_leaves_no_file(self, run, form):
        async def main():
            name = form(f"\0aioqemu-test-{os.getpid()}")
            server = await asyncio.get_running_loop().create_unix_server(Echo, name)
            await check(name)
            await shut(server)

        run(main())

    def test_a_socket_that_is_bound_already(self, run, tmp_path):
        async def main():
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(tmp_path / "s"))
            server = await asyncio.get_running_loop().create_unix_server(Echo, sock=sock)
            await check(str(tmp_path / "s"))
            await shut(server)

        run(main())

    def test_a_client_socket_that_is_connected_already(self, run):
        async def main():
            ours, peer = socket.socketpair()
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_unix_connection(Echo, sock=ours)
            peer.send(b"x")
            peer.settimeout(10)
            assert await loop.run_in_executor(None, peer.recv, 10) == b"x"
            transport.close()
            await asyncio.sleep(0)
            peer.close()

        run(main())

    def test_start_serving_false(self, run, tmp_path):
        async def main():
            path = str(tmp_path / "s")
            server = await asyncio.get_running_loop().create_unix_server(Echo, path, start_serving=False)
            assert not server.is_serving()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_unix_connection(path)
            await server.start_serving()
            await check(path)
            await shut(server)

        run(main())


class TestFiles:
    def test_a_stale_socket_file_is_replaced(self, run, tmp_path):
        async def main():
            path = str(tmp_path / "s")
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(path)
            server = await asyncio.get_running_loop().create_unix_server(Echo, path)
            await check(path)
            await shut(server)

        run(main())

    def test_a_detector_of_blocking_calls_does_not_mind(self, loop, tmp_path, monkeypatch):
        def refuse(path):
            raise RuntimeError(f"blocking call: os.stat({path!r})")

        async def main():
            await shut(await loop.create_unix_server(Echo, str(tmp_path / "s")))

        monkeypatch.setattr(os, "stat", refuse)
        loop.run_until_complete(main())

    def test_a_file_that_is_no_socket_is_not_touched(self, run, tmp_path):
        async def main():
            path = tmp_path / "s"
            path.write_text("precious")
            with pytest.raises(OSError, match=r"Address '.*/s' is already in use"):
                await asyncio.get_running_loop().create_unix_server(Echo, str(path))
            assert path.read_text() == "precious"

        run(main())

    def test_whether_close_removes_the_file_is_up_to_the_version(self, run, tmp_path):
        async def main():
            path = tmp_path / "s"
            await shut(await asyncio.get_running_loop().create_unix_server(Echo, str(path)))
            assert path.exists() is not CLEANS_UP

        run(main())

    @pytest.mark.skipif(not CLEANS_UP, reason="cleanup_socket came with 3.13")
    def test_cleanup_socket_false_leaves_the_file(self, run, tmp_path):
        async def main():
            path = tmp_path / "s"
            loop = asyncio.get_running_loop()
            await shut(await loop.create_unix_server(Echo, str(path), cleanup_socket=False))
            assert path.exists()

        run(main())

    @pytest.mark.skipif(not CLEANS_UP, reason="cleanup_socket came with 3.13")
    def test_the_file_of_a_successor_is_not_removed(self, run, tmp_path):
        async def main():
            path = str(tmp_path / "s")
            loop = asyncio.get_running_loop()
            first = await loop.create_unix_server(Echo, path)
            os.rename(path, path + ".old")  # else the successor could get the same inode number
            second = await loop.create_unix_server(Echo, path)
            await shut(first)
            await check(path)
            await shut(second)
            assert not os.path.exists(path)

        run(main())

    def test_a_file_removed_by_somebody_else_is_no_error(self, run, tmp_path):
        async def main():
            path = str(tmp_path / "s")
            server = await asyncio.get_running_loop().create_unix_server(Echo, path)
            os.unlink(path)
            await shut(server)

        run(main())


class TestErrors:
    def test_create_unix_server(self, run, tmp_path):
        async def main():
            create = asyncio.get_running_loop().create_unix_server
            with pytest.raises(ValueError, match=r"^path was not specified, and no sock specified$"):
                await create(Echo)
            with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError, match="path and sock can not"):
                await create(Echo, str(tmp_path / "s"), sock=sock)
            with socket.socket() as tcp, pytest.raises(ValueError, match="A UNIX Domain Stream Socket"):
                await create(Echo, sock=tcp)
            with pytest.raises(TypeError, match=r"^ssl argument must be an SSLContext or None$"):
                await create(Echo, str(tmp_path / "s"), ssl=True)
            with pytest.raises(ValueError, match=r"^ssl_handshake_timeout is only meaningful with ssl$"):
                await create(Echo, str(tmp_path / "s"), ssl_handshake_timeout=1)
            with pytest.raises(FileNotFoundError):
                await create(Echo, str(tmp_path / "no" / "such" / "directory"))
            with pytest.raises(OSError, match="AF_UNIX path too long"):
                await create(Echo, "x" * 200)

        run(main())

    def test_create_unix_connection(self, run, tmp_path):
        async def main():
            create = asyncio.get_running_loop().create_unix_connection
            path = str(tmp_path / "s")
            with pytest.raises(ValueError, match=r"^no path and sock were specified$"):
                await create(Echo)
            with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError, match="path and sock can not"):
                await create(Echo, path, sock=sock)
            with socket.socket() as tcp, pytest.raises(ValueError, match="A UNIX Domain Stream Socket"):
                await create(Echo, sock=tcp)
            with pytest.raises(ValueError, match=r"^you have to pass server_hostname when using ssl$"):
                await create(Echo, path, ssl=True)
            with pytest.raises(ValueError, match=r"^server_hostname is only meaningful with ssl$"):
                await create(Echo, path, server_hostname="x")
            with pytest.raises(FileNotFoundError):
                await create(Echo, path)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(path)
                with pytest.raises(ConnectionRefusedError):
                    await create(Echo, path)

        run(main())


class TestPeers:
    def test_names_of_both_ends(self, run, tmp_path, recorder):
        async def main():
            path = str(tmp_path / "s")
            accepted = recorder()
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(lambda: accepted, path)
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, path)
            await accepted.until_called("connection_made")
            assert transport.get_extra_info("peername") == path
            assert transport.get_extra_info("sockname") == ""
            assert accepted.transport.get_extra_info("sockname") == path
            assert accepted.transport.get_extra_info("peername") == ""
            transport.close()
            await accepted.until_lost()
            await shut(server)

        run(main())

    def test_five_hundred_connections(self, run, tmp_path):
        async def main():
            path = str(tmp_path / "s")
            server = await asyncio.get_running_loop().create_unix_server(Echo, path, backlog=1000)
            for _ in range(5):
                await asyncio.gather(*(check(path) for _ in range(100)))
            await shut(server)

        run(main())
