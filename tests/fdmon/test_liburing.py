"""fdmon "liburing" besides the contract: packages that cannot be used, the ring's own cases, fork, signals, the end."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import aioqemu_loop
from aioqemu_loop.fdmon import liburing
from aioqemu_loop.fdmon.base import ReadyList
from aioqemu_loop.uring import package

from ..conftest import need_fdmon, open_fds
from ..context.helpers import AtInstruction, Interrupted, in_child, in_thread, run_until, turns

RING = "anon_inode:[io_uring]"  # as /proc calls it


@pytest.fixture
def ours(no_leaks):
    """A context on it."""
    need_fdmon("liburing")
    context = aioqemu_loop.AioContext("liburing")
    yield context
    context.close()


def run_python(code, directory):
    """Run code in a new Python that finds packages in `directory` first; returns its output."""
    path = os.pathsep.join([str(directory), *(entry or os.getcwd() for entry in sys.path)])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.strip()


# -- the package --


@pytest.mark.parametrize(
    "package, reason",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("class Ring: pass", "has no attribute 'Cqe'"),
        ("raise ImportError('no such library')", "no such library"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
    ids=["other CPU", "crash", "old release", "broken", "exits"],
)
def test_a_package_that_does_not_work_is_found_out_without_harm(tmp_path, package, reason):
    (tmp_path / "liburing").mkdir()
    (tmp_path / "liburing" / "__init__.py").write_text(package)
    said = run_python(
        """
        import sys
        import aioqemu_loop
        assert "liburing" not in sys.modules
        reason = aioqemu_loop.fdmons()["liburing"]
        for attempt in range(2):
            try:
                aioqemu_loop.new_event_loop(fdmon="liburing")
            except aioqemu_loop.FDMonUnavailable as exc:
                assert exc.name == "liburing" and exc.reason == reason, exc
        loop = aioqemu_loop.new_event_loop(fdmon="poll")
        try:
            loop.submit(print)
        except aioqemu_loop.FDMonUnavailable as exc:
            assert exc.reason == reason, exc
        loop.close()
        assert "liburing" not in sys.modules
        print(reason)
        """,
        tmp_path,
    )
    assert reason in said


def test_it_is_imported_only_when_it_is_asked_for(tmp_path):
    code = """
        import asyncio, sys
        import aioqemu_loop
        aioqemu_loop.run(asyncio.sleep(0))
        print("liburing" in sys.modules)
    """
    assert run_python(code, tmp_path) == "False"


# -- the ring --


def test_more_completions_than_its_queue_holds(ours):
    # 128 entries, 256 completions; the rest waits in the kernel.
    pipes = [os.pipe() for _ in range(300)]
    seen = []
    for reader, _ in pipes:
        ours.set_fd_handler(reader, lambda reader=reader: seen.append(os.read(reader, 10)))
    turns(ours)
    for _, writer in pipes:
        os.write(writer, b"x")
    run_until(ours, lambda: len(seen) >= 300)
    turns(ours)
    assert len(seen) == 300
    for reader, writer in pipes:
        ours.set_fd_handler(reader)
        os.close(reader)
        os.close(writer)


def test_registrations_that_come_and_go_do_not_pile_up(ours, pair):
    sock, _ = pair()
    for _ in range(1000):
        ours.set_fd_handler(sock, print)
        ours.set_fd_handler(sock)
    assert len(ours.monitor._todo) <= 2
    turns(ours)
    assert not ours.monitor._todo


def test_its_ring_wakes_an_outside_loop_that_sleeps(ours, pair):
    import select

    sock, peer = pair()
    ours.set_fd_handler(sock, print)
    turns(ours, 1)
    poller = select.poll()
    for fd, events in ours.monitor.gsource_fds():
        poller.register(fd, events)
    assert not poller.poll(0)
    threading.Timer(0.05, peer.send, (b"x",)).start()
    assert poller.poll(10_000)
    ours.set_fd_handler(sock)


def test_what_one_thread_armed_another_one_lets_go_of(ours, pair):
    # No other io_uring here can: without SINGLE_ISSUER every thread may enter the ring.
    sock, peer = pair()

    def arm():
        ours.set_fd_handler(sock, print)
        turns(ours, 1)

    in_thread(arm)
    ours.set_fd_handler(sock)
    assert ours.monitor.ring.pending.keys() <= {1, 2}  # at most the context's own eventfd
    sock.close()
    assert peer.recv(1) == b""


def test_what_a_thread_armed_that_is_gone_is_armed_again(ours, pair):
    sock, peer = pair()
    got = []

    def arm():
        ours.set_fd_handler(sock, lambda: got.append(sock.recv(10)))
        turns(ours, 1)

    in_thread(arm)
    peer.send(b"x")
    run_until(ours, lambda: got)
    assert got == [b"x"]
    ours.set_fd_handler(sock)


def test_a_signal_ends_a_wait_without_events(ours):
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        while not seen:
            assert not ours.poll()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_change_registrations(ours, pair):
    sock, _ = pair()
    changes = []

    def change(*_):
        ours.set_fd_handler(sock, print)
        ours.set_fd_handler(sock)
        changes.append(1)

    before = signal.signal(signal.SIGALRM, change)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        other, _ = pair()
        while len(changes) < 30:
            ours.set_fd_handler(other, print)
            turns(ours, 1)
            ours.set_fd_handler(other)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    turns(ours)


@pytest.mark.timeout(120)
def test_a_signal_handler_may_change_registrations_at_every_instruction(ours, pair):
    """It came between taking the ring's lock and noting who has it, and waited for itself for ever."""
    sock, _ = pair()
    other, peer = pair()

    def change():
        ours.set_fd_handler(sock, print)
        ours.set_fd_handler(sock, wait=True)

    for number in itertools.count(1):
        got = []
        at = AtInstruction(number, change, (liburing.__file__, package.__file__))
        with at:
            ours.set_fd_handler(other, lambda got=got: got.append(other.recv(1)))
            peer.send(b"x")
            run_until(ours, lambda got=got: got)
            ours.set_fd_handler(other)
        assert got == [b"x"]
        if at.count < number:
            break
    assert number > 500


@pytest.mark.timeout(120)
def test_a_signal_handler_may_raise_after_every_call(ours):
    """The lock stayed taken where that was between begin() and the caller's try; and a poll that nobody knew of held
    its file, where that was after its entry was queued."""
    for number in itertools.count(1):
        got = []
        other, peer = socket.socketpair()
        ours.set_fd_handler(other, lambda got=got, other=other: got.append(other.recv(1)))
        peer.send(b"x")
        with Interrupted(number, (liburing.__file__, package.__file__)) as interrupted:
            turns(ours, 2)
        run_until(ours, lambda got=got: got)
        turns(ours)
        ours.set_fd_handler(other, wait=True)
        other.close()
        peer.setblocking(False)
        assert peer.recv(1) == b""
        peer.close()
        if interrupted.beyond:
            break
    assert number > 50


def test_threads_register_while_another_one_polls(ours):
    """Every registration works in the end, whatever it came in between."""
    over = threading.Event()
    failures = []

    def work():
        try:
            for _ in range(100):
                reader, writer = os.pipe()
                came = threading.Event()
                ours.set_fd_handler(reader, lambda reader=reader, came=came: (os.read(reader, 1), came.set()))
                os.write(writer, b"x")
                assert came.wait(10)
                ours.set_fd_handler(reader, wait=True)
                os.close(reader)
                os.close(writer)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]

    def watch():
        for thread in threads:
            thread.join()
        over.set()
        ours.notify()

    for thread in threads:
        thread.start()
    threading.Thread(target=watch, daemon=True).start()
    while not over.is_set():
        ours.poll()
    assert not failures


# -- fork --


def test_a_child_holds_nothing_of_the_ring_and_cannot_use_it(ours, pair):
    sock, peer = pair()
    got = []
    ours.set_fd_handler(sock, lambda: got.append(sock.recv(10)))
    turns(ours)
    maps = Path("/proc/self/maps")

    def child():
        try:
            ours.monitor.wait(ReadyList(), 0)
        except RuntimeError:
            held = [name for name in open_fds() if RING in name]
            held += [line for line in maps.read_text().splitlines() if RING in line]
            ours.monitor.settle(None, ReadyList())
            ours.monitor.release(ReadyList())
            ours.close()
            return f"refused {held} {ours.monitor.need_wait()}"
        return "no error"

    assert RING in maps.read_text()
    assert in_child(child) == "refused [] False"
    peer.send(b"x")
    run_until(ours, lambda: got)
    ours.set_fd_handler(sock)


def test_a_signal_handler_may_fork_after_every_call(ours):
    """The child went on in the middle of the ring's use, and died of it: the ring's memory is not there."""
    files = (liburing.__file__, package.__file__)
    parent = os.getpid()

    def profile(frame, event, arg):
        nonlocal left, child
        if frame.f_code.co_filename in files and event in ("return", "c_return"):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                child = os.fork()

    def take():
        with contextlib.suppress(BlockingIOError):  # the other process had it
            sock.recv(1)

    sock, peer = socket.socketpair()
    sock.setblocking(False)
    with sock, peer:
        for number in itertools.count(1, 2):
            left, child = number, None
            peer.send(b"x")
            ours.set_fd_handler(sock, take)
            sys.setprofile(profile)
            try:
                turns(ours, 2)
                ended = "went on"
            except RuntimeError as exc:
                ended = str(exc)
            except BaseException as exc:
                ended = repr(exc)
            finally:
                sys.setprofile(None)
                if os.getpid() != parent:
                    os._exit(ended != "went on" and "parent process" not in ended and "another process" not in ended)
            assert ended == "went on"
            ours.set_fd_handler(sock, wait=True)
            if child is None:
                break
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert number > 50


# -- the end --


def test_one_that_is_dropped_without_close_gives_everything_back(no_leaks, pair):
    need_fdmon("liburing")
    sock, peer = pair()
    context = aioqemu_loop.AioContext("liburing")
    context.set_fd_handler(sock, print)
    turns(context)
    del context
    gc.collect()
    sock.close()
    assert peer.recv(1) == b""


def test_a_closed_one_says_so(no_leaks):
    need_fdmon("liburing")
    context = aioqemu_loop.AioContext("liburing")
    monitor = context.monitor
    context.close()
    monitor.close()  # nothing more
    with pytest.raises(RuntimeError, match="closed"):
        monitor.wait(ReadyList(), 0)
    assert not monitor.need_wait()


def test_python_ends_with_an_open_loop_and_operations_in_flight(tmp_path):
    need_fdmon("liburing")
    code = """
        import os, warnings
        import aioqemu_loop, liburing
        warnings.simplefilter("ignore")
        kept = []
        for fdmon in ("liburing", "epoll"):
            loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
            reader, writer = os.pipe()
            loop.add_reader(reader, print)
            reading = loop.submit(liburing.io_uring_prep_read, reader, bytearray(10))
            loop.call_soon(loop.stop)
            loop.run_forever()
            if fdmon == "epoll":
                kept.append((loop, reading))
        del loop, reading
        print("end")
    """
    assert run_python(code, tmp_path) == "end"


def test_a_ring_that_memory_is_short_for_is_smaller(no_leaks, monkeypatch):
    need_fdmon("liburing")
    import liburing

    real = liburing.io_uring_queue_init

    def short(entries, ring, flags):
        if entries > 16:
            raise OSError(errno.ENOMEM, "no memory")
        return real(entries, ring, flags)

    monkeypatch.setattr(liburing, "io_uring_queue_init", short)
    context = aioqemu_loop.AioContext("liburing")
    assert context.monitor.ring.entries == 16
    context.close()
    monkeypatch.setattr(liburing, "io_uring_queue_init", lambda *_: short(17, None, 0))
    with pytest.raises(aioqemu_loop.FDMonUnavailable, match="RLIMIT_MEMLOCK"):
        aioqemu_loop.AioContext("liburing")
