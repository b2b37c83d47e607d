"""TCP servers and clients: serving, closing, failing; many connections."""

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
import textwrap

import pytest

HOST = "127.0.0.1"


def address_of(server):
    return server.sockets[0].getsockname()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def settle(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


class TestServing:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.20.255", "127.255.255.254", "127.100.10.9", "127.9.99.200"])
    def test_names_of_both_ends_are_what_the_socket_says(self, run, host):
        async def main():
            loop = asyncio.get_running_loop()
            accepted = loop.create_future()
            server = await asyncio.start_server(lambda reader, writer: accepted.set_result(writer), host, 0)
            with socket.create_connection(address_of(server), source_address=(host, 0)) as client:
                writer = await accepted
                assert writer.get_extra_info("peername") == client.getsockname()
                assert writer.get_extra_info("sockname") == client.getpeername()
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(main())

    def test_names_are_known_when_the_connection_is_gone(self, run):
        """Also where nobody has asked before."""

        async def main():
            loop = asyncio.get_running_loop()
            accepted = loop.create_future()
            server = await asyncio.start_server(lambda reader, writer: accepted.set_result(writer), HOST, 0)
            with socket.create_connection(address_of(server)) as client:
                writer = await accepted
                writer.transport.abort()
                await settle()
                assert writer.get_extra_info("peername") == client.getsockname()
                assert writer.get_extra_info("sockname") == address_of(server)
                assert writer.get_extra_info("nothing", "default") == "default"
            server.close()
            await server.wait_closed()

        run(main())

    def test_programs_keep_things_in_a_transport(self, run):
        class Noting(Echo):
            def connection_made(self, transport):
                assert "note" not in vars(transport)
                with pytest.raises(AttributeError):
                    transport.note  # noqa: B018
                transport.note = transport
                noted.set_result(transport)

        async def main():
            nonlocal noted
            noted = asyncio.get_running_loop().create_future()
            server = await asyncio.get_running_loop().create_server(Noting, HOST, 0)
            _, writer = await asyncio.open_connection(*address_of(server))
            transport = await noted
            assert transport.note is transport and vars(transport)["note"] is transport
            del transport.note
            assert not hasattr(transport, "note")
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        noted = None
        run(main())

    @pytest.mark.parametrize("options", [{}, {"reuse_port": True}, {"backlog": 1}, {"reuse_address": True}])
    def test_it_accepts_and_echoes(self, run, options):
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, HOST, 0, **options)
            assert server.is_serving()
            for i in range(5):
                reader, writer = await asyncio.open_connection(*address_of(server))
                writer.write(b"%d" % i)
                assert await reader.read(10) == b"%d" % i
                writer.close()
                await writer.wait_closed()
            server.close()
            assert not server.is_serving()
            await server.wait_closed()

        run(main())

    def test_several_hosts_have_a_socket_each(self, run):
        async def main():
            server = await asyncio.get_running_loop().create_server(Echo, [HOST, "127.0.0.2"], 0)
            hosts = {sock.getsockname()[0] for sock in server.sockets}
            assert hosts == {HOST, "127.0.0.2"}
            for sock in server.sockets:
                reader, writer = await asyncio.open_connection(*sock.getsockname())
                writer.write(b"x")
                assert await reader.read(1) == b"x"
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(main())

    def test_ipv6_names(self, run):
        async def main():
            try:
                server = await asyncio.get_running_loop().create_server(Echo, "::1", 0)
            except OSError:
                pytest.skip("no IPv6 here")
            reader, writer = await asyncio.open_connection("::1", address_of(server)[1])
            assert len(writer.get_extra_info("peername")) == 4
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(main())

    def test_start_serving_false(self, run):
        async def main():
            server = await asyncio.get_running_loop().create_server(Echo, HOST, 0, start_serving=False)
            assert not server.is_serving()
            await server.start_serving()
            await server.start_serving()
            assert server.is_serving()
            reader, writer = await asyncio.open_connection(*address_of(server))
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            server.close()
            await server.wait_closed()

        run(main())

    def test_serve_forever_ends_by_cancel_and_closes(self, run):
        async def main():
            server = await asyncio.get_running_loop().create_server(Echo, HOST, 0)
            task = asyncio.ensure_future(server.serve_forever())
            await settle()
            with pytest.raises(RuntimeError, match="already being awaited on serve_forever"):
                await server.serve_forever()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.sockets == ()

        run(main())

    def test_close_frees_the_port_in_the_same_turn(self, run):
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, HOST, 0)
            await settle()
            port = address_of(server)[1]
            for _ in range(10):
                server.close()
                with socket.socket() as probe:  # no SO_REUSEADDR: the port must be free, not just shareable
                    probe.bind((HOST, port))
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((HOST, port)).close()
                server = await loop.create_server(Echo, HOST, port)
                await settle()
            server.close()
            await server.wait_closed()

        run(main())

    def test_wait_closed_waits_for_connections_as_this_python_does(self, run):
        async def main():
            server = await asyncio.get_running_loop().create_server(Echo, HOST, 0)
            reader, writer = await asyncio.open_connection(*address_of(server))
            writer.write(b"x")
            await reader.read(1)
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            await settle()
            if sys.version_info >= (3, 12, 1):
                assert not waiting.done()
            writer.close()
            await writer.wait_closed()
            await asyncio.wait_for(waiting, 10)

        run(main())

    @pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")
    @pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
    def test_close_and_abort_clients(self, run, how):
        async def main():
            server = await asyncio.get_running_loop().create_server(Echo, HOST, 0)
            pairs = [await asyncio.open_connection(*address_of(server)) for _ in range(5)]
            for reader, writer in pairs:
                writer.write(b"x")
                await reader.read(1)
            server.close()
            getattr(server, how)()
            for reader, writer in pairs:
                assert await reader.read() == b""
                writer.close()
            await asyncio.wait_for(server.wait_closed(), 10)

        run(main())

    @pytest.mark.parametrize("debug", [False, True])
    def test_a_protocol_factory_that_raises_costs_only_that_connection(self, run, any_loop, errors, debug):
        """And the exception handler is told, not in debug mode only."""
        calls = []

        def factory():
            calls.append(1)
            if len(calls) <= 3:
                raise ZeroDivisionError
            return Echo()

        async def main():
            any_loop.set_debug(debug)
            any_loop.slow_callback_duration = 10
            server = await any_loop.create_server(factory, HOST, 0)
            for _ in range(3):
                reader, writer = await asyncio.open_connection(*address_of(server))
                assert await reader.read() == b""
                writer.close()
            reader, writer = await asyncio.open_connection(*address_of(server))
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            server.close()
            await server.wait_closed()
            assert [str(error["message"]) for error in errors] == [
                "Error on transport creation for incoming connection"
            ] * 3
            errors.clear()

        # The stdlib leaves the refused socket to the garbage collector, which warns.
        if isinstance(any_loop, asyncio.SelectorEventLoop):
            pytest.skip("the stdlib leaks the socket")
        run(main())

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_an_exit_in_the_protocol_factory_leaves_no_fd(self, loop, kind):
        def factory():
            raise kind

        server = loop.run_until_complete(loop.create_server(factory, HOST, 0))
        peer = socket.create_connection(address_of(server))
        with pytest.raises(kind):
            loop.run_forever()
        peer.settimeout(10)
        assert peer.recv(1) == b""
        peer.close()
        server.close()
        loop.run_until_complete(server.wait_closed())

    def test_peers_that_are_gone_before_they_are_accepted(self, run, recorder):
        async def main():
            protocols = []

            def factory():
                protocols.append(recorder())
                return protocols[-1]

            server = await asyncio.get_running_loop().create_server(factory, HOST, 0)
            for how in ("close", "reset", "data and close"):
                sock = socket.create_connection(address_of(server))
                if how == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif how != "close":
                    sock.send(b"data")
                sock.close()
            while len(protocols) < 3:
                await asyncio.sleep(0.001)
            for protocol in protocols:
                await protocol.until_lost()
            assert protocols[2].data == b"data"
            assert [protocol.transport.get_extra_info("peername") is not None for protocol in protocols] == [True] * 3
            server.close()
            await server.wait_closed()

        run(main())

    def test_two_thousand_connections_in_waves(self, run):
        async def main():
            server = await asyncio.get_running_loop().create_server(Echo, HOST, 0, backlog=500)
            address = address_of(server)

            async def client(i):
                reader, writer = await asyncio.open_connection(*address)
                message = b"%d" % i * 10
                writer.write(message)
                assert await reader.readexactly(len(message)) == message
                writer.close()
                await writer.wait_closed()

            for wave in range(10):
                await asyncio.gather(*(client(wave * 200 + i) for i in range(200)))
            server.close()
            await server.wait_closed()
            await settle()

        run(main())

    def test_out_of_fds_the_handler_is_told_and_it_recovers(self, fdmon):
        """In a process of its own, whose limit on fds is lowered."""
        code = f"""
            import asyncio, resource, socket, os, aioqemu_loop

            class Echo(asyncio.Protocol):
                def connection_made(self, transport):
                    self.transport = transport
                def data_received(self, data):
                    self.transport.write(data)

            async def main():
                loop = asyncio.get_running_loop()
                told = []
                loop.set_exception_handler(lambda loop, details: told.append(details))
                server = await loop.create_server(Echo, "{HOST}", 0)
                peers = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
                for peer in peers:
                    peer.setblocking(False)
                top = max(map(int, os.listdir("/proc/self/fd")))
                hogs = []
                resource.setrlimit(resource.RLIMIT_NOFILE, (top + 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                try:
                    while True:
                        hogs.append(os.dup(0))
                except OSError:
                    pass
                await asyncio.sleep(0.2)
                print(len(told), told[0]["message"], told[0]["exception"].errno == {errno.EMFILE})
                print(told[0]["socket"].getsockname() == server.sockets[0].getsockname())
                for hog in hogs:
                    os.close(hog)
                resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
                for peer in peers:
                    peer.send(b"hello")
                await asyncio.sleep(1.5)  # asyncio's pause before it accepts again is 1 s
                print([peer.recv(10) for peer in peers])
                server.close()
            aioqemu_loop.run(main(), fdmon={fdmon!r})
        """
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines() == [
            "1 socket.accept() out of system resource True",
            "True",
            "[b'hello', b'hello', b'hello']",
        ]

    def test_a_loop_closed_with_a_server_open_leaves_nothing(self, any_factory, no_leaks):
        loop = any_factory()
        server = loop.run_until_complete(loop.create_server(Echo, HOST, 0))
        port = address_of(server)[1]
        server.close()
        loop.close()
        with socket.socket() as probe:
            probe.bind((HOST, port))


class TestConnecting:
    def test_refused(self, run):
        async def main():
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                port = probe.getsockname()[1]
            loop = asyncio.get_running_loop()
            with pytest.raises(ConnectionRefusedError) as info:
                await loop.create_connection(asyncio.Protocol, HOST, port)
            assert str(info.value) == f"[Errno 111] Connect call failed ('{HOST}', {port})"

        run(main())

    def test_sock_connect_connects_and_leaves_the_fd_free(self, run):
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, HOST, 0)
            with socket.socket() as sock:
                sock.setblocking(False)
                assert await loop.sock_connect(sock, address_of(server)) is None
                assert loop.remove_writer(sock) is False
            server.close()
            await settle(20)
            await server.wait_closed()

        run(main())

    def test_cancelled_while_connecting_nothing_is_left(self, run):
        async def main():
            loop = asyncio.get_running_loop()
            with socket.socket() as full:  # a listener whose backlog is full never answers
                full.bind((HOST, 0))
                full.listen(0)
                blockers = []
                for _ in range(3):
                    blocker = socket.socket()
                    blocker.setblocking(False)
                    blocker.connect_ex(full.getsockname())
                    blockers.append(blocker)
                tasks = [
                    asyncio.ensure_future(loop.create_connection(asyncio.Protocol, *full.getsockname()))
                    for _ in range(5)
                ]
                await asyncio.sleep(0.05)
                assert not any(task.done() for task in tasks)
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(result, asyncio.CancelledError) for result in results)
                for blocker in blockers:
                    blocker.close()

        run(main())

    def test_happy_eyeballs_and_local_address_pass_through(self, run):
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, HOST, 0)
            port = address_of(server)[1]
            transport, _ = await loop.create_connection(
                asyncio.Protocol,
                "localhost",
                port,
                family=socket.AF_INET,
                happy_eyeballs_delay=0.1,
                interleave=1,
                local_addr=("127.0.0.1", 0),
            )
            assert transport.get_extra_info("peername") == (HOST, port)
            transport.close()
            server.close()
            await settle()
            await server.wait_closed()

        run(main())

    def test_a_socket_that_is_no_stream_is_refused(self, run):
        async def main():
            loop = asyncio.get_running_loop()
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                with pytest.raises(ValueError, match="A Stream Socket was expected"):
                    await loop.create_connection(asyncio.Protocol, sock=sock)
                with pytest.raises(ValueError, match="A Stream Socket was expected"):
                    await loop.create_server(asyncio.Protocol, sock=sock)
            with pytest.raises(ValueError):
                await loop.create_connection(asyncio.Protocol)
            with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
                await loop.create_server(asyncio.Protocol, HOST, 0, ssl=True)

        run(main())

    def test_nagle_is_off_on_both_sides(self, run, recorder):
        async def main():
            accepted = recorder()
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: accepted, HOST, 0)
            transport, _ = await loop.create_connection(asyncio.Protocol, *address_of(server))
            await accepted.until_called("connection_made")
            for each in (transport, accepted.transport):
                sock = each.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.gettimeout() == 0
                assert not os.get_inheritable(sock.fileno())
            transport.close()
            await accepted.until_lost()
            server.close()
            await server.wait_closed()

        run(main())

    def test_the_port_in_use(self, run):
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, HOST, 0)
            with pytest.raises(OSError, match="error while attempting to bind on address") as info:
                await loop.create_server(Echo, *address_of(server))
            assert info.value.errno == errno.EADDRINUSE
            server.close()
            await server.wait_closed()

        run(main())
