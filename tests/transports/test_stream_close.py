"""How a connection ends: close, abort, half-close, errors, and protocols that raise."""

import asyncio
import contextlib
import gc
import os
import socket
import threading
import warnings

import pytest

from .helpers import in_executor, read_to_end, reset


class TestClose:
    def test_write_then_close_delivers_everything(self, run, pair, connect, recorder):
        ours, peer = pair
        blob = os.urandom(5_000_000)

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.write(blob)
            transport.close()
            assert transport.is_closing()
            assert await in_executor(read_to_end, peer) == blob
            await protocol.until_lost()
            assert protocol.lost is None
            assert "eof_received" not in protocol.names

        run(main())

    def test_write_then_abort_drops_what_the_socket_did_not_take(self, run, pair, connect, recorder):
        ours, peer = pair
        blob = os.urandom(20_000_000)

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.write(blob)
            transport.abort()
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            await protocol.until_lost()
            assert protocol.lost is None
            try:
                got = await in_executor(read_to_end, peer)
            except ConnectionResetError:
                got = b""
            assert len(got) < len(blob) and blob.startswith(got)

        run(main())

    def test_close_twice_and_abort_after_close(self, run, pair, connect, recorder):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.write(bytes(20_000_000))
            transport.close()
            transport.close()
            await asyncio.sleep(0)
            assert "connection_lost" not in protocol.names
            transport.abort()
            transport.close()
            await protocol.until_lost()
            assert protocol.lost is None
            transport.close()
            transport.abort()

        run(main())

    def test_no_data_is_delivered_after_close(self, run, pair, connect, recorder):
        ours, peer = pair

        async def main():
            protocol = recorder(data_received=lambda self, data: self.transport.close())
            await connect(ours, protocol)
            peer.sendall(bytes(2_000_000)) if ours.family == socket.AF_INET6 else peer.send(bytes(300_000))
            await protocol.until_lost()
            assert [call[0] for call in protocol.calls].count("data_received") == 1

        run(main())

    @pytest.mark.parametrize("how", ["close", "abort"])
    @pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received"])
    def test_ending_inside_a_callback(self, run, pair, connect, recorder, how, where):
        ours, peer = pair

        async def main():
            protocol = recorder(**{where: lambda self, *args: getattr(self.transport, how)()})
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
            await connect(ours, protocol)
            await protocol.until_lost()
            assert protocol.lost is None
            expected = ["connection_made"] + ["eof_received"] * (where == "eof_received") + ["connection_lost"]
            assert protocol.names == expected
            with contextlib.suppress(ConnectionResetError):  # closed with data unread
                assert peer.recv(10) == b""

        run(main())

    def test_using_a_closed_transport_never_raises(self, run, pair, connect, recorder, stdlib_is_wrong):
        stdlib_is_wrong((3, 12), "writelines() fails")
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.close()
            await protocol.until_lost()
            transport.pause_reading()
            transport.resume_reading()
            transport.write(b"x")
            transport.writelines([b"x"])
            transport.write_eof()
            transport.set_write_buffer_limits(10)
            assert transport.get_write_buffer_size() == 0
            assert transport.get_write_buffer_limits() == (2, 10)
            assert len(repr(transport)) > 5

        run(main())

    def test_write_after_close_warns_from_the_fifth_time(self, run, pair, connect, recorder, caplog):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.close()
            counts = []
            for _ in range(8):
                transport.write(b"x")
                counts.append(len(caplog.records))
            await protocol.until_lost()
            assert counts == [0, 0, 0, 0, 1, 2, 3, 4]
            assert caplog.records[0].getMessage() == "socket.send() raised exception."

        run(main())

    def test_unclosed_transports_warn_and_their_fds_are_closed(self, any_factory, pair, connect, recorder, no_leaks):
        ours, peer = pair
        loop = any_factory()
        copy = ours.dup()
        copy.setblocking(False)
        ours.close()
        transport = loop.run_until_complete(connect(copy, recorder()))
        del copy
        loop.close()
        with warnings.catch_warnings(record=True) as caught:  # the socket object may warn, too
            warnings.simplefilter("always")
            del transport, loop
            gc.collect()
        assert any("unclosed transport" in str(warning.message) for warning in caught)
        assert peer.recv(10) == b""

    def test_reading_cannot_go_on_once_the_loop_is_closed(self, any_factory, pair, connect, recorder):
        ours, _ = pair
        loop = any_factory()
        copy = ours.dup()
        copy.setblocking(False)
        transport = loop.run_until_complete(connect(copy, recorder()))
        transport.pause_reading()
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.resume_reading()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del transport, loop
            gc.collect()


class TestHalfClose:
    def test_write_eof_sends_the_end_behind_the_data_and_reading_goes_on(self, run, pair, connect, recorder):
        ours, peer = pair
        blob = os.urandom(3_000_000)

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.write(blob)
            transport.write_eof()
            transport.write_eof()
            assert await in_executor(read_to_end, peer) == blob
            peer.sendall(b"answer")
            peer.close()
            await protocol.until_lost()
            assert protocol.data == b"answer"

        run(main())

    def test_write_after_write_eof_is_an_error(self, run, pair, connect, recorder):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.write_eof()
            with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
                transport.write(b"x")
            with pytest.raises(RuntimeError, match=r"^Cannot call write(lines)?\(\) after write_eof\(\)$"):
                transport.writelines([b"x"])
            transport.close()
            await protocol.until_lost()

        run(main())

    @pytest.mark.parametrize("answer", [True, 1, False, None])
    def test_eof_received_decides_whether_writing_goes_on(self, run, pair, connect, recorder, answer):
        ours, peer = pair

        async def main():
            protocol = recorder(eof_received=lambda self: answer)
            transport = await connect(ours, protocol)
            peer.sendall(b"question")
            peer.shutdown(socket.SHUT_WR)
            await protocol.until_called("eof_received")
            for _ in range(5):
                await asyncio.sleep(0)
            if answer:
                assert protocol.names == ["connection_made", "eof_received"]
                transport.write(b"late answer")
                transport.close()
                assert await in_executor(read_to_end, peer) == b"late answer"
            await protocol.until_lost()
            assert protocol.names == ["connection_made", "eof_received", "connection_lost"]

        run(main())

    def test_an_idle_half_closed_connection_does_not_spin(self, loop, pair, connect, recorder):
        """The end stays readable for ever: on a level-triggered monitor somebody has to stop looking."""
        ours, peer = pair

        async def main():
            protocol = recorder(eof_received=lambda self: True)
            transport = await connect(ours, protocol)
            peer.shutdown(socket.SHUT_WR)
            await protocol.until_called("eof_received")
            before = os.times().user + os.times().system
            await asyncio.sleep(0.3)
            assert os.times().user + os.times().system - before < 0.15
            transport.close()
            await protocol.until_lost()

        loop.run_until_complete(main())

    @pytest.mark.parametrize("kind", ["plain", "buffered", "blocked"])
    @pytest.mark.parametrize("together", [True, False], ids=["at once", "turns between"])
    def test_a_pause_after_the_end_has_it_told_once_more(
        self, run, pair, connect, recorder, buffered_recorder, turns, kind, together
    ):
        """resume_reading() looks at the socket anew, and the end is still there. Once for each pause, as in asyncio."""
        ours, peer = pair

        async def main():
            protocol = (buffered_recorder if kind == "buffered" else recorder)(eof_received=lambda self: True)
            transport = await connect(ours, protocol)
            if kind == "blocked":
                transport.write(bytes(20_000_000))
            peer.sendall(b"question")
            peer.shutdown(socket.SHUT_WR)
            for times in range(1, 4):
                await protocol.until(lambda times=times: protocol.names.count("eof_received") == times)
                transport.resume_reading()  # nothing is paused
                await turns(20)
                assert protocol.names.count("eof_received") == times
                transport.pause_reading()
                if not together:
                    await turns(20)
                assert protocol.names.count("eof_received") == times
                transport.resume_reading()
            transport.abort()
            await protocol.until_lost()
            assert protocol.data == b"question"

        run(main())

    def test_a_pause_in_eof_received_does_not(self, run, pair, connect, recorder, turns):
        ours, peer = pair

        def pause_once(protocol):
            if protocol.names.count("eof_received") == 1:
                protocol.transport.pause_reading()
                protocol.transport.resume_reading()
            return True

        async def main():
            protocol = recorder(eof_received=pause_once)
            transport = await connect(ours, protocol)
            peer.shutdown(socket.SHUT_WR)
            await protocol.until_called("eof_received")
            await turns(20)
            assert protocol.names.count("eof_received") == 1  # it returned True: that ends reading
            transport.close()
            await protocol.until_lost()

        run(main())


class TestErrors:
    @pytest.mark.parametrize("busy", [False, True], ids=["idle", "writing"])
    def test_a_reset_by_the_peer(self, run, tcp, connect, recorder, busy):
        ours, peer = tcp

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            if busy:
                transport.write(bytes(20_000_000))
                await asyncio.sleep(0)
            reset(peer)
            await protocol.until_lost()
            assert isinstance(protocol.lost, ConnectionResetError)
            assert str(protocol.lost) == "[Errno 104] Connection reset by peer"

        run(main())

    def test_the_peer_is_gone_and_somebody_writes(self, run, pair, connect, recorder):
        ours, peer = pair

        async def main():
            protocol = recorder(eof_received=lambda self: True)
            transport = await connect(ours, protocol)
            peer.close()
            await protocol.until_called("eof_received")
            loop = asyncio.get_running_loop()
            while "connection_lost" not in protocol.names:
                transport.write(b"x")
                await asyncio.sleep(0.001)
            assert isinstance(protocol.lost, (BrokenPipeError, ConnectionResetError))
            assert loop.is_running()

        run(main())

    @pytest.mark.parametrize(
        "where, message",
        [
            ("connection_made", "Exception in callback"),
            ("data_received", "Fatal error: protocol.data_received() call failed."),
            ("eof_received", "Fatal error: protocol.eof_received() call failed."),
            ("connection_lost", "Exception in callback"),
        ],
    )
    def test_a_protocol_that_raises(self, run, pair, connect, recorder, errors, where, message):
        ours, peer = pair

        def fail(*args):
            raise ZeroDivisionError

        async def main():
            protocol = recorder(**{where: fail})
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
            transport = await connect(ours, protocol)
            await protocol.until_lost()
            if where in ("data_received", "eof_received"):
                assert isinstance(protocol.lost, ZeroDivisionError)
                assert errors[0]["transport"] is transport
                assert errors[0]["protocol"] is protocol
            assert len(errors) == 1
            assert errors[0]["message"].startswith(message)
            assert isinstance(errors[0]["exception"], ZeroDivisionError)
            assert peer.recv(10) == b""
            errors.clear()

        run(main())

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    @pytest.mark.parametrize("size", [10, 2_000_000])
    def test_an_exit_in_data_received_loses_no_byte(self, any_loop, pair, connect, recorder, kind, size):
        """The loop can be run again, and goes on with what was still in the socket: data and the end."""
        ours, peer = pair
        blob = os.urandom(size)
        raised = []

        def leave(self, data):
            if not raised:
                raised.append(True)
                raise kind

        def send():
            peer.sendall(blob)
            peer.close()

        protocol = recorder(data_received=leave)
        any_loop.run_until_complete(connect(ours, protocol))
        thread = threading.Thread(target=send)
        thread.start()
        with pytest.raises(kind):
            any_loop.run_forever()
        any_loop.run_until_complete(protocol.until_lost())
        thread.join()
        assert protocol.data == blob
        assert protocol.names == ["connection_made", "eof_received", "connection_lost"]

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_an_exit_in_eof_received_does_not_lose_the_end(self, any_loop, pair, connect, recorder, kind):
        """It is told once more when the loop runs again, and then the connection ends."""
        ours, peer = pair
        raised = []

        def leave(self):
            if not raised:
                raised.append(True)
                raise kind

        protocol = recorder(eof_received=leave)
        any_loop.run_until_complete(connect(ours, protocol))
        peer.close()
        with pytest.raises(kind):
            any_loop.run_forever()
        any_loop.run_until_complete(protocol.until_lost())
        assert protocol.names[-1] == "connection_lost" and protocol.lost is None

    def test_the_fd_is_closed_and_its_number_belongs_to_another_connection(self, loop, recorder):
        """Bytes never go to the wrong connection; the old protocol hears that its connection is lost."""

        async def main():
            protocols = []

            def factory():
                protocols.append(recorder())
                return protocols[-1]

            server = await loop.create_server(factory, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            first_peer = socket.create_connection(address)
            while not (protocols and protocols[0].transport):
                await asyncio.sleep(0)
            old = protocols[0]
            second_peer = socket.create_connection(address)  # waits in the backlog: the loop is not running
            os.close(old.transport.get_extra_info("socket").fileno())  # what accept() gets next
            await old.until_called("connection_lost")
            assert isinstance(old.lost, OSError)
            old.transport.write(b"for the first peer")
            await asyncio.sleep(0)
            new = protocols[-1]
            await new.until_called("connection_made")
            new.transport.write(b"for the second")
            second_peer.settimeout(10)
            assert await in_executor(second_peer.recv, 100) == b"for the second"
            first_peer.close()
            for protocol in protocols[1:]:
                protocol.transport.close()
                await protocol.until_lost()
            second_peer.close()
            server.close()
            await server.wait_closed()

        loop.run_until_complete(main())
