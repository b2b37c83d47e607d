"""add_reader, add_writer and their removal; fds that are closed, reused, or cannot be watched."""

import asyncio
import gc
import os
import random
import socket
import tempfile
import time

import pytest


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


class TestCalls:
    def test_a_reader_runs_while_there_is_something_to_read(self, any_loop, turn, pair):
        a, b = pair
        seen = []
        any_loop.add_reader(a, seen.append, "readable")
        turn(any_loop, 2)
        assert seen == []
        b.send(b"x")
        turn(any_loop, 3)
        assert seen == ["readable"] * 3  # level-triggered: nobody read it
        a.recv(10)
        turn(any_loop, 2)
        assert seen == ["readable"] * 3
        any_loop.remove_reader(a)

    def test_a_writer_runs_while_there_is_room(self, any_loop, turn, pair):
        a, b = pair
        seen = []
        any_loop.add_writer(a, seen.append, 1)
        turn(any_loop, 2)
        assert seen == [1, 1]
        while True:
            try:
                a.send(b"x" * 65536)
            except BlockingIOError:
                break
        turn(any_loop, 2)
        assert seen == [1, 1]
        while True:
            try:
                b.recv(1 << 20)
            except BlockingIOError:
                break
        turn(any_loop, 2)
        assert len(seen) >= 3
        any_loop.remove_writer(a)

    def test_an_int_and_an_object_are_the_same_fd(self, any_loop, turn, pair):
        a, b = pair
        seen = []
        any_loop.add_reader(a.fileno(), seen.append, 1)
        any_loop.add_reader(a, seen.append, 2)
        b.send(b"x")
        turn(any_loop)
        assert seen == [2]
        assert any_loop.remove_reader(a.fileno()) is True
        assert any_loop.remove_reader(a) is False

    def test_what_they_return(self, any_loop, pair):
        a, _ = pair
        assert any_loop.add_reader(a, print) is None
        assert any_loop.add_writer(a, print) is None
        assert any_loop.remove_writer(a) is True
        assert any_loop.remove_writer(a) is False
        assert any_loop.remove_reader(a) is True
        assert any_loop.remove_reader(a) is False

    def test_both_on_one_fd_and_removed_one_by_one(self, any_loop, turn, pair):
        a, b = pair
        seen = []
        any_loop.add_reader(a, seen.append, "r")
        any_loop.add_writer(a, seen.append, "w")
        turn(any_loop)
        assert seen == ["w"]
        b.send(b"x")
        turn(any_loop)
        assert sorted(seen) == ["r", "w", "w"]
        any_loop.remove_writer(a)
        seen.clear()
        turn(any_loop)
        assert seen == ["r"]
        any_loop.add_writer(a, seen.append, "w")
        any_loop.remove_reader(a)
        seen.clear()
        turn(any_loop)
        assert seen == ["w"]
        any_loop.remove_writer(a)

    def test_replacing_a_callback_cancels_the_one_that_is_queued(self, any_loop, turn):
        """Both fds are ready in the same turn; the first callback to run replaces the other one's."""
        pairs = [socket.socketpair() for _ in range(2)]
        seen = []

        def read(me):
            seen.append(("old", me))
            other = pairs[1 - me][0]
            any_loop.remove_reader(pairs[me][0])
            any_loop.add_reader(other, seen.append, ("new", 1 - me))

        for i, (a, b) in enumerate(pairs):
            any_loop.add_reader(a, read, i)
            b.send(b"x")
        turn(any_loop)
        assert len(seen) == 1
        turn(any_loop)
        assert seen[1] == ("new", 1 - seen[0][1])
        for a, b in pairs:
            any_loop.remove_reader(a)
            a.close()
            b.close()

    def test_removing_in_its_own_callback(self, any_loop, turn, pair):
        a, b = pair
        seen = []

        def read():
            seen.append(any_loop.remove_reader(a))

        any_loop.add_reader(a, read)
        b.send(b"x")
        turn(any_loop, 3)
        assert seen == [True]

    def test_removing_and_closing_in_its_own_callback(self, any_loop, turn):
        a, b = socket.socketpair()
        with b:

            def read():
                any_loop.remove_reader(a)
                a.close()

            any_loop.add_reader(a, read)
            b.send(b"x")
            turn(any_loop, 2)
            with pytest.raises(OSError):
                b.send(b"the other end is closed")

    def test_removing_and_adding_again_in_its_own_callback(self, any_loop, turn, pair):
        a, b = pair
        seen = []

        def read():
            seen.append(a.recv(1))
            any_loop.remove_reader(a)
            any_loop.add_reader(a, read)

        any_loop.add_reader(a, read)
        b.send(b"abc")
        turn(any_loop, 4)
        assert seen == [b"a", b"b", b"c"]
        any_loop.remove_reader(a)

    def test_removal_by_the_callback_of_another_fd_in_the_same_turn(self, any_loop, turn):
        pairs = [socket.socketpair() for _ in range(10)]
        ran = []

        def read(me):
            ran.append(me)
            for a, _ in pairs:
                any_loop.remove_reader(a)

        for i, (a, b) in enumerate(pairs):
            any_loop.add_reader(a, read, i)
            b.send(b"x")
        turn(any_loop, 2)
        assert len(ran) == 1
        for a, b in pairs:
            a.close()
            b.close()

    def test_end_of_file_and_errors_make_it_readable(self, any_loop, turn):
        a, b = socket.socketpair()
        with a:
            seen = []
            any_loop.add_reader(a, lambda: seen.append(a.recv(10)))
            b.close()
            turn(any_loop)
            assert seen == [b""]
            any_loop.remove_reader(a)

    def test_a_writer_hears_of_a_reader_that_is_gone(self, any_loop, turn):
        read_end, write_end = os.pipe()
        while True:
            os.set_blocking(write_end, False)
            try:
                os.write(write_end, bytes(65536))
            except BlockingIOError:
                break
        seen = []
        any_loop.add_writer(write_end, seen.append, 1)
        turn(any_loop, 2)
        assert seen == []
        os.close(read_end)
        turn(any_loop, 1)
        assert seen == [1]
        any_loop.remove_writer(write_end)
        os.close(write_end)

    def test_many_changes_in_one_turn_end_as_the_last_one_says(self, any_loop, turn):
        rng = random.Random(3)
        pairs = [socket.socketpair() for _ in range(20)]
        seen = []
        wanted = {}
        for _, b in pairs:
            b.send(b"x")

        def change():
            for _ in range(2000):
                i = rng.randrange(20)
                a = pairs[i][0]
                if rng.random() < 0.5:
                    value = rng.random()
                    any_loop.add_reader(a, seen.append, (i, value))
                    wanted[i] = value
                else:
                    assert any_loop.remove_reader(a) is (i in wanted)
                    wanted.pop(i, None)

        any_loop.call_soon(change)
        turn(any_loop)
        seen.clear()
        turn(any_loop)
        assert dict(seen) == wanted and len(seen) == len(wanted)
        for i, (a, b) in enumerate(pairs):
            assert any_loop.remove_reader(a) is (i in wanted)
            a.close()
            b.close()

    def test_it_is_looked_for_after_a_slow_callback_where_those_before_were_quick(self, any_loop, pair):
        """On the strength of quick turns the next three were taken for quick ones, too. On epoll and poll, where a
        blocking connect() in each of them could fill the backlog of the loop's own server and wait for ever."""
        here, there = pair
        seen = []
        any_loop.add_reader(here, lambda: seen.append(here.recv(10)))

        async def main():
            for quick in range(0, 60, 7):
                for _ in range(quick):
                    await asyncio.sleep(0)
                there.send(b"x")
                enough = time.perf_counter() + 0.001
                while time.perf_counter() < enough:
                    pass
                await asyncio.sleep(0)  # looks, and queues the reader behind this task
                await asyncio.sleep(0)
                assert seen == [b"x"]
                seen.clear()

        any_loop.run_until_complete(main())
        any_loop.remove_reader(here)

    def test_five_hundred_at_once(self, any_loop, turn):
        pairs = [socket.socketpair() for _ in range(250)]
        ends = [end for both in pairs for end in both]
        got = {}
        for i, end in enumerate(ends):
            any_loop.add_reader(end, lambda i=i, end=end: got.setdefault(i, end.recv(10)))
        for i, end in enumerate(ends):
            end.send(b"%d" % i)
        turn(any_loop, 10)  # a backend may report them in several goes
        assert got == {i: b"%d" % (i ^ 1) for i in range(500)}
        for end in ends:
            assert any_loop.remove_reader(end)
            end.close()

    def test_callbacks_keep_the_context_in_which_they_were_added(self, any_loop, turn, pair):
        import contextvars

        var = contextvars.ContextVar("var", default=0)
        a, b = pair
        seen = []

        def read():
            seen.append(var.get())
            var.set(var.get() + 1)

        context = contextvars.copy_context()
        context.run(var.set, 10)
        context.run(any_loop.add_reader, a, read)
        b.send(b"x")
        turn(any_loop, 3)
        assert seen == [10, 11, 12]
        assert var.get() == 0
        any_loop.remove_reader(a)


class TestErrors:
    def test_a_closed_fd(self, any_loop, turn):
        a, b = socket.socketpair()
        b.close()
        fd = a.fileno()
        a.close()
        for add in (any_loop.add_reader, any_loop.add_writer):
            with pytest.raises(OSError, match="Bad file descriptor"):
                add(fd, print)
        assert any_loop.remove_reader(fd) is False
        turn(any_loop)

    @pytest.mark.parametrize("bad", [-1, -100])
    def test_a_negative_number(self, any_loop, bad):
        for call in (lambda: any_loop.add_reader(bad, print), lambda: any_loop.add_writer(bad, print)):
            with pytest.raises(ValueError, match=f"^Invalid file descriptor: {bad}$"):
                call()

    @pytest.mark.parametrize("bad", ["0", None, 1.0, object(), []])
    def test_what_is_no_file(self, any_loop, bad):
        for call in (
            lambda: any_loop.add_reader(bad, print),
            lambda: any_loop.add_writer(bad, print),
            lambda: any_loop.remove_reader(bad),
            lambda: any_loop.remove_writer(bad),
        ):
            with pytest.raises(ValueError, match=r"^Invalid file object: "):
                call()

    def test_a_closed_socket_object(self, any_loop):
        a, b = socket.socketpair()
        a.close()
        b.close()
        with pytest.raises(ValueError, match=r"^Invalid file descriptor: -1$"):
            any_loop.add_reader(a, print)

    @pytest.mark.parametrize("write", [False, True], ids=["reader", "writer"])
    def test_a_socket_object_closed_while_it_is_registered_can_be_removed(self, any_loop, turn, write):
        add, remove = any_loop.add_reader, any_loop.remove_reader
        if write:
            add, remove = any_loop.add_writer, any_loop.remove_writer
        a, b = socket.socketpair()
        seen = []
        with b:
            add(a, seen.append, 1)
            a.close()
            assert remove(a) is True
            with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
                remove(a)
            turn(any_loop, 2)
        assert seen == []

    def test_a_registered_socket_object_stays_open_although_nobody_else_has_it(self, any_loop, turn):
        a, b = socket.socketpair()
        a.setblocking(False)
        seen = []
        any_loop.add_reader(a, seen.append, 1)
        number = a.fileno()
        del a
        gc.collect()
        with b:
            b.send(b"x")
            turn(any_loop, 1)
            assert seen == [1]
            with socket.socket(fileno=os.dup(number)) as again:
                assert again.recv(10) == b"x"
            with pytest.warns(ResourceWarning, match="unclosed <socket"):
                any_loop.remove_reader(number)
                gc.collect()

    def test_none_is_not_the_file_of_those_registered_by_number(self, any_loop, turn, pair):
        a, b = pair
        called = []
        any_loop.add_reader(a.fileno(), called.append, 1)
        for remove in (any_loop.remove_reader, any_loop.remove_writer):
            with pytest.raises(ValueError, match="Invalid file object: None"):
                remove(None)
        b.send(b"x")
        turn(any_loop, 2)
        assert called
        any_loop.remove_reader(a.fileno())

    def test_a_number_that_no_fd_has(self, any_loop):
        with pytest.raises(OSError):
            any_loop.add_reader(1 << 29, print)
        with pytest.raises((OverflowError, ValueError)):
            any_loop.add_reader(1 << 40, print)
        assert any_loop.remove_reader(1 << 40) is False
        assert any_loop.remove_writer(1 << 29) is False

    def test_a_regular_file(self, loop, fdmon, turn):
        """poll(2) watches it: always ready. epoll refuses, and so does io_uring here, in the same words."""
        with tempfile.TemporaryFile() as file:
            seen = []
            if fdmon == "poll":
                loop.add_reader(file, seen.append, 1)
                turn(loop, 2)
                assert seen == [1, 1]
                assert loop.remove_reader(file) is True
            else:
                with pytest.raises(PermissionError, match="Operation not permitted"):
                    loop.add_reader(file, seen.append, 1)
                assert loop.remove_reader(file) is False
        turn(loop)

    def test_the_fd_of_a_transport(self, any_loop, pair):
        a, _ = pair

        async def main():
            transport, _ = await any_loop.create_connection(asyncio.Protocol, sock=a)
            fd = transport.get_extra_info("socket").fileno()
            for call in (
                lambda: any_loop.add_reader(fd, print),
                lambda: any_loop.add_writer(fd, print),
                lambda: any_loop.remove_reader(fd),
                lambda: any_loop.remove_writer(fd),
            ):
                with pytest.raises(RuntimeError) as info:
                    call()
                assert str(info.value) == f"File descriptor {fd} is used by transport {transport!r}"
            sock = transport.get_extra_info("socket")
            with pytest.raises(RuntimeError) as info:
                any_loop.add_reader(sock, print)
            assert str(info.value) == f"File descriptor {sock!r} is used by transport {transport!r}"
            transport.close()
            await asyncio.sleep(0)

        any_loop.run_until_complete(main())

    def test_after_close(self, any_loop, pair):
        a, _ = pair
        any_loop.add_reader(a, print)
        any_loop.close()
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            any_loop.add_reader(a, print)
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            any_loop.add_writer(a, print)
        assert any_loop.remove_reader(a) is False
        assert any_loop.remove_writer(a) is False
