"""connect_read_pipe and connect_write_pipe: pipes, FIFOs, sockets, terminals and devices."""

import asyncio
import errno
import os
import termios
import tty

import pytest


class TestReading:
    def test_data_then_the_end(self, run, ends, read_pipe, recorder, reading_can_be_paused):
        reader, writer = ends

        async def main():
            protocol = recorder()
            transport = await read_pipe(reader, protocol)
            writer.write(b"one")
            await protocol.until(lambda: protocol.data == b"one")
            writer.write(b"two")
            await protocol.until(lambda: protocol.data == b"onetwo")
            writer.close()
            await protocol.until_lost()
            if isinstance(protocol.lost, OSError):  # how a terminal says it
                assert protocol.lost.errno == errno.EIO
                assert protocol.names == ["connection_made", "connection_lost"]
            else:
                assert protocol.lost is None
                assert protocol.names == ["connection_made", "eof_received", "connection_lost"]
            assert transport.is_closing() and not transport.is_reading()
            assert reader.closed

        run(main())

    def test_megabytes_in_order(self, any_loop, run, ends, read_pipe, recorder, numbered):
        reader, writer = ends
        data = numbered(4_000_000)

        def feed():
            view = memoryview(data)
            while view:
                view = view[writer.write(view[:100_000]) :]

        async def main():
            protocol = recorder()
            transport = await read_pipe(reader, protocol)
            await any_loop.run_in_executor(None, feed)
            await protocol.until(lambda: len(protocol.data) >= len(data))
            assert protocol.data == data
            transport.close()
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    def test_what_was_written_before_the_end_is_read(self, run, pipe_ends, read_pipe, recorder, numbered):
        reader, writer = pipe_ends
        data = numbered(60_000)
        writer.write(data)
        writer.close()

        async def main():
            protocol = recorder()
            await read_pipe(reader, protocol)
            await protocol.until_lost()
            assert protocol.data == data
            assert protocol.names == ["connection_made", "eof_received", "connection_lost"]

        run(main())

    def test_pause_and_resume(self, run, ends, read_pipe, recorder, turns, reading_can_be_paused):
        reader, writer = ends

        async def main():
            protocol = recorder(data_received=lambda self, data: self.transport.pause_reading())
            transport = await read_pipe(reader, protocol)
            writer.write(b"1")
            await protocol.until(lambda: protocol.data == b"1")
            assert not transport.is_reading()
            writer.write(b"2")
            await turns()
            assert protocol.data == b"1"
            transport.pause_reading()
            transport.resume_reading()
            assert transport.is_reading()
            transport.resume_reading()
            await protocol.until(lambda: protocol.data == b"12")
            transport.close()
            transport.resume_reading()
            await protocol.until_lost()

        run(main())

    def test_paused_in_connection_made(self, run, pipe_ends, read_pipe, recorder, turns, reading_can_be_paused):
        reader, writer = pipe_ends

        async def main():
            protocol = recorder(connection_made=lambda self: self.transport.pause_reading())
            transport = await read_pipe(reader, protocol)
            writer.write(b"x")
            writer.close()
            await turns()
            assert protocol.names == ["connection_made"]
            transport.resume_reading()
            await protocol.until_lost()
            assert protocol.data == b"x"

        run(main())

    def test_closed_while_data_waits(self, run, ends, read_pipe, recorder):
        reader, writer = ends

        async def main():
            protocol = recorder()
            transport = await read_pipe(reader, protocol)
            writer.write(b"x")
            transport.close()
            transport.close()
            await protocol.until_lost()
            assert protocol.names == ["connection_made", "connection_lost"]
            assert protocol.lost is None and protocol.data == b""
            assert transport.get_protocol() is None

        run(main())

    @pytest.mark.parametrize("kind", [ZeroDivisionError, OSError])
    def test_an_exception_of_data_received_does_not_end_it(self, run, errors, pipe_ends, read_pipe, recorder, kind):
        reader, writer = pipe_ends

        def fail(self, data):
            if data == b"1":
                raise kind("oops")

        async def main():
            protocol = recorder(data_received=fail)
            transport = await read_pipe(reader, protocol)
            writer.write(b"1")
            await protocol.until(lambda: protocol.data == b"1")
            await asyncio.sleep(0)
            assert [type(details["exception"]) for details in errors] == [kind]
            errors.clear()
            writer.write(b"2")
            await protocol.until(lambda: protocol.data == b"12")
            transport.close()
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    def test_an_exception_of_eof_received(self, run, errors, pipe_ends, read_pipe, recorder):
        reader, writer = pipe_ends

        def fail(self):
            raise ZeroDivisionError

        async def main():
            protocol = recorder(eof_received=fail)
            await read_pipe(reader, protocol)
            writer.close()
            await protocol.until_lost()
            assert protocol.lost is None
            assert [type(details["exception"]) for details in errors] == [ZeroDivisionError]
            errors.clear()

        run(main())

    def test_eof_received_cannot_keep_it_open(self, run, pipe_ends, read_pipe, recorder):
        reader, writer = pipe_ends

        async def main():
            protocol = recorder(eof_received=lambda self: True)
            await read_pipe(reader, protocol)
            writer.close()
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    def test_a_stream_reader(self, run, pipe_ends, any_loop, numbered, turns):
        reader, writer = pipe_ends
        data = numbered(200_000)

        async def main():
            stream = asyncio.StreamReader(limit=10_000)
            transport, _ = await any_loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), reader)
            feeding = any_loop.run_in_executor(None, lambda: (writer.write(data[:65536]), writer.write(data[65536:])))
            assert await stream.readexactly(len(data)) == data
            await feeding
            writer.close()
            assert await stream.read() == b""
            transport.close()
            await turns()

        run(main())

    def test_packets_stay_packets(self, run, files, read_pipe, recorder):
        reader, writer = os.pipe2(os.O_DIRECT)
        reader, writer = files(reader, "rb"), files(writer, "wb")

        async def main():
            protocol = recorder()
            transport = await read_pipe(reader, protocol)
            for i in range(10):
                writer.write(b"%d" % i)
            await protocol.until(lambda: len(protocol.data) == 10)
            assert [call[1] for call in protocol.calls if call[0] == "data_received"] == [b"%d" % i for i in range(10)]
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_several_readers_of_one_pipe(self, run, pipe_ends, files, read_pipe, recorder):
        """What one of them takes the other finds gone: no blocking read."""
        reader, writer = pipe_ends
        again = files(os.dup(reader.fileno()), "rb")

        async def main():
            protocols = [recorder(), recorder()]
            for protocol, file in zip(protocols, (reader, again), strict=True):
                await read_pipe(file, protocol)
            for i in range(20):
                writer.write(b"%02d" % i)
                await asyncio.sleep(0.001)
            assert sum(len(protocol.data) for protocol in protocols) == 40
            writer.close()
            for protocol in protocols:
                await protocol.until_lost()

        run(main())


class TestWhatIsRefused:
    @pytest.mark.parametrize("write", [False, True])
    def test_regular_files_and_folders(self, run, tmp_path, recorder, read_pipe, write_pipe, files, write, turns):
        path = tmp_path / "file"
        path.write_bytes(b"content")
        text = "is only for pipes, sockets and character devices" if write else "is for pipes/sockets only."

        async def main():
            file = files(os.open(path, os.O_RDWR), "r+b")
            protocol = recorder()
            with pytest.raises(ValueError, match=f"^Pipe transport {text}$"):
                await (write_pipe if write else read_pipe)(file, protocol)
            await turns()
            assert protocol.calls == []
            assert not file.closed
            assert os.get_blocking(file.fileno())

        run(main())

    @pytest.mark.parametrize("file", [None, 5, "text"])
    def test_what_is_no_file(self, run, file, recorder, read_pipe, write_pipe, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "half-made transports raise AttributeError when they are collected")

        async def main():
            for connect in (read_pipe, write_pipe):
                with pytest.raises(AttributeError):
                    await connect(file, recorder())

        run(main())

    def test_closed_files(self, run, pipe_ends, recorder, read_pipe, write_pipe, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "half-made transports raise AttributeError when they are collected")

        async def main():
            for connect, file in zip((read_pipe, write_pipe), pipe_ends, strict=True):
                file.close()
                with pytest.raises(ValueError, match="closed file"):
                    await connect(file, recorder())

        run(main())

    def test_a_device_that_cannot_be_watched_is_told_and_can_be_closed(self, run, errors, files, recorder, read_pipe):
        async def main():
            file = files(os.open("/dev/zero", os.O_RDONLY), "rb")
            protocol = recorder(data_received=lambda self, data: self.transport.pause_reading())
            transport = await read_pipe(file, protocol)
            while not errors and not protocol.data:
                await asyncio.sleep(0)
            refused = None
            if errors:  # epoll and io_uring refuse, poll does not
                refused = errors.pop()["exception"]
                assert type(refused) is PermissionError and not errors
                assert protocol.data == b""
            else:
                assert protocol.data and not protocol.data.strip(b"\0")
            transport.close()
            await protocol.until_lost()
            assert protocol.lost in (None, refused)  # asyncio's waits to be closed

        run(main())


class TestTerminals:
    def test_line_by_line(self, run, files, read_pipe, recorder):
        """A terminal gives one line at a time, however many there are."""
        master, slave = os.openpty()
        writer, reader = files(master, "wb"), files(slave, "rb")

        async def main():
            protocol = recorder()
            transport = await read_pipe(reader, protocol)
            writer.write(b"one\ntwo\nthree\n")
            await protocol.until(lambda: protocol.data.count(b"\n") == 3)
            assert [call[1] for call in protocol.calls if call[0] == "data_received"] == [
                b"one\n",
                b"two\n",
                b"three\n",
            ]
            transport.close()
            await protocol.until_lost()

        run(main())

    @pytest.mark.parametrize("same_fd", [False, True])
    def test_both_ways_at_once(self, any_loop, run, files, read_pipe, write_pipe, recorder, same_fd, numbered):
        """Read and write transports for the same end, also for the same fd, and the writing one has to wait."""
        master, slave = os.openpty()
        tty.setraw(slave, termios.TCSANOW)
        ours = files(master, "r+b")
        also = files(master, "wb", False) if same_fd else files(os.dup(master), "wb")
        other = files(slave, "r+b")
        data = numbered(200_000)

        def exchange():
            got = b""
            while len(got) < len(data):
                got += other.read(65536)
                other.write(b"ack")
            return got

        async def main():
            incoming, outgoing = recorder(), recorder()
            await read_pipe(ours, incoming)
            transport = await write_pipe(also, outgoing)
            transport.write(data)
            assert transport.get_write_buffer_size() > 0
            assert await any_loop.run_in_executor(None, exchange) == data
            await incoming.until(lambda: len(incoming.data) > 3)
            assert incoming.names == outgoing.names[:1] == ["connection_made"]
            seen = len(incoming.data)
            other.write(b"still there")
            await incoming.until(lambda: len(incoming.data) >= seen + len(b"still there"))
            for protocol in (outgoing, incoming):
                protocol.transport.close()
                await protocol.until_lost()
                assert protocol.lost is None

        run(main())

    def test_writing_to_one_that_is_gone(self, run, files, write_pipe, recorder):
        master, slave = os.openpty()
        file = files(slave, "wb")

        async def main():
            protocol = recorder()
            transport = await write_pipe(file, protocol)
            os.close(master)
            transport.write(b"x")
            await protocol.until_lost()
            assert protocol.lost.errno == errno.EIO

        run(main())
