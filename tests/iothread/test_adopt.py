"""adopt(): a connection goes on in another thread, and nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading

import pytest

from .helpers import PATIENCE, Recorder, call, connect, numbers, read_exactly, tcp_pair


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    def __init__(self):
        super().__init__()
        self.buffer = bytearray(10_000)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data_received(bytes(self.buffer[:count]))


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
def test_it_goes_on_in_the_thread(iothread, run, pair, protocol_class):
    ours, peer = pair
    protocol = protocol_class()

    async def main():
        transport = await connect(ours, protocol)
        peer.sendall(b"before ")
        await protocol.until_in_executor(lambda it: it.data == b"before ")
        transport.write(b"one ")
        await iothread.adopt(transport)
        peer.sendall(b"after")
        await protocol.until_in_executor(lambda it: it.data == b"before after")
        await iothread.run(call(transport.write, b"two"))
        assert transport.get_protocol() is protocol
        assert len(iothread.connections) == 1

    run(main())
    assert read_exactly(peer, 7) == b"one two"
    assert protocol.calls[-1][:2] == ("data_received", iothread.thread_id)
    peer.shutdown(socket.SHUT_WR)
    protocol.until(lambda it: it.calls[-1][0] == "eof_received")
    iothread.submit(call(protocol.transport.close)).result(PATIENCE)
    protocol.until(lambda it: it.calls[-1][0] == "connection_lost")
    assert protocol.where("eof_received") == protocol.where("connection_lost") == iothread.thread_id
    iothread.submit(asyncio.sleep(0)).result(PATIENCE)
    assert not iothread.connections
    assert peer.recv(1) == b""


class Carried(asyncio.Protocol):
    """A connection that is moved while both directions carry numbers, as much as the peer takes."""

    def __init__(self, limit):
        self.limit = limit
        self.sent = 0
        self.paused = False
        self.received = bytearray()
        self.threads = set()
        self.lost = threading.Event()
        self.whole = threading.Event()
        self.expected = None

    def connection_made(self, transport):
        self.transport = transport

    def go_on(self):
        """Write until told to pause."""
        while not self.paused and self.sent < self.limit:
            last = min(self.sent + 500, self.limit)
            first, self.sent = self.sent, last
            self.transport.write(numbers(first, last))

    def data_received(self, data):
        self.threads.add(threading.get_native_id())
        self.received += data
        if len(self.received) == self.expected:
            self.whole.set()

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.go_on()

    def connection_lost(self, exc):
        self.lost.set()


class BufferedCarried(Carried, asyncio.BufferedProtocol):
    def __init__(self, limit):
        super().__init__(limit)
        self.buffer = bytearray(7_000)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data_received(self.buffer[:count])


MOVES = 50


class Pace:
    """Keeps two streams and the moves together: none is more than two steps of bytes ahead of the moves, and each move
    waits until both have come as far as the last."""

    def __init__(self, step):
        self.step = step
        self.moves = 0
        self.sizes = {"sent": 0, "heard": 0}
        self.changed = threading.Condition()

    def keep(self, name, size):
        with self.changed:
            self.sizes[name] = size
            self.changed.notify_all()
            may_go_on = self.changed.wait_for(
                lambda: self.moves == MOVES or size < (self.moves + 2) * self.step, PATIENCE
            )
            assert may_go_on

    def moved(self):
        with self.changed:
            self.moves += 1
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: min(self.sizes.values()) >= (self.moves - 1) * self.step, PATIENCE)


@pytest.mark.parametrize("protocol_class", [Carried, BufferedCarried])
def test_a_connection_moved_back_and_forth_under_load_loses_nothing(new_iothread, pair, protocol_class):
    one, other = new_iothread("one"), new_iothread("other")
    ours, peer = pair
    count = 500_000  # 4 MB each way
    protocol = protocol_class(count)
    protocol.expected = count * 8
    heard = bytearray()
    pace = Pace(step=count * 8 // MOVES)

    def send():
        # In pieces of all sizes, so that moves fall between and into them.
        for i in range(0, count, 1000):
            data = numbers(i, i + 1000)
            cut = i * 7919 % len(data)
            peer.sendall(data[:cut])
            peer.sendall(data[cut:])
            pace.keep("sent", (i + 1000) * 8)

    def hear():
        while len(heard) < count * 8:
            data = peer.recv(50_000)
            if not data:
                break
            heard.extend(data)
            pace.keep("heard", len(heard))

    threads = [threading.Thread(target=send), threading.Thread(target=hear)]
    transport = one.submit(connect(ours, protocol)).result(PATIENCE)
    for thread in threads:
        thread.start()
    one.submit(call(protocol.go_on)).result(PATIENCE)
    here, there = one, other
    for _ in range(MOVES):
        here.submit(there.adopt(transport)).result(PATIENCE)
        here, there = there, here
        assert not there.connections
        pace.moved()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), (len(heard), len(protocol.received))
    assert protocol.whole.wait(PATIENCE)
    assert protocol.received == numbers(0, count)
    assert heard == numbers(0, count)
    assert protocol.threads == {one.thread_id, other.thread_id}
    here.submit(call(transport.close)).result(PATIENCE)
    assert protocol.lost.wait(PATIENCE)


class Echo(Recorder):
    def data_received(self, data):
        self.data += data
        self.transport.write(data)


def test_a_connection_that_carries_little_at_a_time_loses_nothing(new_iothread, pair):
    """Never so much at once that it is read as bulk: on io_uring a receive is armed at each move, and may have more."""
    one, other = new_iothread("one"), new_iothread("other")
    ours, peer = pair
    protocol = Echo()
    window = 3  # messages on their way
    stop = threading.Event()
    counts = {"sent": 0, "heard": 0}

    def talk():
        while counts["heard"] < counts["sent"] or not stop.is_set():
            while counts["sent"] < counts["heard"] + window and not stop.is_set():
                peer.sendall(numbers(counts["sent"], counts["sent"] + 1))
                counts["sent"] += 1
            if counts["heard"] < counts["sent"]:
                assert read_exactly(peer, 8) == numbers(counts["heard"], counts["heard"] + 1)
                counts["heard"] += 1

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        transport = one.submit(connect(ours, protocol)).result(PATIENCE)
        talking = executor.submit(talk)
        here, there = one, other
        try:
            for _ in range(10 * MOVES):
                here.submit(there.adopt(transport)).result(PATIENCE)
                here, there = there, here
        finally:
            stop.set()
        talking.result(2 * PATIENCE)
    assert protocol.data == numbers(0, counts["sent"])
    here.submit(call(transport.close)).result(PATIENCE)
    protocol.until(lambda it: it.calls[-1][0] == "connection_lost")


def test_many_connections_moved_at_once(new_iothread, fdmon):
    """On io_uring the output of several goes out together, which a move must not tear apart."""
    one, other = new_iothread("one"), new_iothread("other")
    pairs = [tcp_pair() for _ in range(20)]
    protocols = [Recorder() for _ in pairs]

    async def begin():
        for (ours, _), protocol in zip(pairs, protocols, strict=True):
            ours.setblocking(False)
            await connect(ours, protocol)

    async def move(target, round_number):
        # All in one batch: written, and moved before the batch is over.
        async def one_of_them(protocol):
            protocol.transport.write(b"%d," % round_number)
            await target.adopt(protocol.transport)

        await asyncio.gather(*map(one_of_them, protocols))

    with contextlib.ExitStack() as stack:
        for ours, peer in pairs:
            stack.enter_context(ours)
            stack.enter_context(peer)
            peer.settimeout(PATIENCE)
        one.submit(begin()).result(PATIENCE)
        here, there = one, other
        for i in range(20):
            for _, peer in pairs:
                peer.sendall(b"%d;" % i)
            here.submit(move(there, i)).result(PATIENCE)
            here, there = there, here
        out = b"".join(b"%d," % i for i in range(20))
        for (_, peer), protocol in zip(pairs, protocols, strict=True):
            assert read_exactly(peer, len(out)) == out
            protocol.until(lambda it: it.data == out.replace(b",", b";"))
        assert len(here.connections) == 20

        async def end():
            for protocol in protocols:
                protocol.transport.abort()

        here.submit(end()).result(PATIENCE)
        for protocol in protocols:
            protocol.until(lambda it: it.calls[-1][0] == "connection_lost")


def test_one_that_is_paused_stays_paused(iothread, run, pair):
    ours, peer = pair
    protocol = Recorder()

    async def main():
        transport = await connect(ours, protocol)
        peer.sendall(b"first")
        await protocol.until_in_executor(lambda it: it.data == b"first")
        transport.pause_reading()
        peer.sendall(b" second")
        await iothread.adopt(transport)
        peer.sendall(b" third")
        for _ in range(10):
            await iothread.run(asyncio.sleep(0))
        assert protocol.data == b"first"
        assert not transport.is_reading()
        await iothread.run(call(transport.resume_reading))
        await protocol.until_in_executor(lambda it: it.data == b"first second third")

    run(main())
    assert protocol.calls[-1][1] == iothread.thread_id
    iothread.submit(call(protocol.transport.close)).result(PATIENCE)
    protocol.until(lambda it: it.calls[-1][0] == "connection_lost")


def test_the_end_of_the_stream_that_came_while_paused_is_told_there(iothread, run, pair):
    ours, peer = pair
    protocol = Recorder()

    async def main():
        transport = await connect(ours, protocol)
        transport.pause_reading()
        peer.sendall(b"last words")
        peer.shutdown(socket.SHUT_WR)
        for _ in range(10):
            await asyncio.sleep(0)
        await iothread.adopt(transport)
        assert [name for name, *_ in protocol.calls] == ["connection_made"]
        await iothread.run(call(transport.resume_reading))
        await protocol.until_in_executor(lambda it: it.calls[-1][0] == "eof_received")

    run(main())
    assert protocol.data == b"last words"
    assert protocol.where("eof_received") == iothread.thread_id
    iothread.submit(call(protocol.transport.close)).result(PATIENCE)
    protocol.until(lambda it: it.calls[-1][0] == "connection_lost")


def test_the_end_of_the_stream_is_told_once(iothread, run, pair):
    ours, peer = pair
    protocol = Recorder()

    async def main():
        transport = await connect(ours, protocol)
        peer.shutdown(socket.SHUT_WR)
        await protocol.until_in_executor(lambda it: it.calls[-1][0] == "eof_received")
        await iothread.adopt(transport)
        await iothread.run(call(transport.write, b"half closed"))
        assert await asyncio.get_running_loop().run_in_executor(None, read_exactly, peer, 11) == b"half closed"
        for _ in range(10):
            await iothread.run(asyncio.sleep(0))
        await iothread.run(call(transport.close))
        await protocol.until_in_executor(lambda it: it.calls[-1][0] == "connection_lost")

    run(main())
    assert [call[0] for call in protocol.calls] == ["connection_made", "eof_received", "connection_lost"]


def test_output_that_is_queued_is_sent_from_there(iothread, run, pair):
    ours, peer = pair
    protocol = Recorder()
    data = numbers(0, 500_000)

    async def main():
        transport = await connect(ours, protocol)
        transport.set_write_buffer_limits(high=200_000, low=1000)
        transport.write(data)
        assert transport.get_write_buffer_size() > 200_000
        assert protocol.calls[-1][0] == "pause_writing"
        await iothread.adopt(transport)
        assert transport.get_write_buffer_limits() == (1000, 200_000)
        assert transport.is_reading()

    run(main())
    assert read_exactly(peer, len(data)) == data
    protocol.until(lambda it: it.calls[-1][0] == "resume_writing")
    assert protocol.where("resume_writing") == iothread.thread_id
    iothread.submit(call(protocol.transport.close)).result(PATIENCE)
    protocol.until(lambda it: it.calls[-1][0] == "connection_lost")


def test_the_old_threads_batch_has_nothing_more_to_do_with_it(iothread, run, pair):
    """What its batch has written is sent before the move; the rest of the batch, however long, holds up nothing."""
    ours, peer = pair

    async def main():
        loop = asyncio.get_running_loop()
        transport = await connect(ours, Recorder())

        def use_there():
            iothread.submit(call(transport.write, b"new")).result(PATIENCE)
            assert read_exactly(peer, 7) == b"old new"
            used.set_result(None)

        used = loop.create_future()
        loop.call_soon(loop.call_soon, transport.write, b"old ")
        moving = asyncio.ensure_future(iothread.adopt(transport))
        loop.call_soon(loop.call_soon, use_there)  # in one batch: write, move, use
        await moving
        await used
        transport.close()

    run(main())


def test_the_old_loop_does_not_hold_the_file(iothread, run, pair):
    """What a ring has armed keeps a connection open for its peer, although the fd is closed."""
    ours, peer = pair
    protocol = Recorder()

    async def main():
        loop = asyncio.get_running_loop()
        transport = await connect(ours, protocol)
        peer.sendall(b"x")
        await protocol.until_in_executor(lambda it: it.data == b"x")

        def close_there():
            iothread.submit(call(transport.close)).result(PATIENCE)
            ended.append(peer.recv(1))

        ended = []
        moving = asyncio.ensure_future(iothread.adopt(transport))
        loop.call_soon(loop.call_soon, close_there)  # behind the move, in its batch
        await moving
        await protocol.until_in_executor(lambda it: it.calls[-1][0] == "connection_lost")
        assert ended == [b""]

    run(main())


def test_write_eof_with_output_queued_follows_it(iothread, run, pair):
    ours, peer = pair
    protocol = Recorder()
    data = numbers(0, 300_000)

    async def main():
        transport = await connect(ours, protocol)
        transport.write(data)
        transport.write_eof()
        await iothread.adopt(transport)

    run(main())
    assert read_exactly(peer, len(data)) == data
    assert peer.recv(1) == b""
    iothread.submit(call(protocol.transport.close)).result(PATIENCE)
    protocol.until(lambda it: it.calls[-1][0] == "connection_lost")


def test_it_can_be_asked_for_in_connection_made(iothread, run, pair):
    ours, peer = pair
    asked = []

    class Mover(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            asked.append(asyncio.ensure_future(iothread.adopt(transport)))

    protocol = Mover()
    peer.sendall(b"early")

    async def main():
        await connect(ours, protocol)
        await asked[0]
        peer.sendall(b" late")
        await protocol.until_in_executor(lambda it: it.data == b"early late")
        assert protocol.where("connection_made") == threading.get_native_id()

    run(main())
    assert protocol.calls[-1][1] == iothread.thread_id
    iothread.submit(call(protocol.transport.close)).result(PATIENCE)
    protocol.until(lambda it: it.calls[-1][0] == "connection_lost")


@pytest.mark.parametrize("method", ["close", "abort"])
def test_close_and_abort_of_the_old_thread_are_done_in_the_new(iothread, run, pair, method):
    ours, _ = pair
    protocol = Recorder()

    async def main():
        transport = await connect(ours, protocol)
        await iothread.adopt(transport)
        getattr(transport, method)()
        await protocol.until_in_executor(lambda it: it.calls[-1][0] == "connection_lost")

    run(main())
    assert protocol.where("connection_lost") == iothread.thread_id


def test_adopting_what_is_there_already_changes_nothing(iothread, pair):
    ours, peer = pair
    protocol = Recorder()

    async def main():
        transport = await connect(ours, protocol)
        await iothread.adopt(transport)
        peer.sendall(b"x")
        await protocol.until_in_executor(lambda it: it.data == b"x")
        transport.close()
        await protocol.until_in_executor(lambda it: it.calls[-1][0] == "connection_lost")

    iothread.submit(main()).result(PATIENCE)


def test_a_thread_that_stops_closes_what_it_adopted(iothread, run, pair):
    ours, peer = pair
    protocol = Recorder()

    async def main():
        await iothread.adopt(await connect(ours, protocol))

    run(main())
    iothread.stop()
    assert protocol.where("connection_lost") == iothread.thread_id
    assert peer.recv(1) == b""
