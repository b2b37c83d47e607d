"""loop.submit(): any operation that python-liburing can prepare, on the ring of fdmon "liburing" or on one of its own.

On other monitors the ring is made by the first submit(), and its fd is watched as QEMU's block/io_uring.c once did.
What is submitted in a turn goes to the kernel in one system call. Until the kernel's last word about it an operation
keeps its arguments alive and its future undone: nobody can free or reuse a buffer that is still written to.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from aioqemu_loop.context.fdmons import why_unusable
from aioqemu_loop.fdmon.base import FDMonUnavailable
from aioqemu_loop.fdmon.liburing import LiburingFDMon
from aioqemu_loop.uring.package import CANCEL_WAIT_NS, PackageRing

if TYPE_CHECKING:
    from aioqemu_loop.loop.loop import Loop

# (prep, *args): what is called with a fresh submission queue entry before them.
Call = Sequence[Any]
# What a link of a chain came to.
Outcome: TypeAlias = "int | OSError"

# Those whose result is a new file descriptor; the kernel's numbers (IORING_OP_ACCEPT, _OPENAT, _OPENAT2, _SOCKET).
OPENS_FILE = frozenset((13, 18, 28, 45))


class OperationFuture(asyncio.Future[Any]):
    """Cancelling only asks the kernel to end the operation, and takes effect when it has."""

    chain: Chain | None = None

    def cancel(self, msg: Any = None) -> bool:
        if self.done() or self.chain is None:
            return False
        self.chain.cancel(msg)
        return True

    def set_cancelled(self, message: Any) -> None:
        super().cancel(message)


class Operation:
    """One entry of a chain."""

    def __init__(self, chain: Chain, opens_file: bool) -> None:
        self.chain = chain
        self.opens_file = opens_file
        self.result: int | None = None
        self.more_files: list[int] = []
        self.over = False

    def completed(self, token: int, result: int, flags: int) -> None:
        ring = self.chain.ring
        # Where it is told of the same completion twice, the file is the same, too: it is open until it is over.
        if self.result is None:
            self.result = result
        elif self.opens_file and result >= 0 and not self.over and result not in (self.result, *self.more_files):
            self.more_files.append(result)
        if flags & ring.api.IORING_CQE_F_MORE:
            # It would go on (multishot), and one result was asked for. A zero-copy send only has to tell when the
            # buffer is free.
            ring.cancel_later(token)
            return
        if not self.over:
            self.over = True
            ring.told += 1
        while self.more_files:
            # No call in between, after which an exit might come: each is closed once.
            file = self.more_files[-1]
            del self.more_files[-1]
            os.close(file)
        self.chain.one_is_over()

    def outcome(self) -> Outcome:
        result = self.result or 0
        return result if result >= 0 else OSError(-result, os.strerror(-result))

    def discard(self) -> None:
        """Nobody gets the result: a file that was opened is closed."""
        if self.opens_file and self.result is not None and self.result >= 0:
            file, self.result = self.result, -errno.ECANCELED
            os.close(file)


class Chain:
    """Operations that were submitted together: one, or several that are linked. Raises what a prep function raises."""

    def __init__(self, owner: Operations, ring: PackageRing, calls: Sequence[Call], link: int | None) -> None:
        """Prepares and queues them. Raises RuntimeError inside a signal handler that interrupted the use of the
        ring."""
        self.owner = owner
        self.ring = ring
        self.single = link is None
        self.future = OperationFuture(loop=owner.loop)
        self.future.chain = self
        self.kept: list[Any] = []  # arguments, which the kernel may read and write
        self.pins: list[memoryview] = []  # a bytearray cannot be resized meanwhile
        self.cancel_asked = False
        self.cancel_message: Any = None
        self.operations: dict[int, Operation] = {}  # by token
        queued: list[bool] = []
        try:
            sqes = self._prepare(calls, link or 0)
            if not ring.alone(ring.put, sqes, queued):
                raise RuntimeError("submit() cannot be called by a signal handler of signal.signal()")
        except BaseException:
            if any(queued):  # an exit: the kernel has it, and nobody the future
                self.cancel()
            else:
                for token in self.operations:
                    ring.pending.pop(token, None)
                self._let_go()
            raise

    def _prepare(self, calls: Sequence[Call], link: int) -> Any:
        api = self.ring.api
        sqes = api.Sqe(len(calls))
        for i, (prep, *args) in enumerate(calls):
            # The package would read a path from an object that nobody keeps.
            args = [os.fspath(arg) if isinstance(arg, os.PathLike) else arg for arg in args]
            self.kept.append(args)
            self.pins.extend(memoryview(arg) for arg in args if isinstance(arg, bytearray))
            sqe = sqes[i]
            prep(sqe, *args)
            if sqe.flags & ~api.IOSQE_ASYNC:
                raise ValueError("of the flags of an entry only IOSQE_ASYNC may be set")
            if i + 1 < len(calls):
                sqe.flags |= link
            operation = Operation(self, sqe.opcode in OPENS_FILE)
            sqe.user_data = token = self.ring.new_token()
            self.operations[token] = operation
            self.ring.pending[token] = operation
        return sqes

    def one_is_over(self) -> None:
        if not self.future.done() and all(operation.over for operation in self.operations.values()):
            self._let_go()
            self._resolve()
            self.future.chain = None
            self.operations.clear()

    def _resolve(self) -> None:
        if self.cancel_asked:
            for operation in self.operations.values():
                operation.discard()
            self.future.set_cancelled(self.cancel_message)
            return
        outcomes = [operation.outcome() for operation in self.operations.values()]
        if not self.single:
            self.future.set_result(outcomes)
        elif isinstance(outcomes[0], OSError):
            self.future.set_exception(outcomes[0])
        else:
            self.future.set_result(outcomes[0])

    def cancel(self, message: Any = None) -> None:
        self.cancel_asked = True
        self.cancel_message = message
        if self.ring.usable():
            for token, operation in self.operations.items():
                if not operation.over:
                    self.ring.cancel_later(token)  # this may be a signal handler, in the middle of the ring's use
            self.owner.submitted(self.ring)

    def _let_go(self) -> None:
        for pin in self.pins:
            pin.release()
        self.pins.clear()
        self.kept.clear()


class Operations:
    """What a loop has submitted, and the rings that carry it. By the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._rings: list[PackageRing] = []  # those that no monitor looks at; the last one takes what is new
        self._flush_queued = False

    def submit(self, call: Call) -> asyncio.Future[Any]:
        return self._start(self._ring(), [call], None)

    def submit_linked(self, calls: Sequence[Call], hard: bool) -> asyncio.Future[Any]:
        if not calls:
            raise ValueError("there is no operation to submit")
        ring = self._ring()
        if len(calls) > ring.entries:
            raise ValueError(f"at most {ring.entries} operations can be linked, not {len(calls)}")
        return self._start(ring, calls, ring.api.IOSQE_IO_HARDLINK if hard else ring.api.IOSQE_IO_LINK)

    def _start(self, ring: PackageRing, calls: Sequence[Call], link: int | None) -> asyncio.Future[Any]:
        chain = Chain(self, ring, calls, link)
        try:
            self.submitted(ring)
        except BaseException:  # an exit: nobody has the future
            chain.cancel()
            raise
        return chain.future

    def submitted(self, ring: PackageRing) -> None:
        """There are entries to hand over. A monitor does that with its next look, which comes before any sleep."""
        if self.loop.context.closed:
            return  # close() sees to them
        if ring not in self._rings:
            self.loop.context.notify()
        elif not self._flush_queued:
            self.loop.call_soon(self._flush)
            self._flush_queued = True  # last: it comes twice where an exit comes in between, not never

    def _ring(self) -> PackageRing:
        monitor = self.loop.context.monitor
        if isinstance(monitor, LiburingFDMon):
            monitor.keep_ring = self._inherit
            return monitor.ring
        if not self._rings:
            try:
                self._look_after(PackageRing())
            except (OSError, ImportError) as exc:
                raise FDMonUnavailable("liburing", why_unusable(exc)) from exc
        return self._rings[-1]

    def _look_after(self, ring: PackageRing) -> None:
        self.loop.context.set_fd_handler(ring.fd, functools.partial(self._look, ring))
        self._rings.append(ring)

    def _inherit(self, ring: PackageRing) -> None:
        """A monitor is given up whose ring has operations in flight."""
        try:
            self._look_after(ring)
        except (OSError, RuntimeError):  # the new monitor cannot, or the context is closed
            self._finish(ring)
            ring.close()

    def _flush(self) -> None:
        self._flush_queued = False
        for ring in list(self._rings):
            self._look(ring)

    def _look(self, ring: PackageRing) -> None:
        try:
            ring.turn()
        except BaseException:  # an exit: there may be more to hand over
            self.submitted(ring)
            raise
        if not ring.pending and ring is not self._rings[-1]:
            self._drop(ring)

    def _drop(self, ring: PackageRing) -> None:
        self._rings.remove(ring)
        if not self.loop.context.closed:
            self.loop.context.set_fd_handler(ring.fd)
        ring.close()

    def _finish(self, ring: PackageRing) -> None:
        """End what is in flight. What the kernel cannot cancel, as a read that a disk is at, is waited for."""
        chains = {who.chain for who in ring.pending.values() if isinstance(who, Operation)}
        for chain in chains:
            chain.cancel()
        while True:
            ring.turn()
            if all(chain.future.done() for chain in chains):
                return
            ring.sleep(CANCEL_WAIT_NS)

    def close(self) -> None:
        """The loop is about to be closed: all futures are done after this."""
        monitor = self.loop.context.monitor
        if isinstance(monitor, LiburingFDMon) and monitor.ring.usable():
            self._finish(monitor.ring)
        for ring in list(self._rings):
            if ring.usable():
                self._finish(ring)
                self._drop(ring)
