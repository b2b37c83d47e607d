"""io_uring that cannot be had: "auto" goes on to epoll, the name raises, fdmons() says why (facts 5 and 6).

Each test runs in a forked child, which takes its own rights away: memory limits do not count for root, and a
seccomp filter stays for good.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import time

import pytest

import aioqemu_loop
from aioqemu_loop import AioContext, FDMonUnavailable
from aioqemu_loop.context.fdmons import BACKENDS

from ..context.helpers import in_child, in_thread

# On every architecture.
IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
RET_ERRNO, RET_ALLOW = 0x00050000, 0x7FFF0000


def deny(error: int, number: int = IO_URING_SETUP) -> None:
    """Make a system call fail with `error` in this process, as a container's seccomp profile does."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the system call
            (0x15, 0, 1, number),  # if it is not this one, skip the next
            (0x06, 0, 0, RET_ERRNO | error),
            (0x06, 0, 0, RET_ALLOW),
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def what_is_had() -> str:
    """auto's choice; what the name says; what fdmons() says."""
    context = AioContext()
    chosen = context.fdmon
    context.poll(False)
    context.close()
    try:
        AioContext("io_uring").close()
        named = "io_uring works"
    except FDMonUnavailable as exc:
        named = f"{exc.name}: {exc}"
    return f"{chosen} | {named} | {aioqemu_loop.fdmons()}"


@pytest.mark.parametrize(
    "number", [IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER], ids=["setup", "enter", "register"]
)
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS, errno.EACCES], ids=errno.errorcode.get)
def test_denied_by_seccomp(error, number):
    """Rings that could be made and not used were chosen by "auto", and the loop could not run."""

    def child():
        try:
            deny(error, number)
        except OSError as exc:
            return f"no seccomp here: {exc}"
        return what_is_had()

    text = in_child(child)
    if text.startswith("no seccomp"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    chosen, named, table = text.split(" | ")
    assert chosen == "epoll"
    assert named.startswith("io_uring: ") and errno.errorcode[error] in named
    reasons = eval(table)
    assert errno.errorcode[error] in reasons.pop("io_uring")
    liburing = reasons.pop("liburing")
    if aioqemu_loop.fdmons()["liburing"] is None:  # which registers nothing, and is tried out once in a process
        assert liburing is None if number == IO_URING_REGISTER else errno.errorcode[error] in liburing
    assert (reasons["epoll"], reasons["poll"]) == (None, None)


def test_denied_to_a_loop_that_asks_by_name():
    def eventfds():
        with os.scandir("/proc/self/fd") as entries:
            return sum("eventfd" in os.readlink(entry.path) for entry in entries)

    def child():
        before = eventfds()
        deny(errno.EPERM)
        try:
            aioqemu_loop.new_event_loop(fdmon="io_uring")
        except FDMonUnavailable as exc:
            return f"{'seccomp' in exc.reason} {eventfds() - before}"
        return "no error"

    assert in_child(child) == "True 0"


def unprivileged(limit: int) -> None:
    """Become a user that has no ring yet, with RLIMIT_MEMLOCK `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    uid = 54321 + os.getpid() % 10_000
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_without_any_lockable_memory():
    def child():
        unprivileged(0)
        return what_is_had()

    chosen, named, table = in_child(child).split(" | ")
    assert chosen == "epoll"
    assert named.startswith("io_uring: ") and "RLIMIT_MEMLOCK" in named and "ENOMEM" in named
    assert "RLIMIT_MEMLOCK" in eval(table)["io_uring"]


@needs_root
def test_with_64_kib_of_lockable_memory():
    # Debian's old default. The first loops get rings, smaller ones in the end; those after that get epoll.
    def child():
        unprivileged(64 * 1024)
        contexts = [AioContext() for _ in range(30)]
        names = [context.fdmon for context in contexts]
        for context in contexts:
            ran = []
            context.bh_schedule_oneshot(lambda ran=ran: ran.append(1))
            context.poll()
            assert ran == [1]
            context.close()
        return names

    names = eval(in_child(child))
    assert names[0] == "io_uring"
    assert names == sorted(names, reverse=True)  # "io_uring" ..., then "epoll" ...
    assert names[-1] == "epoll"


@needs_root
def test_a_ring_is_halved_until_it_fits():
    ring_class = type(BACKENDS["io_uring"]().ring)

    def child():
        unprivileged(64 * 1024)
        ring = ring_class(1024)
        return f"{ring.sq_entries} {ring.cq_entries}"

    entries, completions = map(int, in_child(child).split())
    assert 8 <= entries < 1024
    assert completions == 4 * entries


@needs_root
def test_memory_of_closed_rings_is_waited_for():
    # The kernel gives it back 20 to 40 ms after the close; making loop after loop must not fail. On a busy machine its
    # worker may be late now and then; 60 ms are waited for it.
    def child():
        unprivileged(256 * 1024)
        waited = []
        closed = 0.0
        for _ in range(100):
            try:
                context = AioContext("io_uring")
            except FDMonUnavailable:
                waited.append(time.monotonic() - closed)
                time.sleep(0.1)
                continue
            context.poll(False)
            closed = time.monotonic()
            context.close()
        return waited

    waited = eval(in_child(child))
    assert len(waited) < 10
    assert all(seconds >= 0.06 for seconds in waited)


def test_without_a_free_fd():
    def child():
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
        taken = []
        try:
            while True:
                taken.append(os.dup(2))
        except OSError:
            pass
        outcome = []
        for _ in range(3):
            for name in ("auto", "io_uring"):
                try:
                    context = AioContext(name)
                    outcome.append(context.fdmon)
                    context.close()
                except FDMonUnavailable as exc:
                    outcome.append("EMFILE" in str(exc))
                except OSError as exc:
                    outcome.append(exc.errno)
            os.close(taken.pop())
        return outcome

    # None free: not even the eventfd. One: the eventfd, and poll needs no more. Two: a ring.
    emfile = errno.EMFILE
    assert eval(in_child(child)) == [emfile, emfile, "poll", True, "io_uring", "io_uring"]


def test_a_monitor_in_use_goes_on_when_the_next_one_is_denied():
    def child():
        context = AioContext("io_uring")
        context.poll(False)
        deny(errno.EPERM)
        ran = []
        context.bh_schedule_oneshot(lambda: ran.append(1))
        context.poll()
        context.set_fdmon("epoll")
        try:
            context.set_fdmon("io_uring")
        except FDMonUnavailable:
            ran.append(context.fdmon)
        context.bh_schedule_oneshot(lambda: ran.append(2))
        context.poll()
        context.close()
        return ran

    assert in_child(child) == "[1, 'epoll', 2]"


def test_a_ring_that_changes_threads_while_new_ones_are_denied_says_so():
    # The new thread needs a ring of its own. An error is right, a hang or silence is not.
    def child():
        context = AioContext("io_uring")
        context.poll(False)
        deny(errno.EPERM)

        def other():
            try:
                context.poll(False)
            except OSError as exc:
                return exc.errno
            return context.fdmon

        return in_thread(other)

    assert in_child(child) in (str(errno.EPERM), "epoll")
