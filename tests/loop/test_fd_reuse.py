"""Fds that are closed and reused, and monitors that are switched, under readers and writers."""

import asyncio
import os
import socket
import threading

import pytest

import aioqemu_loop


class TestReuse:
    def test_an_fd_closed_without_removal_does_not_report_any_more(self, any_loop, turn):
        a, b = socket.socketpair()
        seen = []
        fd = a.fileno()
        any_loop.add_reader(fd, seen.append, 1)
        turn(any_loop)
        a.close()
        b.close()
        turn(any_loop, 3)
        assert any_loop.remove_reader(fd) in (True, False)
        count = len(seen)
        turn(any_loop, 3)
        assert len(seen) == count

    def test_the_number_reused_belongs_to_the_new_file(self, loop, turn):
        a, b = socket.socketpair()
        fd = a.fileno()
        seen = []
        loop.add_reader(fd, seen.append, "old")
        turn(loop)
        a.close()
        c, d = socket.socketpair()
        new = c if c.fileno() == fd else d
        other = d if new is c else c
        assert new.fileno() == fd
        loop.add_reader(fd, seen.append, "new")
        turn(loop, 2)
        assert seen == []
        other.send(b"x")
        turn(loop)
        assert seen == ["new"]
        b.close()
        turn(loop)
        assert seen == ["new", "new"]
        loop.remove_reader(fd)
        c.close()
        d.close()

    def test_a_duplicate_keeps_the_old_file_alive_but_not_its_callback(self, loop, turn):
        """epoll goes on reporting a file whose registered number is closed; nobody may be called for it."""
        a, b = socket.socketpair()
        fd = a.fileno()
        duplicate = os.dup(fd)
        seen = []
        loop.add_reader(fd, seen.append, "old")
        turn(loop)
        a.close()
        loop.remove_reader(fd)
        b.send(b"x")
        turn(loop, 3)
        assert seen == []
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
        assert seen == []
        os.close(duplicate)
        b.close()


class TestSwitching:
    def test_the_monitor_is_switched_while_data_flows(self, loop):
        """Nothing is lost, doubled or left behind in a hundred switches with readers and writers at work."""
        pairs = [socket.socketpair() for _ in range(20)]
        total = 200_000
        received = [bytearray() for _ in pairs]
        sent = [0] * len(pairs)
        pattern = bytes(range(256)) * ((total >> 8) + 1)
        names = ["poll", "epoll", "io_uring"]
        used = []

        def read(i, sock):
            data = sock.recv(5000)
            received[i] += data
            stop_at_the_end()

        def write(i, sock):
            sent[i] += sock.send(pattern[sent[i] : min(total, sent[i] + 3000)])
            if sent[i] == total:
                loop.remove_writer(sock)

        def switch():
            loop.context.set_fdmon(names[len(used) % 3])
            used.append(loop.fdmon)
            if len(used) < 100:
                loop.call_soon(switch)
            stop_at_the_end()

        def stop_at_the_end():
            if len(used) == 100 and sum(map(len, received)) == total * len(pairs):
                loop.stop()

        for i, (a, b) in enumerate(pairs):
            a.setblocking(False)
            b.setblocking(False)
            loop.add_reader(a, read, i, a)
            loop.add_writer(b, write, i, b)
        loop.call_soon(switch)
        loop.run_forever()
        assert used == (names * 34)[:100]
        assert all(bytes(data) == pattern[:total] for data in received)
        for a, b in pairs:
            loop.remove_reader(a)
            a.close()
            b.close()

    @pytest.mark.parametrize("name", ["io_uring", "epoll", "poll"])
    def test_a_loop_that_never_ran_can_be_switched_there_and_back(self, loop, fdmon, name):
        """What the first monitor had noted but not yet done must not keep a handler from the last one."""
        loop.context.set_fdmon(name)
        loop.context.set_fdmon(fdmon)
        thread = threading.Timer(0.05, loop.call_soon_threadsafe, (loop.stop,))
        thread.start()
        loop.run_forever()
        thread.join()

    def test_a_wake_up_from_a_thread_arrives_after_a_switch(self, loop):
        for name in ("poll", "io_uring", "epoll", "poll", "epoll", "io_uring"):
            loop.context.set_fdmon(name)
            thread = threading.Timer(0.01, loop.call_soon_threadsafe, (loop.stop,))
            thread.start()
            loop.run_forever()
            thread.join()
            assert loop.fdmon == name

    def test_a_connection_goes_on_over_a_switch(self, loop):
        async def main():
            async def echo(reader, writer):
                while data := await reader.read(10_000):
                    writer.write(data)
                    await writer.drain()
                writer.close()

            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for i in range(60):
                loop.context.set_fdmon(("poll", "epoll", "io_uring")[i % 3])
                message = b"%d" % i * 2000
                writer.write(message)
                assert await asyncio.wait_for(reader.readexactly(len(message)), 10) == message
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        loop.run_until_complete(main())


class Losing(asyncio.Protocol):
    def __init__(self):
        self.lost = []

    def connection_lost(self, exc):
        self.lost.append(exc)


class TestNumbersOfOurOwnFiles:
    """A monitor's own file must not get the number of a file that was closed while somebody is registered by it."""

    @pytest.mark.parametrize("name", ["epoll", "io_uring", "poll"])
    def test_switching_after_a_cancelled_sock_recv_whose_socket_is_closed(self, loop, turn, name):
        """The new epoll set got the number of the registration that was kept for the next sock_recv(): EINVAL."""
        left, right = socket.socketpair()
        left.setblocking(False)
        task = loop.create_task(loop.sock_recv(left, 1))
        turn(loop)
        task.cancel()
        turn(loop, 2)
        left.close()
        loop.context.set_fdmon(name)
        assert loop.fdmon == name
        right.close()

    @pytest.mark.parametrize("name", ["epoll", "io_uring"])
    def test_switching_with_a_transport_whose_fd_was_closed(self, loop, turn, name):
        """It closed the new monitor's file at its end, and the loop could not run any more: EBADF."""
        ours, peer = socket.socketpair()
        protocol = Losing()
        transport, _ = loop.run_until_complete(loop.create_unix_connection(lambda: protocol, sock=ours))
        os.close(ours.fileno())
        loop.context.set_fdmon(name)
        transport.abort()
        turn(loop, 3)
        assert [getattr(exc, "errno", None) for exc in protocol.lost] == [9]
        assert loop.run_until_complete(asyncio.sleep(0.01, "alive")) == "alive"
        peer.close()

    def test_a_file_that_got_the_number_unbeknownst_is_not_closed(self, loop, turn):
        """A socket's transport that finds no socket by its number lets it alone."""
        ours, peer = socket.socketpair()
        protocol = Losing()
        transport, _ = loop.run_until_complete(loop.create_unix_connection(lambda: protocol, sock=ours))
        number = ours.fileno()
        os.close(number)
        other = os.open("/dev/null", os.O_RDWR)
        assert other == number
        transport.write(b"x")
        turn(loop, 3)
        assert len(protocol.lost) == 1
        os.fstat(other)
        os.close(other)
        peer.close()

    def test_the_epoll_set_that_is_built_anew(self, turn, no_leaks):
        """It got the number of another file that was closed behind its owner's back, who closed it once more: EBADF."""
        loop = aioqemu_loop.new_event_loop(fdmon="epoll")
        transports, peers = [], []
        for _ in range(2):
            ours, peer = socket.socketpair()
            transport, _ = loop.run_until_complete(loop.create_unix_connection(Losing, sock=ours))
            transports.append(transport)
            peers.append(peer)
        numbers = [transport.get_extra_info("socket").fileno() for transport in transports]
        duplicates = [os.dup(number) for number in numbers]
        for number in numbers:
            os.close(number)
        peers[1].send(b"x")  # reported as long as the duplicate is open: the set is built anew
        turn(loop, 5)
        transports[0].abort()
        turn(loop, 3)
        assert loop.run_until_complete(asyncio.sleep(0.01, "alive")) == "alive"
        for peer in peers:
            peer.close()
        for duplicate in duplicates:
            os.close(duplicate)
        loop.set_exception_handler(lambda *_: None)  # the socket object that is closed no more
        turn(loop, 3)
        loop.close()
