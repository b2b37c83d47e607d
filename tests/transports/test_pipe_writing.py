"""connect_write_pipe: what is written, when it is closed, and when the other end is."""

import asyncio
import contextvars
import fcntl
import gc
import logging
import os
import socket

import pytest


def read_all(file):
    """Until the end, or until a terminal says EIO."""
    data = b""
    try:
        while chunk := file.read(65536):
            data += chunk
    except OSError:
        pass
    return data


def fill(fd):
    """Fill a pipe up; returns what is in it."""
    os.set_blocking(fd, False)
    data = b""
    try:
        while True:
            data += b"f" * os.write(fd, b"f" * 1000)
    except BlockingIOError:
        return data


@pytest.fixture
def full(pipe_ends):
    """A pipe with the smallest buffer, filled: (reader, writer, what is in it)."""
    reader, writer = pipe_ends
    fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer, fill(writer.fileno())


class TestWriting:
    def test_megabytes_in_order(self, any_loop, run, ends, write_pipe, recorder, numbered):
        reader, writer = ends
        data = numbered(2_000_000)

        def read(count):
            got = b""
            while len(got) < count:
                got += reader.read(65536)
            return got

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            for start in range(0, len(data), 30_000):
                transport.write(data[start : start + 30_000])
            assert await any_loop.run_in_executor(None, read, len(data)) == data
            transport.close()
            await protocol.until_lost()
            assert protocol.lost is None
            assert writer.closed
            assert protocol.names == ["connection_made", "pause_writing", "resume_writing", "connection_lost"]

        run(main())

    @pytest.mark.parametrize("end", ["close", "write_eof"])
    def test_what_is_left_is_sent_before_the_end(self, any_loop, run, pipe_ends, write_pipe, recorder, numbered, end):
        reader, writer = pipe_ends
        data = numbered(1_000_000)

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            assert transport.can_write_eof()
            transport.write(data)
            getattr(transport, end)()
            assert transport.is_closing()
            transport.close()
            transport.write_eof()
            assert await any_loop.run_in_executor(None, read_all, reader) == data
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    def test_every_kind_of_bytes_and_lines(self, any_loop, run, pipe_ends, write_pipe, recorder):
        reader, writer = pipe_ends

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            transport.write(b"bytes,")
            transport.write(bytearray(b"bytearray,"))
            transport.write(memoryview(b"-view,-")[1:-1])
            transport.write(b"")
            transport.writelines([b"li", bytearray(b"nes"), memoryview(b",")])
            transport.writelines([])
            transport.writelines(part for part in (b"generated", b""))
            transport.close()
            assert await any_loop.run_in_executor(None, read_all, reader) == b"bytes,bytearray,view,lines,generated"
            await protocol.until_lost()

        run(main())

    @pytest.mark.parametrize("data", ["text", None, 5])
    def test_what_is_no_bytes_is_refused(self, run, pipe_ends, write_pipe, recorder, data):
        _, writer = pipe_ends

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            with pytest.raises((TypeError, AssertionError)):  # the latter in asyncio
                transport.write(data)
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_what_changes_after_write_was_copied(self, any_loop, run, full, write_pipe, recorder):
        reader, writer, filler = full

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            small, big = bytearray(b"small" * 10), bytearray(b"big" * 100_000)
            expected = filler + small + big
            transport.write(small)
            transport.write(big)
            small[:] = bytes(len(small))
            big.clear()
            transport.close()
            assert await any_loop.run_in_executor(None, read_all, reader) == expected
            await protocol.until_lost()

        run(main())

    def test_flow_control(self, run, full, write_pipe, recorder):
        reader, writer, filler = full

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            assert transport.get_write_buffer_limits() == (16384, 65536)
            transport.set_write_buffer_limits(1000, 100)
            transport.write(b"x" * 1000)
            assert transport.get_write_buffer_size() == 1000
            assert "pause_writing" not in protocol.names
            transport.write(b"y")
            assert protocol.names[-1] == "pause_writing"
            sizes = []
            protocol.hooks["resume_writing"] = lambda self: sizes.append(transport.get_write_buffer_size())
            assert reader.read(65536) == filler
            await protocol.until_called("resume_writing")
            assert sizes == [0]
            assert reader.read(65536) == b"x" * 1000 + b"y"
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_write_inside_resume_writing_and_close(self, any_loop, run, full, write_pipe, recorder, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "calls connection_lost twice")
        reader, writer, filler = full

        def more(self):
            self.transport.write(b"more")
            self.transport.close()

        async def main():
            protocol = recorder(resume_writing=more)
            transport = await write_pipe(writer, protocol)
            transport.write(b"x" * 100_000)
            assert await any_loop.run_in_executor(None, read_all, reader) == filler + b"x" * 100_000 + b"more"
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    @pytest.mark.parametrize("make", ["packet pipe", "seqpacket", "datagram"])
    def test_each_write_is_one_message(self, run, files, write_pipe, recorder, make):
        """Where the file keeps messages apart."""
        if make == "packet pipe":
            fds = os.pipe2(os.O_DIRECT)
        else:
            kind = socket.SOCK_SEQPACKET if make == "seqpacket" else socket.SOCK_DGRAM
            fds = [sock.detach() for sock in socket.socketpair(socket.AF_UNIX, kind)]
        reader, writer = files(fds[0], "rb"), files(fds[1], "wb")

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            for i in range(5):
                transport.write(b"message %d" % i)
            transport.writelines([b"together", b"in one"])
            await asyncio.sleep(0)
            assert [reader.read(1000) for _ in range(6)] == [*(b"message %d" % i for i in range(5)), b"togetherin one"]
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_messages_that_wait_stay_apart(self, any_loop, run, files, write_pipe, recorder, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "joins what waits")
        reader, writer = (sock.detach() for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        reader, writer = files(reader, "rb"), files(writer, "wb")

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            sent = [b"%d" % i * 1000 for i in range(1000)]
            for message in sent:
                transport.write(message)
            assert transport.get_write_buffer_size() > 0
            got = await any_loop.run_in_executor(None, lambda: [reader.read(10_000) for _ in sent])
            assert got == sent
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_to_nowhere(self, run, files, write_pipe, recorder):
        async def main():
            protocol = recorder()
            transport = await write_pipe(files(os.open("/dev/null", os.O_WRONLY), "wb"), protocol)
            transport.write(bytes(1_000_000))
            assert transport.get_write_buffer_size() == 0
            transport.close()
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    def test_a_fifo_that_is_read_and_written_by_the_same_file(
        self, run, tmp_path, files, write_pipe, recorder, turns, stdlib_is_wrong
    ):
        """Its reading end is there as long as the writing one: what lies in it is no sign of the end."""
        stdlib_is_wrong((3, 0), "takes unread data for the end")
        os.mkfifo(tmp_path / "fifo")

        async def main():
            protocol = recorder()
            file = files(os.open(tmp_path / "fifo", os.O_RDWR), "r+b")
            transport = await write_pipe(file, protocol)
            transport.write(b"data")
            await turns(10)
            assert not transport.is_closing()
            assert file.read(100) == b"data"
            transport.close()
            await protocol.until_lost()

        run(main())


class TestTheOtherEnd:
    def test_closed_while_nothing_waits(self, run, pipe_ends, write_pipe, recorder):
        reader, writer = pipe_ends

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            reader.close()
            await protocol.until_lost()
            assert protocol.lost is None
            assert transport.is_closing()

        run(main())

    def test_closed_while_data_waits(self, run, full, write_pipe, recorder):
        reader, writer, _ = full

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            transport.write(b"x" * 10_000)
            await asyncio.sleep(0)
            assert transport.get_write_buffer_size() == 10_000
            reader.close()
            await protocol.until_lost()
            assert isinstance(protocol.lost, BrokenPipeError)
            assert transport.get_write_buffer_size() == 0

        run(main())

    def test_closed_while_closing(self, run, full, write_pipe, recorder):
        reader, writer, _ = full

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            transport.write(b"x" * 10_000)
            transport.close()
            reader.close()
            await protocol.until_lost()
            assert isinstance(protocol.lost, BrokenPipeError)

        run(main())

    def test_closed_just_before_a_write(self, run, ends, write_pipe, recorder):
        reader, writer = ends

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            reader.close()
            transport.write(b"x")
            await protocol.until_lost()
            assert protocol.lost is None or isinstance(protocol.lost, OSError)  # a terminal's other end takes it
            transport.close()

        if os.isatty(reader.fileno()):
            pytest.skip("a terminal takes what nobody reads")
        run(main())

    def test_something_sent_by_the_other_end_of_a_socket_is_its_end(self, run, files, write_pipe, recorder):
        """As in asyncio, which cannot tell."""
        one, other = socket.socketpair()

        async def main():
            protocol = recorder()
            await write_pipe(files(one.detach(), "wb"), protocol)
            other.send(b"x")
            await protocol.until_lost()
            assert protocol.lost is None

        with other:
            run(main())


class TestTheEnd:
    def test_abort_drops_what_waits(self, run, full, write_pipe, recorder):
        reader, writer, filler = full

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            transport.write(b"x" * 10_000)
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            await protocol.until_lost()
            assert protocol.lost is None
            assert read_all(reader) == filler

        run(main())

    def test_the_sixth_write_after_the_end_warns(self, run, pipe_ends, write_pipe, recorder, caplog):
        _, writer = pipe_ends

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            transport.close()
            with caplog.at_level(logging.WARNING, "asyncio"):
                for i in range(1, 9):
                    transport.write(b"x")
                    assert len(caplog.records) == max(0, i - 5)
                    if i == 2:
                        await protocol.until_lost()
            text = "pipe closed by peer or os.write(pipe, data) raised exception."
            assert {record.message for record in caplog.records} == {text}

        run(main())

    def test_the_fifth_write_after_a_broken_pipe_warns(self, run, full, write_pipe, recorder, caplog):
        reader, writer, _ = full

        async def main():
            protocol = recorder()
            transport = await write_pipe(writer, protocol)
            reader.close()
            transport.write(b"x")
            assert transport.get_write_buffer_size() == 0
            with caplog.at_level(logging.WARNING, "asyncio"):
                for i in range(1, 8):
                    transport.write(b"x")
                    assert len(caplog.records) == max(0, i - 4)
            await protocol.until_lost()
            assert isinstance(protocol.lost, BrokenPipeError)

        run(main())

    def test_contexts(self, run, ends, read_pipe, write_pipe, recorder):
        variable = contextvars.ContextVar("variable", default="outside")
        seen = []

        def note(self, *args):
            seen.append(variable.get())

        async def main():
            reader, writer = ends
            protocol = recorder(connection_made=note, data_received=note, connection_lost=note)
            variable.set("inside")
            await read_pipe(reader, protocol)
            variable.set("later")
            writer.write(b"x")
            await protocol.until(lambda: protocol.data == b"x")
            variable.set("at the end")
            protocol.transport.close()
            await protocol.until_lost()
            assert seen == ["inside", "inside", "at the end"]

        run(main())

    def test_extra_information_and_repr(self, run, pipe_ends, read_pipe, write_pipe, recorder):
        async def main():
            for file, connect in zip(pipe_ends, (read_pipe, write_pipe), strict=True):
                protocol = recorder()
                fd = file.fileno()
                transport = await connect(file, protocol)
                assert transport.get_extra_info("pipe") is file
                assert transport.get_extra_info("nothing", 7) == 7
                assert transport.get_protocol() is protocol
                assert f"fd={fd}" in repr(transport)
                assert ("polling" in repr(transport)) is (connect is read_pipe)
                kind = asyncio.ReadTransport if connect is read_pipe else asyncio.WriteTransport
                assert isinstance(transport, kind)
                transport.close()
                assert "closing" in repr(transport)
                await protocol.until_lost()
                assert "closed" in repr(transport)
                assert not os.path.exists(f"/proc/self/fd/{fd}")

        run(main())

    def test_set_protocol(self, run, pipe_ends, read_pipe, recorder):
        reader, writer = pipe_ends

        async def main():
            first, second = recorder(), recorder()
            transport = await read_pipe(reader, first)
            transport.set_protocol(second)
            writer.write(b"x")
            await second.until(lambda: second.data == b"x")
            assert first.data == b""
            writer.close()
            await second.until_lost()
            assert first.names == ["connection_made"]

        run(main())

    @pytest.mark.parametrize("write", [False, True])
    def test_a_transport_that_nobody_closed_warns(self, any_factory, pipe_ends, recorder, write):
        loop = any_factory()
        file = pipe_ends[write]
        connect = loop.connect_write_pipe if write else loop.connect_read_pipe
        transport, protocol = loop.run_until_complete(connect(recorder, file))
        loop.close()
        kind = "Write" if write else "Read"
        with pytest.warns(ResourceWarning, match=f"^unclosed transport <_?Unix{kind}PipeTransport"):
            protocol.transport = transport = None
            del protocol, transport
            gc.collect()
        assert file.closed
