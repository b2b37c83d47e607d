"""A ring by the package liburing (python-liburing): found, tried out and set up here. Knows no fd and no handler.

What the package's release 2026.3.30 is like, and what follows from it:

- Its wheel is compiled for its maker's CPU: where that has AVX-512 and this one has not, the first Ring() kills the
  process. So it is tried out in a process of its own first.
- No call lets go of the GIL: sleep() waits for the ring's fd instead of calling the package's waits.
- `cqe.res` raises for a negative result; `cqe[1]` is not the next entry where the queue wraps round.
- Set-up takes flags only. It goes without any: then every thread may use the ring, and its fd wakes whoever polls it.
"""

from __future__ import annotations

import errno
import functools
import importlib
import importlib.metadata
import importlib.util
import itertools
import operator
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from aioqemu_loop.system.process import current_mark, forget_in_child
from aioqemu_loop.system.waiting import wait_readable

# With this go 256 completions, as the native ring has. Memory for rings is limited (RLIMIT_MEMLOCK).
ENTRIES = 128
IGNORED = 0  # user_data of requests whose own completion says nothing
# What was cancelled completes at once, if it can be; this bounds one sleep of a wait for it.
CANCEL_WAIT_NS = 100_000_000
TRIAL_SECONDS = 20.0
GONE = "this io_uring is closed, or belongs to the parent process"
# Everything that is called here or by the floors above, once.
TRIAL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.path.insert(0, sys.argv[1])
import liburing as api
ring, cqe = api.Ring(), api.Cqe()
try:
    api.io_uring_queue_init(4, ring, 0)
except OSError:
    ring = None
if ring is not None:
    api.io_uring_ring_dontfork(ring)
    sqes = api.Sqe(2)
    for sqe in sqes[0], sqes[1]:
        api.io_uring_prep_nop(sqe)
        sqe.user_data = sqe.flags = sqe.opcode
    one, other = api.Sqe(1), api.Sqe(1)
    api.io_uring_prep_poll_multishot(one, 0, 1)
    api.io_uring_prep_poll_add(one, 0, 1)
    api.io_uring_prep_cancel64(other, 5, 0)
    assert api.put_sqe(ring, sqes) and api.put_sqe(ring, one) and api.put_sqe(ring, other)
    assert not api.put_sqe(ring, one)
    assert api.io_uring_sq_ready(ring) == api.io_uring_submit(ring) == 4
    assert api.io_uring_cq_ready(ring) and not api.io_uring_cq_has_overflow(ring)
    api.io_uring_peek_cqe(ring, cqe)
    assert (cqe[0].user_data, cqe[0].res, cqe[0].flags & api.IORING_CQE_F_MORE) == (0, 0, 0)
    api.io_uring_cq_advance(ring, 1)
    api.io_uring_queue_exit(ring)
print("works", api.IOSQE_ASYNC, api.IOSQE_IO_LINK, api.IOSQE_IO_HARDLINK)
"""


class Completion(Protocol):
    """Who is told of the completions of a token. Must bear being told of the same one twice (an exit may interrupt
    it)."""

    def completed(self, token: int, result: int, flags: int) -> None: ...


class Nobody:
    def completed(self, token: int, result: int, flags: int) -> None:
        """Whatever it was: it is over."""


def load() -> Any:
    """The package. Raises ImportError that says why it is missing or cannot be used here. The first call starts a
    process to find that out, and raises OSError where there is none to be had."""
    try:
        spec = importlib.util.find_spec("liburing")
    except ValueError:
        spec = None
    if spec is None or not spec.origin:
        raise ImportError("the package liburing (python-liburing) is not installed")
    reason = _try_out(os.path.dirname(os.path.dirname(spec.origin)))
    if reason is not None:
        raise ImportError(reason)
    return importlib.import_module("liburing")


@functools.cache
def _try_out(directory: str) -> str | None:
    """Why the package in `directory` cannot be used in this process, or None. Raises OSError where no process can be
    had."""
    try:
        release = importlib.metadata.version("liburing")
    except importlib.metadata.PackageNotFoundError:
        release = "(of no known release)"
    command = [sys.executable or "python3", "-I", "-S", "-c", TRIAL, directory]
    try:
        trial = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        return f"the package liburing {release} cannot be tried out in a process of its own: {exc}"
    if trial.stdout.startswith("works"):
        return None
    if trial.returncode < 0:
        died = signal.Signals(-trial.returncode).name
        why = "it was compiled for another kind of CPU" if died == "SIGILL" else "it crashes"
        return f"the package liburing {release} does not work here: {why} ({died})"
    said = trial.stderr.strip().rpartition("\n")[2] or f"exit code {trial.returncode}"
    return f"the package liburing {release} does not work here: {said}"


class Gone:
    """In a forked child, in place of the package and of what lies in a ring's memory: a signal handler may have forked
    in the middle of its use, and the child goes on there."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(GONE)

    def __getitem__(self, i: int) -> Any:
        raise RuntimeError(GONE)


class PackageRing:
    """One ring. Raises ImportError (see load()), or OSError where the kernel refuses it.

    Every use is by alone(), which keeps threads apart; sleep() is not.
    `pending`: token -> who is told of its completions. `told`: how often somebody counted up what he was told of.
    """

    def __init__(self, entries: int = ENTRIES) -> None:
        self.fd = -1
        self.api = load()
        self.entries = entries
        self.pending: dict[int, Completion] = {}
        self.told = 0
        self._doomed: list[int] = []
        self._ring = self.api.Ring()
        self._cqe = self.api.Cqe()
        self._poll = self.api.Sqe(1)
        self._cancel = self.api.Sqe(1)
        self._tokens = itertools.count(1)  # never used twice
        # A signal handler may come while the lock is taken or given back, and uses the ring then.
        self._lock = threading.RLock()
        self._user: int | None = None
        self._mark = current_mark()
        self._init()
        self.fd = self._ring.ring_fd
        forget_in_child.add(self)
        self.api.io_uring_ring_dontfork(self._ring)
        try:
            self.api.io_uring_prep_nop(self._cancel)
            self._cancel.user_data = IGNORED
            self.put(self._cancel)
            self.turn()  # a seccomp profile may deny the use of a ring that could be made
        except BaseException:
            self.close()
            raise

    def _init(self) -> None:
        while True:
            try:
                self.api.io_uring_queue_init(self.entries, self._ring, 0)
                return
            except OSError as exc:
                if exc.errno != errno.ENOMEM or self.entries <= 8:
                    raise
                self.entries //= 2

    def usable(self) -> bool:
        """False once it is closed, and in a forked child."""
        return self.fd >= 0 and self._mark == current_mark()

    def alone(self, work: Callable[..., object], *args: object) -> bool:
        """Call work(*args) while no other thread uses the ring. False, and it was not called, where this thread is at
        it already: then this is a signal handler's doing. Raises RuntimeError where not usable."""
        if not self.usable():
            raise RuntimeError(GONE)
        with self._lock:
            if self.busy_here():
                return False
            self._user = threading.get_ident()
            try:
                work(*args)
            finally:
                self._user = None
        return True

    def busy_here(self) -> bool:
        """Whether this thread is in alone()."""
        return self._user == threading.get_ident()

    def new_token(self) -> int:
        """For `pending`, where whoever puts it there can take it away again."""
        return next(self._tokens)

    def put(self, sqes: Any, queued: list[bool] | None = None) -> None:
        """Queue the package's Sqe(n), its entries side by side; n <= entries. What is in the queue is always
        complete: nothing half-made is submitted where an exception comes in between. Where one does, any(queued) tells
        whether the kernel will see the entries: then what they point to is the kernel's."""
        if queued is None:
            queued = []
        put = operator.methodcaller("put_sqe", self._ring, sqes)
        while True:
            # All of this is C: no signal handler comes between the call and the note that it was made, nor between
            # the look for the package, which is another in a child that one has forked, and the call.
            queued.extend(map(put, map(operator.attrgetter("api"), (self,))))
            if queued[-1]:
                return
            before = self.unsubmitted()
            self._enter()
            if self.unsubmitted() == before:  # the kernel wants its completions taken first
                self.harvest()

    def poll(self, token: int, fd: int, events: int, multishot: bool, queued: list[bool]) -> None:
        """A completion once `fd` has one of these poll events, or an error; `multishot`: and one whenever that
        happens again. `queued`: see put()."""
        prep = self.api.io_uring_prep_poll_multishot if multishot else self.api.io_uring_prep_poll_add
        prep(self._poll, fd, events)
        self._poll.user_data = token
        self.put(self._poll, queued)

    def cancel(self, token: int) -> None:
        """Ask the kernel to end what has this token; its completion tells when, and whether that was in time."""
        self.api.io_uring_prep_cancel64(self._cancel, token, 0)
        self._cancel.user_data = IGNORED
        self.put(self._cancel)

    def cancel_later(self, token: int) -> None:
        """cancel() with the next submit(). For those who are told of a completion, and for signal handlers."""
        self._doomed.append(token)

    def unsubmitted(self) -> int:
        return self.api.io_uring_sq_ready(self._ring) + len(self._doomed)  # type: ignore[no-any-return]

    def submit(self) -> None:
        """Hand over what is queued, in one system call. What the kernel cannot take right now stays."""
        while self._doomed:
            self.cancel(self._doomed[0])
            del self._doomed[0]  # last: asked twice where an exit comes in between, not never
        if self.unsubmitted():
            self._enter()

    def _enter(self) -> None:
        try:
            self.api.io_uring_submit(self._ring)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
                raise

    def has_events(self) -> bool:
        return bool(self.api.io_uring_cq_ready(self._ring) or self.api.io_uring_cq_has_overflow(self._ring))

    def harvest(self) -> None:
        """Take every completion, those that overflowed the queue too."""
        while self.has_events():
            try:
                self.api.io_uring_peek_cqe(self._ring, self._cqe)
            except BlockingIOError:
                return
            entry = self._cqe[0]
            token, flags = entry.user_data, entry.flags
            try:
                result = entry.res
            except OSError as exc:
                result = -(exc.errno or errno.EIO)
            who = self.pending.get(token)
            # The entry is given back last: an exit (KeyboardInterrupt) in between leaves it to the next harvest.
            if who is not None:
                who.completed(token, result, flags)
                if not flags & self.api.IORING_CQE_F_MORE:
                    self.pending.pop(token, None)
            self.api.io_uring_cq_advance(self._ring, 1)

    def turn(self) -> bool:
        """Submit and harvest. False where this thread is at it already."""
        return self.alone(self._turn)

    def _turn(self) -> None:
        self.submit()
        self.harvest()
        self.submit()

    def sleep(self, timeout_ns: int) -> None:
        """Until there are completions, at most `timeout_ns` (-1: without limit), or a signal comes. Without the
        GIL."""
        wait_readable(self.fd, timeout_ns)

    def forget_after_fork(self) -> None:
        """A child would keep alive what the ring holds. Its memory is not in the child (MADV_DONTFORK)."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.api = self._cqe = Gone()

    def close(self) -> None:
        """Ends what is pending, and tells nobody of it: the kernel must not write into memory that is used again."""
        if self.usable():
            self.alone(self._end)

    def _end(self) -> None:
        kept = self.pending
        self.pending = dict.fromkeys(kept, Nobody())
        for token in kept:
            self.cancel(token)
        while self.pending:
            self.submit()
            self.harvest()
            if self.pending:
                self.sleep(CANCEL_WAIT_NS)
        self.fd = -1
        self.api.io_uring_queue_exit(self._ring)

    def __del__(self) -> None:
        self.close()
