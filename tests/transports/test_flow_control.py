"""Pausing: the protocol by the transport (full buffers), and the transport by the protocol (reading)."""

import asyncio
import contextvars
import os
import socket
import sys

import pytest

VAR = contextvars.ContextVar("VAR", default="default")


@pytest.fixture
def tight():
    """Two ends of a Unix stream, the first with the smallest send buffer, already full."""
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    ours.setblocking(False)
    peer.setblocking(False)
    with ours, peer:
        try:
            while True:
                ours.send(b"f" * 1000)
        except BlockingIOError:
            pass
        try:
            while True:
                ours.send(b"f")
        except BlockingIOError:
            pass
        yield ours, peer


def drain(peer):
    """Read what is there; returns it."""
    data = bytearray()
    try:
        while chunk := peer.recv(1 << 20):
            data += chunk
    except BlockingIOError:
        pass
    return bytes(data)


class TestLimits:
    @pytest.mark.parametrize("high", [2**70, float("inf")])
    def test_none_at_all(self, run, pair, connect, recorder, high):
        ours, _ = pair

        async def main():
            transport = await connect(ours, recorder())
            transport.set_write_buffer_limits(high, 0)
            transport.write(bytes(30_000_000))
            assert transport.get_write_buffer_size() > 0
            assert "pause_writing" not in transport.get_protocol().names
            transport.abort()

        run(main())

    @pytest.mark.parametrize(
        "arguments, limits",
        [
            ({}, (16384, 65536)),
            ({"high": 1000}, (250, 1000)),
            ({"low": 1000}, (1000, 4000)),
            ({"high": 1000, "low": 1000}, (1000, 1000)),
            ({"high": 0}, (0, 0)),
            ({"low": 0}, (0, 0)),
            ({"high": 7, "low": 3}, (3, 7)),
            ({"high": 1e6}, (250_000, 1_000_000)),
        ],
    )
    def test_what_is_set_and_what_follows(self, run, pair, connect, recorder, arguments, limits):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.set_write_buffer_limits(**arguments)
            assert transport.get_write_buffer_limits() == limits
            transport.abort()
            await protocol.until_lost()

        run(main())

    @pytest.mark.parametrize("high, low", [(1, 2), (-1, None), (5, -1), (-5, -5)])
    def test_what_makes_no_sense(self, run, pair, connect, recorder, high, low):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            with pytest.raises(ValueError, match=r"^high \(.*\) must be >= low \(.*\) must be >= 0$"):
                transport.set_write_buffer_limits(high, low)
            assert transport.get_write_buffer_limits() == (16384, 65536)
            transport.abort()
            await protocol.until_lost()

        run(main())


class TestPauseWriting:
    @pytest.mark.parametrize("high, low", [(65536, 16384), (1000, 250), (1, 1), (0, 0)])
    def test_thresholds_are_exact(self, run, tight, connect, recorder, high, low):
        ours, peer = tight

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.set_write_buffer_limits(high, low)
            if high:
                transport.write(b"x" * high)
            await asyncio.sleep(0)
            assert transport.get_write_buffer_size() == high
            assert "pause_writing" not in protocol.names  # at the mark, not above
            transport.write(b"y")
            assert protocol.names[-1] == "pause_writing"  # at once, inside write()
            transport.write(b"z")
            assert protocol.names.count("pause_writing") == 1
            sizes = []
            protocol.hooks["resume_writing"] = lambda self: sizes.append(transport.get_write_buffer_size())
            got = drain(peer)
            while "resume_writing" not in protocol.names:
                before = transport.get_write_buffer_size()
                await asyncio.sleep(0)
                got += drain(peer)
                if "resume_writing" not in protocol.names:
                    assert transport.get_write_buffer_size() > low or before == transport.get_write_buffer_size()
            assert sizes[0] <= low
            assert protocol.names.count("resume_writing") == 1
            while not got.endswith(b"yz"):
                await asyncio.sleep(0)
                got += drain(peer)
            assert got.lstrip(b"f") == b"x" * high + b"yz"
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_a_high_water_mark_of_zero_means_pause_as_soon_as_anything_is_left(self, run, pair, connect, recorder):
        """`set_write_buffer_limits(0)`, write, drain: the idiom to wait until the kernel has it all. So write() must
        find out before it returns, also when the socket had room before."""
        ours, peer = pair
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.set_write_buffer_limits(0)
            size = 60_000
            for _ in range(200):
                transport.write(bytes(size))
                if "pause_writing" in protocol.names:
                    break
                assert transport.get_write_buffer_size() == 0
            assert "pause_writing" in protocol.names
            transport.abort()
            await protocol.until_lost()

        run(main())

    def test_streams_drain_waits_for_the_peer(self, any_loop, pair):
        ours, peer = pair

        async def main():
            _, writer = await asyncio.open_connection(sock=ours)
            writer.transport.set_write_buffer_limits(0)
            blob = os.urandom(20_000_000)
            writer.write(blob)
            drained = asyncio.ensure_future(writer.drain())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not drained.done()
            got = bytearray()
            while len(got) < len(blob):
                got += await any_loop.run_in_executor(None, peer.recv, 1 << 20)
            await drained
            assert got == blob
            writer.close()
            await writer.wait_closed()

        any_loop.run_until_complete(asyncio.wait_for(main(), 30))

    def test_writing_more_inside_resume_writing(self, run, tight, connect, recorder):
        ours, peer = tight

        async def main():
            left = [20]

            def more(self):
                if left[0]:
                    left[0] -= 1
                    self.transport.write(b"%02d" % left[0] * 20_000)  # more than the socket takes

            protocol = recorder(resume_writing=more)
            transport = await connect(ours, protocol)
            transport.set_write_buffer_limits(500)
            transport.write(b"--" * 20_000)
            got = bytearray()
            while not got.endswith(b"00" * 20_000):
                await asyncio.sleep(0)
                got += drain(peer)
            expected = b"--" * 20_000 + b"".join(b"%02d" % i * 20_000 for i in reversed(range(20)))
            assert got.lstrip(b"f") == expected
            transport.close()
            await protocol.until_lost()

        run(main())

    @pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
    def test_an_exception_goes_to_the_handler_and_the_connection_goes_on(
        self, run, tight, connect, recorder, errors, method
    ):
        ours, peer = tight

        def fail(self):
            raise ZeroDivisionError

        async def main():
            protocol = recorder(**{method: fail})
            transport = await connect(ours, protocol)
            transport.set_write_buffer_limits(10)
            transport.write(b"x" * 100)
            got = bytearray()
            while not got.endswith(b"x" * 100):
                await asyncio.sleep(0)
                got += drain(peer)
            assert [error["message"] for error in errors] == [f"protocol.{method}() failed"]
            assert errors[0]["protocol"] is protocol and errors[0]["transport"] is transport
            errors.clear()
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_an_exit_in_pause_writing_holds_up_no_other_connection(self, any_loop, tight, pair, connect, recorder):
        """Two transports are written to in one callback; the first one's protocol leaves the loop."""
        ours, peer = tight
        second, second_peer = pair

        def leave(self):
            raise SystemExit

        first_protocol, second_protocol = recorder(pause_writing=leave), recorder()
        first = any_loop.run_until_complete(connect(ours, first_protocol))
        other = any_loop.run_until_complete(connect(second, second_protocol))
        drain(peer)
        first.set_write_buffer_limits(0)

        def write_both():
            try:
                first.write(bytes(60_000))  # the stdlib's loop leaves here, ours when the callback returns
            finally:
                other.write(b"one ")

        any_loop.call_soon(write_both)
        with pytest.raises(SystemExit):
            any_loop.run_forever()
        first.abort()
        any_loop.run_until_complete(first_protocol.until_lost())
        any_loop.call_soon(other.write, b"three")
        any_loop.call_soon(any_loop.stop)
        any_loop.run_forever()
        got = b""
        while not got.endswith(b"three"):
            got += second_peer.recv(100)
        assert got == b"one three"
        other.close()
        any_loop.run_until_complete(second_protocol.until_lost())

    def test_protocol_methods_run_in_the_context_of_the_connection(self, run, tight, connect, buffered_recorder):
        """What was set when the connection was made is seen in each of them."""
        ours, peer = tight
        seen = {}

        def note(name):
            def method(self, *args):
                seen[name] = VAR.get()
                return self.buffer if name == "get_buffer" else None

            return method

        async def main():
            VAR.set("connection")
            names = ("get_buffer", "buffer_updated", "eof_received", "pause_writing", "resume_writing")
            hooks = {name: note(name) for name in (*names, "connection_made", "connection_lost")}
            protocol = buffered_recorder(**hooks)
            transport = await connect(ours, protocol)
            transport.set_write_buffer_limits(10)
            transport.write(b"x" * 100)
            got = bytearray()
            while not got.endswith(b"x" * 100):
                await asyncio.sleep(0)
                got += drain(peer)
            peer.send(b"data")
            peer.shutdown(socket.SHUT_WR)
            await protocol.until_lost()
            assert seen == dict.fromkeys(hooks, "connection")

        run(main())


class TestPauseReading:
    @pytest.mark.parametrize("close", [False, True], ids=["data", "data and end"])
    def test_what_comes_while_paused_is_delivered_later(self, run, pair, connect, recorder, close):
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            for i in range(5):
                transport.pause_reading()
                transport.pause_reading()
                assert not transport.is_reading()
                peer.sendall(b"%d" % i)
                if close and i == 4:
                    peer.close()
                for _ in range(5):
                    await asyncio.sleep(0.001)
                assert len(protocol.data) == i
                transport.resume_reading()
                transport.resume_reading()
                assert transport.is_reading()
                await protocol.until(lambda i=i: len(protocol.data) == i + 1)
            if close:
                await protocol.until_lost()
            transport.close()
            await protocol.until_lost()
            assert protocol.data == b"01234"

        run(main())

    def test_pause_in_connection_made(self, run, any_loop, pair, connect, recorder):
        if isinstance(any_loop, asyncio.SelectorEventLoop) and sys.version_info < (3, 11):
            pytest.skip("the stdlib reads all the same")
        ours, peer = pair

        async def main():
            peer.sendall(b"early")
            peer.shutdown(socket.SHUT_WR)
            protocol = recorder(connection_made=lambda self: self.transport.pause_reading())
            transport = await connect(ours, protocol)
            for _ in range(10):
                await asyncio.sleep(0)
            assert protocol.names == ["connection_made"] and not protocol.data
            transport.resume_reading()
            await protocol.until_lost()
            assert protocol.data == b"early"

        run(main())

    def test_pause_in_data_received_after_every_chunk(self, run, pair, connect, recorder):
        ours, peer = pair
        blob = os.urandom(2_000_000)

        async def main():
            loop = asyncio.get_running_loop()

            def pause(self, data):
                self.transport.pause_reading()
                loop.call_soon(self.transport.resume_reading)

            protocol = recorder(data_received=pause)
            transport = await connect(ours, protocol)
            sending = loop.run_in_executor(None, lambda: (peer.sendall(blob), peer.close()))
            await protocol.until_lost()
            await sending
            assert protocol.data == blob
            assert transport.is_closing()

        run(main())

    def test_a_paused_idle_connection_with_data_does_not_spin(self, loop, pair, connect, recorder):
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.pause_reading()
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
            before = os.times().user + os.times().system
            await asyncio.sleep(0.3)
            assert os.times().user + os.times().system - before < 0.15
            transport.abort()
            await protocol.until_lost()

        loop.run_until_complete(main())
