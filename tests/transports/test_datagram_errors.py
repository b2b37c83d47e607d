"""Datagram endpoints: bad addresses, exceptions of the protocol, the ends of transports."""

import asyncio
import contextlib
import errno
import logging
import os
import socket

import pytest

KINDS = {"v4": socket.AF_INET, "v6": socket.AF_INET6, "unix": socket.AF_UNIX}


@pytest.fixture
def open_one(datagram_recorder, endpoint):
    """await open_one(family, **hooks) -> (protocol, transport) of an unconnected endpoint."""

    async def make(family="v4", **hooks):
        sock = socket.socket(KINDS[family], socket.SOCK_DGRAM)
        if family != "unix":
            sock.bind(("127.0.0.1" if family == "v4" else "::1", 0))
        protocol = datagram_recorder(**hooks)
        return protocol, await endpoint(protocol, sock=sock)

    return make


@pytest.fixture
def open_pair(datagram_recorder, endpoint, tmp_path):
    """await open_pair(**hooks) -> (protocol, transport, peer) of connected Unix sockets; the peer is a plain socket."""
    with contextlib.ExitStack() as stack:

        async def make(**hooks):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            peer.bind(str(tmp_path / "peer"))
            ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            ours.bind(str(tmp_path / "ours"))
            ours.connect(peer.getsockname())
            peer.connect(ours.getsockname())
            protocol = datagram_recorder(**hooks)
            return protocol, await endpoint(protocol, sock=ours), peer

        yield make


async def end(protocol):
    protocol.transport.close()
    await protocol.until_lost()
    assert protocol.lost is None


class TestAddresses:
    @pytest.mark.parametrize(
        "family, addresses",
        [
            ("v4", [("localhost",), ("",), ("0.0.0.0",), ("127.1",)]),
            ("v6", [("::1",), ("",), ("::1", 0), ("::1", 0, 0), ("0:0:0:0:0:0:0:1",), ("::1", 1048575)]),
        ],
    )
    def test_every_way_to_say_this_machine(self, run, family, addresses, open_one):
        async def main():
            protocol, transport = await open_one(family)
            port = transport.get_extra_info("sockname")[1]
            for i, (host, *rest) in enumerate(addresses):
                transport.sendto(b"%d" % i, (host, port, *rest))
            assert protocol.problems == []
            await protocol.until_count(len(addresses))
            assert protocol.contents == [b"%d" % i for i in range(len(addresses))]
            await end(protocol)

        run(main())

    @pytest.mark.parametrize(
        "family, address, kind",
        [
            ("v6", ("127.0.0.1", 9), socket.gaierror),
            ("v4", ("::1", 9), socket.gaierror),
            ("v4", ("127.0.0.1", 0), OSError),
            ("unix", "/nonexistent/path", FileNotFoundError),
            ("unix", "\0nobody", ConnectionRefusedError),
            ("unix", "/" + "x" * 200, OSError),
        ],
    )
    def test_errors_of_the_system_go_to_error_received(self, run, family, address, kind, open_one):
        async def main():
            protocol, transport = await open_one(family)
            transport.sendto(b"x", address)
            assert [type(exc) for exc in protocol.problems] == [kind]
            assert not transport.is_closing()
            await end(protocol)

        run(main())

    @pytest.mark.parametrize(
        "family, address, kind",
        [
            ("v4", ("127.0.0.1", 70000), OverflowError),
            ("v4", ("127.0.0.1", -1), OverflowError),
            ("v4", ("127.0.0.1", "http"), TypeError),
            ("v4", ("127.0.0.1", 1, 2), TypeError),
            ("v4", ("127.0.0.1\0.example", 9), TypeError),
            ("v4", (2130706433, 9), TypeError),
            ("v4", "127.0.0.1", TypeError),
            ("v4", ["127.0.0.1", 9], TypeError),
            ("v4", None, TypeError),
            ("v4", ("\u00e9" * 70, 9), TypeError),
            ("v6", ("::1", 9, 1048576), OverflowError),
            ("v6", ("::1", 9, -1), OverflowError),
            ("v6", ("::1", 9, 0, 0, 0), TypeError),
            ("v6", ("::1\0", 9), TypeError),
            ("unix", 7, TypeError),
        ],
    )
    def test_mistakes_are_for_the_exception_handler(self, run, errors, family, address, kind, open_one):
        async def main():
            protocol, transport = await open_one(family)
            transport.sendto(b"x", address)
            assert protocol.problems == []
            (details,) = errors
            assert isinstance(details["exception"], kind)
            assert details["message"] == "Fatal write error on datagram transport"
            assert details["transport"] is transport and details["protocol"] is protocol
            errors.clear()
            await protocol.until_lost()
            assert isinstance(protocol.lost, kind)

        run(main())

    @pytest.mark.parametrize("family", ["v4", "v6"])
    def test_a_datagram_that_is_too_long(self, run, family, open_one):
        async def main():
            protocol, transport = await open_one(family)
            address = transport.get_extra_info("sockname")
            transport.sendto(bytes(70_000), address)
            assert [exc.errno for exc in protocol.problems] == [errno.EMSGSIZE]
            transport.sendto(b"short", address)
            await protocol.until_count(1)
            assert protocol.contents == [b"short"]
            await end(protocol)

        run(main())

    def test_a_view_that_cannot_be_sent(self, run, errors, open_one):
        async def main():
            protocol, transport = await open_one()
            transport.sendto(memoryview(b"abcd")[::2], transport.get_extra_info("sockname"))
            await protocol.until_lost()
            assert isinstance(protocol.lost, BufferError)
            errors.clear()

        run(main())


class TestExceptionsOfTheProtocol:
    @pytest.mark.parametrize("connected", [True, False])
    def test_datagram_received_raises_and_nothing_is_lost(self, run, errors, connected, open_pair, open_one):
        async def main():
            def fail(self, data):
                if int(data) % 3 == 0:
                    raise ZeroDivisionError(data)

            if connected:
                protocol, transport, peer = await open_pair(datagram_received=fail)
                for i in range(9):
                    peer.send(b"%d" % i)
            else:
                protocol, transport = await open_one(datagram_received=fail)
                for i in range(9):
                    transport.sendto(b"%d" % i, transport.get_extra_info("sockname"))
            await protocol.until_count(9)
            await asyncio.sleep(0)
            assert protocol.contents == [b"%d" % i for i in range(9)]
            assert [str(details["exception"]) for details in errors] == ["b'0'", "b'3'", "b'6'"]
            errors.clear()
            await end(protocol)

        run(main())

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_an_exit_leaves_the_loop_and_nothing_is_lost(self, any_loop, run, kind, open_pair, reading_can_be_paused):
        def fail(self, data):
            if data == b"2":
                raise kind("from the protocol")

        async def start():
            protocol, transport, peer = await open_pair(datagram_received=fail)
            transport.pause_reading()
            for i in range(5):
                peer.send(b"%d" % i)
            return protocol

        protocol = run(start())
        protocol.transport.resume_reading()
        with pytest.raises(kind, match="from the protocol"):
            any_loop.run_forever()
        assert protocol.contents == [b"0", b"1", b"2"]
        run(protocol.until_count(5))
        assert protocol.contents == [b"%d" % i for i in range(5)]
        run(end(protocol))

    def test_error_received_raises_inside_sendto(self, run, open_one):
        def fail(self, exc):
            raise ZeroDivisionError

        async def main():
            protocol, transport = await open_one("unix", error_received=fail)
            with pytest.raises(ZeroDivisionError):
                transport.sendto(b"x", "/nonexistent")
            assert not transport.is_closing()
            await end(protocol)

        run(main())

    def test_error_received_raises_while_reading(self, run, errors, endpoint, datagram_recorder):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            address = sock.getsockname()

        def fail(self, exc):
            raise ZeroDivisionError

        async def main():
            protocol = datagram_recorder(error_received=fail)
            transport = await endpoint(protocol, remote_addr=address)
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                transport.sendto(b"refused")
                await protocol.until_called("error_received")
                await asyncio.sleep(0)
                peer.bind(address)
                peer.sendto(b"here now", transport.get_extra_info("sockname"))
                await protocol.until_count(1)
            assert [type(details["exception"]) for details in errors] == [ZeroDivisionError]
            errors.clear()
            await end(protocol)

        run(main())

    def test_connection_made_raises(self, run, errors, datagram_recorder, endpoint):
        def fail(self):
            raise ZeroDivisionError

        async def main():
            protocol = datagram_recorder(connection_made=fail)
            transport = await endpoint(protocol, local_addr=("127.0.0.1", 0))
            assert [type(details["exception"]) for details in errors] == [ZeroDivisionError]
            errors.clear()
            transport.sendto(b"x", transport.get_extra_info("sockname"))
            await protocol.until_count(1)
            await end(protocol)

        run(main())

    def test_connection_lost_raises(self, run, errors, open_one):
        def fail(self, exc):
            raise ZeroDivisionError

        async def main():
            protocol, transport = await open_one(connection_lost=fail)
            sock = transport.get_extra_info("socket")
            transport.close()
            await protocol.until_lost()
            assert sock.fileno() == -1
            assert [type(details["exception"]) for details in errors] == [ZeroDivisionError]
            errors.clear()

        run(main())


class TestTheEnd:
    def test_close_stops_reading_at_once(self, run, open_pair):
        async def main():
            protocol, _, peer = await open_pair(datagram_received=lambda self, data: self.transport.close())
            for i in range(5):
                peer.send(b"%d" % i)
            await protocol.until_lost()
            assert protocol.contents == [b"0"]
            assert protocol.lost is None

        run(main())

    def test_abort(self, run, open_pair):
        async def main():
            protocol, transport, peer = await open_pair()
            peer.send(b"x")
            transport.abort()
            transport.abort()
            transport.close()
            assert transport.is_closing()
            assert "connection_lost" not in protocol.names
            await protocol.until_lost()
            assert protocol.lost is None
            assert protocol.contents == []

        run(main())

    @pytest.mark.parametrize("remote", [True, False])
    def test_sendto_after_the_end_does_not_raise(self, run, remote, endpoint, datagram_recorder, stdlib_is_wrong):
        if not remote:
            stdlib_is_wrong((3, 0), "raises AttributeError: it has let go of its loop")

        async def main():
            protocol = datagram_recorder()
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.bind(("127.0.0.1", 0))
                address = peer.getsockname()
                place = {"remote_addr": address} if remote else {"local_addr": ("127.0.0.1", 0)}
                transport = await endpoint(protocol, **place)
                transport.close()
                transport.sendto(b"x", address)
                await protocol.until_lost()
                for _ in range(3):
                    transport.sendto(b"x", address)
                with pytest.raises(TypeError):
                    transport.sendto("text")
            assert protocol.problems == []

        run(main())

    def test_the_fifth_sendto_after_the_end_warns(self, run, caplog, endpoint, datagram_recorder):
        async def main():
            protocol = datagram_recorder()
            transport = await endpoint(protocol, remote_addr=("127.0.0.1", 9))
            transport.close()
            await protocol.until_lost()
            with caplog.at_level(logging.WARNING, "asyncio"):
                for i in range(1, 8):
                    transport.sendto(b"x")
                    assert len(caplog.records) == max(0, i - 4)
            assert {record.message for record in caplog.records} == {"socket.send() raised exception."}

        run(main())

    def test_pause_and_resume_reading(self, run, open_pair, reading_can_be_paused):
        def pause(self, data):
            if data == b"1":
                self.transport.pause_reading()

        async def main():
            protocol, transport, peer = await open_pair(datagram_received=pause)
            for i in range(5):
                peer.send(b"%d" % i)
            await protocol.until_count(2)
            assert not transport.is_reading()
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.contents == [b"0", b"1"]
            transport.pause_reading()
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            await protocol.until_count(5)
            assert protocol.contents == [b"%d" % i for i in range(5)]
            transport.pause_reading()
            peer.send(b"x")
            await end(protocol)
            assert len(protocol.contents) == 5
            transport.resume_reading()
            transport.pause_reading()

        run(main())

    def test_paused_in_connection_made(self, run, open_pair, reading_can_be_paused):
        async def main():
            protocol, transport, peer = await open_pair(connection_made=lambda self: self.transport.pause_reading())
            peer.send(b"x")
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.contents == []
            transport.resume_reading()
            await protocol.until_count(1)
            await end(protocol)

        run(main())

    def test_an_fd_closed_by_somebody_else_does_not_spin(self, run, errors, open_one, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "never lets go of its socket when closing fails")

        async def main():
            protocol, transport = await open_one()
            sock = transport.get_extra_info("socket")
            os.close(sock.fileno())
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert len(protocol.problems) <= 1
            transport.abort()
            await protocol.until_lost()
            for _ in range(3):
                await asyncio.sleep(0)
            errors.clear()  # closing it once more may be told

        run(main())

    def test_an_fd_that_became_another_file_is_not_touched(self, loop, datagram_recorder):
        """The transport is told when the number is registered anew."""

        async def main():
            protocol = datagram_recorder()
            transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
            fd = transport.get_extra_info("socket").fileno()
            ours, peer = socket.socketpair()
            os.dup2(ours.fileno(), fd)
            again = datagram_recorder()
            with socket.socket(fileno=os.dup(fd)) as other:
                await loop.connect_read_pipe(lambda: again, open(fd, "rb", 0))  # noqa: SIM115
                await protocol.until_lost()
                assert protocol.lost.errno == errno.EBADF
                peer.send(b"for the new owner")
                await again.until(lambda: again.data == b"for the new owner")
                assert other.fileno() >= 0
            again.transport.close()
            await again.until_lost()
            ours.close()
            peer.close()

        loop.run_until_complete(asyncio.wait_for(main(), 20))
