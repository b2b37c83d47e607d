"""Addresses: scope ids, happy eyeballs, keep-alive."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from pathlib import Path

import pytest

HOST = "127.0.0.1"


def link_local_address():
    """(address, interface) of this machine, or a skip."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, scope, flags, name = line.split()
        if scope == "20" and not int(flags, 16) & 0x48:  # link-local; neither tentative nor a failed duplicate
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)), name
    pytest.skip("no interface here has a link-local address")


@contextlib.contextmanager
def backlog_is_full():
    """The address of a listener that answers nobody any more."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()


def free_port():
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def resolve_to(any_loop, monkeypatch):
    """resolve_to(address, ...): what every name is resolved to."""

    def patch(*addresses):
        async def getaddrinfo(*args, **kwargs):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

        monkeypatch.setattr(any_loop, "getaddrinfo", getaddrinfo)

    return patch


class TestScopeIds:
    def test_getaddrinfo_keeps_them(self, run, any_loop):
        number = socket.if_nametoindex("lo")

        async def main():
            for host in ("fe80::1%lo", f"fe80::1%{number}"):
                found = await any_loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
                assert [address for *_, address in found] == [("fe80::1", 80, 0, number)]

        run(main())

    def test_getnameinfo_keeps_them(self, run, any_loop):
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV

        async def main():
            return await any_loop.getnameinfo(("fe80::1", 80, 0, socket.if_nametoindex("lo")), numeric)

        assert run(main()) == ("fe80::1%lo", "80")

    @pytest.mark.parametrize("form", ["name", "number"])
    def test_servers_and_connections_keep_them(self, run, any_loop, echo, shut, form):
        address, interface = link_local_address()
        index = socket.if_nametoindex(interface)
        host = f"{address}%{interface if form == 'name' else index}"

        async def main():
            server = await any_loop.create_server(echo, host, 0)
            name = server.sockets[0].getsockname()
            assert (name[0].partition("%")[0], name[3]) == (address, index)
            reader, writer = await asyncio.open_connection(host, name[1])
            assert writer.get_extra_info("peername")[3] == index
            assert writer.get_extra_info("sockname")[3] == index
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            await shut(server, writer)

        run(main())

    def test_sock_connect_keeps_them(self, run, any_loop):
        address, interface = link_local_address()
        index = socket.if_nametoindex(interface)

        async def main():
            with socket.socket(socket.AF_INET6) as listener, socket.socket(socket.AF_INET6) as sock:
                listener.bind((address, 0, 0, index))
                listener.listen()
                sock.setblocking(False)
                await any_loop.sock_connect(sock, listener.getsockname())
                assert sock.getpeername()[3] == index

        run(main())


class TestHappyEyeballs:
    def test_the_second_address_is_tried_while_the_first_does_not_answer(self, run, any_loop, echo, shut, resolve_to):
        async def main():
            server = await any_loop.create_server(echo, HOST, 0)
            name = server.sockets[0].getsockname()
            resolve_to(silent, name)
            reader, writer = await asyncio.open_connection("name", name[1], happy_eyeballs_delay=0.02)
            assert writer.get_extra_info("peername") == name
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            await shut(server, writer)

        with backlog_is_full() as silent:
            run(main())

    def test_the_next_one_follows_at_once_where_one_is_refused(self, run, any_loop, echo, shut, resolve_to):
        async def main():
            server = await any_loop.create_server(echo, HOST, 0)
            name = server.sockets[0].getsockname()
            resolve_to((HOST, free_port()), name)
            _, writer = await asyncio.open_connection("name", name[1], happy_eyeballs_delay=3600)
            assert writer.get_extra_info("peername") == name
            await shut(server, writer)

        run(main())

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors came with 3.12")
    @pytest.mark.parametrize("delay", [None, 0.02])
    def test_all_errors_tells_each(self, run, any_loop, resolve_to, delay):
        ports = [free_port(), free_port()]
        resolve_to(*((HOST, port) for port in ports))

        async def main():
            with pytest.raises(ExceptionGroup, match="create_connection failed") as info:  # noqa: F821 - 3.11
                await any_loop.create_connection(
                    asyncio.Protocol, "name", 80, happy_eyeballs_delay=delay, all_errors=True
                )
            assert [type(exc) for exc in info.value.exceptions] == [ConnectionRefusedError] * 2
            assert [str(port) in str(exc) for port, exc in zip(ports, info.value.exceptions, strict=True)] == [True] * 2

        run(main())

    def test_without_all_errors_they_are_one(self, run, any_loop, resolve_to):
        resolve_to((HOST, free_port()), (HOST, free_port()))

        async def main():
            with pytest.raises(OSError, match="Multiple exceptions: ") as info:
                await any_loop.create_connection(asyncio.Protocol, "name", 80)
            assert str(info.value).count(f"[Errno {errno.ECONNREFUSED}]") == 2

        run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="keep_alive came with 3.13")
@pytest.mark.parametrize("keep_alive", [True, False])
def test_keep_alive_of_a_server_is_that_of_its_connections(run, any_loop, echo, shut, keep_alive):
    async def main():
        accepted = any_loop.create_future()

        class Protocol(echo):
            def connection_made(self, transport):
                super().connection_made(transport)
                accepted.set_result(transport)

        server = await any_loop.create_server(Protocol, HOST, 0, keep_alive=keep_alive)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        sock = (await accepted).get_extra_info("socket")
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is keep_alive
        await shut(server, writer)

    run(main())


class TestNumericAddresses:
    """They are answered without a thread, and as socket.getaddrinfo() answers."""

    HOSTS = (
        "127.0.0.1",
        "255.255.255.255",
        "::1",
        "fe80::0001",
        "::ffff:1.2.3.4",
        "2001:DB8::A",
        "1.2",
        "01.2.3.4",
        None,
    )

    @pytest.mark.parametrize("host", HOSTS)
    def test_every_combination_is_answered_as_by_the_c_library(self, run, any_loop, host):
        def outcome(call):
            try:
                return [tuple((type(part), part) for part in entry) for entry in call()]
            except OSError as exc:
                return repr(exc)

        async def main():
            for port in (None, 0, 80, 65535, "80", 65536):
                for family in (0, socket.AF_INET, socket.AF_INET6):
                    for kind in (0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                        for proto in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                            for flags in (0, socket.AI_PASSIVE, socket.AI_NUMERICHOST, socket.AI_CANONNAME):
                                if host is None and flags != socket.AI_PASSIVE:
                                    continue
                                numbers = {"family": family, "type": kind, "proto": proto, "flags": flags}
                                try:
                                    found = await any_loop.getaddrinfo(host, port, **numbers)
                                except OSError as exc:
                                    found = exc

                                def ours(found=found):
                                    if isinstance(found, OSError):
                                        raise found
                                    return found

                                def reference(port=port, numbers=numbers):
                                    return socket.getaddrinfo(host, port, **numbers)

                                assert outcome(ours) == outcome(reference), (port, numbers)

        run(main())

    def test_no_thread_is_asked(self, loop, monkeypatch):
        monkeypatch.setattr(loop, "run_in_executor", None)
        found = loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
        assert found == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]

    def test_a_replaced_getaddrinfo_is_called(self, run, any_loop, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args: ["replaced"])
        assert run(any_loop.getaddrinfo("127.0.0.1", 80)) == ["replaced"]
