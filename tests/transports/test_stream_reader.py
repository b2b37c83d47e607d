"""asyncio's streams over our transports: a plain StreamReader is fed natively, everything else is called."""

import asyncio
import gc
import random
import socket

import pytest


@pytest.fixture
def peer(any_loop):
    """(reader, writer, the other end's blocking socket) of a connected pair; keywords go to open_connection()."""
    sockets = []

    async def make(**options):
        ours, theirs = socket.socketpair()
        sockets.append(theirs)
        theirs.settimeout(15)
        reader, writer = await asyncio.open_connection(sock=ours, **options)
        return reader, writer, theirs

    yield make
    for sock in sockets:
        sock.close()


async def closed(writer):
    writer.close()
    await writer.wait_closed()


async def until(condition):
    """Turns until `condition()` holds; the deadline is that of run()."""
    while not condition():
        await asyncio.sleep(0)


def test_chunks_of_every_size_keep_their_order(run, peer):
    rng = random.Random(1)
    sent = bytes(rng.randrange(256) for _ in range(300_000))

    async def main():
        reader, writer, theirs = await peer()
        theirs.setblocking(False)

        async def send():
            at = 0
            while at < len(sent):
                size = rng.choice([1, 2, 100, 5_000, 60_000])
                await asyncio.get_running_loop().sock_sendall(theirs, sent[at : at + size])
                at += size
            theirs.shutdown(socket.SHUT_WR)

        task = asyncio.create_task(send())
        got = bytearray()
        while data := await reader.read(rng.choice([1, 7, 4_096, 100_000])):
            got += data
        await task
        assert got == sent
        assert reader.at_eof()
        await closed(writer)

    run(main())


def test_lines_and_separators(run, peer):
    async def main():
        reader, writer, theirs = await peer(limit=100)
        theirs.sendall(b"one\ntwo\nthr")
        assert await reader.readline() == b"one\n"
        assert await reader.readuntil(b"o\n") == b"two\n"
        waiting = asyncio.create_task(reader.readline())
        await asyncio.sleep(0)
        theirs.sendall(b"ee\n" + b"x" * 150 + b"\n")
        assert await waiting == b"three\n"
        with pytest.raises(ValueError, match="limit"):
            await reader.readline()
        theirs.sendall(b"end")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(10)
        assert caught.value.partial == b"end"
        await closed(writer)

    run(main())


def test_reading_pauses_above_twice_the_limit_and_goes_on(run, peer):
    async def main():
        reader, writer, theirs = await peer(limit=1000)
        theirs.sendall(b"a" * 2000)
        await until(lambda: len(reader._buffer) == 2000)
        assert writer.transport.is_reading() and not reader._paused
        theirs.sendall(b"b")
        await until(lambda: reader._paused)
        assert not writer.transport.is_reading()
        theirs.sendall(b"c" * 10)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(reader._buffer) == 2001
        assert await reader.readexactly(2011) == b"a" * 2000 + b"b" + b"c" * 10
        assert writer.transport.is_reading()
        await closed(writer)

    run(main())


def test_a_cancelled_read_loses_nothing(run, peer):
    async def main():
        reader, writer, theirs = await peer()
        waiting = asyncio.create_task(reader.read(100))
        await asyncio.sleep(0)
        theirs.sendall(b"first")
        waiting.cancel()
        await until(waiting.done)
        await until(lambda: reader._buffer)
        theirs.sendall(b" second")
        assert await reader.readexactly(12) == b"first second"
        await closed(writer)

    run(main())


def test_a_reader_that_its_user_dropped_takes_nothing(run, peer):
    async def main():
        reader, writer, theirs = await peer()
        theirs.sendall(b"something")
        await reader.readexactly(9)
        del reader
        gc.collect()
        theirs.sendall(b"nobody reads this")
        writer.write(b"but writing works")
        await asyncio.sleep(0.01)  # whatever happens with it; nothing may come of it
        assert theirs.recv(100) == b"but writing works"
        await closed(writer)

    run(main())


def test_data_after_feed_eof_ends_the_connection(run, peer, errors):
    async def main():
        reader, writer, theirs = await peer()
        reader.feed_eof()
        theirs.sendall(b"late")
        await until(lambda: errors)
        theirs.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
        writer.close()
        with pytest.raises(AssertionError):
            await writer.wait_closed()

    run(main())
    assert [details["message"] for details in errors] == ["Fatal error: protocol.data_received() call failed."]
    assert isinstance(errors.pop()["exception"], AssertionError)


def test_being_fed_makes_no_object_slower(run, peer):
    """Up to 3.12 an object whose vars() were asked for has a dict from then on, in which attributes are looked up."""

    def holds_a_dict(item):
        return any(type(referent) is dict for referent in gc.get_referents(item))

    async def main():
        reader, writer, theirs = await peer()
        theirs.sendall(b"chunk")
        assert await reader.readexactly(5) == b"chunk"
        untouched = asyncio.StreamReader()
        assert holds_a_dict(reader) == holds_a_dict(untouched)
        assert holds_a_dict(writer.transport.get_protocol()) == holds_a_dict(asyncio.StreamReaderProtocol(untouched))
        await closed(writer)

    run(main())


class Counting(asyncio.StreamReader):
    def __init__(self, **options):
        super().__init__(**options)
        self.chunks = []

    def feed_data(self, data):
        self.chunks.append(data)
        super().feed_data(data)


class TestOthersAreCalled:
    def test_a_subclass_of_the_reader(self, run, any_loop):
        async def main():
            ours, theirs = socket.socketpair()
            with theirs:
                reader = Counting(loop=any_loop)
                transport, _ = await any_loop.create_connection(
                    lambda: asyncio.StreamReaderProtocol(reader, loop=any_loop), sock=ours
                )
                theirs.sendall(b"chunk")
                assert await reader.readexactly(5) == b"chunk"
                assert reader.chunks == [b"chunk"]
                transport.close()
                await asyncio.sleep(0)

        run(main())

    def test_a_subclass_of_the_protocol(self, run, any_loop):
        class Protocol(asyncio.StreamReaderProtocol):
            def data_received(self, data):
                super().data_received(data.upper())

        async def main():
            ours, theirs = socket.socketpair()
            with theirs:
                reader = asyncio.StreamReader(loop=any_loop)
                transport, _ = await any_loop.create_connection(lambda: Protocol(reader, loop=any_loop), sock=ours)
                theirs.sendall(b"chunk")
                assert await reader.readexactly(5) == b"CHUNK"
                transport.close()
                await asyncio.sleep(0)

        run(main())

    def test_a_method_that_one_object_has(self, run, any_loop):
        seen = []

        async def main():
            ours, theirs = socket.socketpair()
            with theirs:
                reader = asyncio.StreamReader()
                feed_data = reader.feed_data
                reader.feed_data = lambda data: (seen.append(data), feed_data(data))
                transport, _ = await any_loop.create_connection(lambda: asyncio.StreamReaderProtocol(reader), sock=ours)
                theirs.sendall(b"chunk")
                assert await reader.readexactly(5) == b"chunk"
                assert seen == [b"chunk"]
                del reader.feed_data
                transport.close()
                await asyncio.sleep(0)

        run(main())

    @pytest.mark.parametrize("cls, name", [("StreamReader", "feed_data"), ("StreamReaderProtocol", "data_received")])
    def test_a_class_that_somebody_patched(self, run, peer, monkeypatch, cls, name):
        seen = []
        original = getattr(getattr(asyncio, cls), name)

        def patched(self, data):
            seen.append(data)
            original(self, data)

        monkeypatch.setattr(getattr(asyncio, cls), name, patched)

        async def main():
            reader, writer, theirs = await peer()
            theirs.sendall(b"chunk")
            assert await reader.readexactly(5) == b"chunk"
            assert seen == [b"chunk"]
            await closed(writer)

        run(main())

    @pytest.mark.parametrize("whose", ["object", "class"])
    @pytest.mark.parametrize("name", ["feed_data", "data_received"])
    def test_what_is_replaced_while_the_connection_is_open(self, run, peer, whose, name):
        """It was asked once, when the connection began: a tap put in later heard nothing."""
        seen = []

        async def main():
            reader, writer, theirs = await peer()
            theirs.sendall(b"one")
            assert await reader.readexactly(3) == b"one"
            owner = reader if name == "feed_data" else writer.transport.get_protocol()
            tapped = owner if whose == "object" else type(owner)
            original = getattr(type(owner), name)

            def tap(*args):
                seen.append(args[-1])
                original(owner, args[-1])

            setattr(tapped, name, tap)
            try:
                theirs.sendall(b"two")
                assert await reader.readexactly(3) == b"two"
            finally:
                if whose == "object":
                    delattr(tapped, name)
                else:
                    setattr(tapped, name, original)
            theirs.sendall(b"three")
            assert await reader.readexactly(5) == b"three"
            assert seen == [b"two"]
            await closed(writer)

        run(main())
