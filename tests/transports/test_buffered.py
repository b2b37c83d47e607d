"""BufferedProtocol, and changing the protocol while data flows."""

import asyncio
import os

import pytest

from .helpers import in_executor


class TestBuffered:
    @pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
    def test_every_byte_goes_through_a_buffer_of_any_size(self, run, pair, connect, buffered_recorder, size):
        ours, peer = pair
        blob = os.urandom(500 if size == 1 else 3_000 * min(size, 700))

        async def main():
            protocol = buffered_recorder(size)
            await connect(ours, protocol)
            sending = in_executor(lambda: (peer.sendall(blob), peer.close()))
            await protocol.until_lost()
            await sending
            assert protocol.data == blob
            assert protocol.names == ["connection_made", "eof_received", "connection_lost"]
            assert all(0 < call[1] <= size for call in protocol.calls if call[0] == "buffer_updated")

        run(main())

    def test_the_buffer_may_be_resized_in_buffer_updated(self, run, pair, connect, buffered_recorder):
        """The transport holds no export of it any more by then."""
        ours, peer = pair

        async def main():
            protocol = buffered_recorder(10, buffer_updated=lambda self, count: self.buffer.extend(b"x"))
            await connect(ours, protocol)
            peer.sendall(bytes(100))
            peer.close()
            await protocol.until_lost()
            assert protocol.data == bytes(100)
            assert len(protocol.buffer) > 10

        run(main())

    @pytest.mark.parametrize("wrap", [memoryview, lambda buffer: memoryview(buffer)[5:10]])
    def test_a_memoryview_as_buffer(self, run, pair, connect, buffered_recorder, wrap):
        ours, peer = pair

        async def main():
            protocol = buffered_recorder(20, get_buffer=lambda self, hint: wrap(self.buffer))
            transport = await connect(ours, protocol)
            peer.sendall(b"abcde")
            await protocol.until(lambda: len(protocol.data) == 5)
            assert b"abcde" in protocol.buffer
            transport.close()
            await protocol.until_lost()

        run(main())

    @pytest.mark.parametrize(
        "result, kind", [(bytearray(), RuntimeError), (None, TypeError), (ZeroDivisionError, ZeroDivisionError)]
    )
    def test_a_bad_get_buffer_is_fatal(self, run, pair, connect, buffered_recorder, errors, result, kind):
        ours, peer = pair

        def get_buffer(self, hint):
            if result is ZeroDivisionError:
                raise ZeroDivisionError
            return result

        async def main():
            protocol = buffered_recorder(get_buffer=get_buffer)
            await connect(ours, protocol)
            peer.sendall(b"data")
            await protocol.until_lost()
            assert isinstance(protocol.lost, kind)
            assert errors[0]["message"] == "Fatal error: protocol.get_buffer() call failed."
            if kind is RuntimeError:
                assert str(protocol.lost) == "get_buffer() returned an empty buffer"
            errors.clear()

        run(main())

    def test_a_buffer_that_cannot_be_written_to_is_fatal(self, run, pair, connect, buffered_recorder, errors):
        ours, peer = pair

        async def main():
            protocol = buffered_recorder(get_buffer=lambda self, hint: b"read-only")
            await connect(ours, protocol)
            peer.sendall(b"data")
            await protocol.until_lost()
            assert isinstance(protocol.lost, (TypeError, BufferError))
            assert len(errors) == 1
            errors.clear()

        run(main())

    def test_an_exception_in_buffer_updated_is_fatal(self, run, pair, connect, buffered_recorder, errors):
        ours, peer = pair

        def fail(self, count):
            raise ZeroDivisionError

        async def main():
            protocol = buffered_recorder(buffer_updated=fail)
            await connect(ours, protocol)
            peer.sendall(b"data")
            await protocol.until_lost()
            assert isinstance(protocol.lost, ZeroDivisionError)
            assert errors[0]["message"] == "Fatal error: protocol.buffer_updated() call failed."
            errors.clear()

        run(main())

    @pytest.mark.parametrize("how", ["close", "abort", "pause_reading"])
    def test_ending_inside_get_buffer(self, run, pair, connect, buffered_recorder, how):
        ours, peer = pair

        def get_buffer(self, hint):
            getattr(self.transport, how)()
            return self.buffer

        async def main():
            protocol = buffered_recorder(get_buffer=get_buffer)
            transport = await connect(ours, protocol)
            peer.sendall(b"data")
            if how == "pause_reading":
                await protocol.until_called("buffer_updated")
                transport.close()
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())


class TestSetProtocol:
    def test_from_plain_to_buffered_and_back_in_the_middle(self, run, pair, connect, recorder, buffered_recorder):
        ours, peer = pair
        blob = os.urandom(2_000_000)
        whole = bytearray()

        async def main():
            done = asyncio.get_running_loop().create_future()

            def switch(self, what):
                transport = first.transport
                whole.extend(self.data)
                self.data.clear()
                transport.set_protocol(second if self is first else first)
                assert transport.get_protocol() is (second if self is first else first)
                if len(whole) == len(blob):
                    done.set_result(None)

            first = recorder(data_received=switch)
            second = buffered_recorder(3000, buffer_updated=switch)
            transport = await connect(ours, first)
            sending = in_executor(peer.sendall, blob)
            await asyncio.wait_for(done, 20)
            await sending
            assert whole == blob
            last = transport.get_protocol()
            transport.close()
            await last.until_lost()
            assert ("connection_lost" in first.names) != ("connection_lost" in second.names)

        run(main())
