"""fdmon "liburing": readiness by a ring of the package python-liburing, in plain Python.

It is there to be read, to be compared with the native io_uring backend, and to carry what loop.submit() runs. Not for
speed.

Invariant: update(), from any thread, only sets what is wanted and puts the watch on `todo`; _fill(), in the thread
that looks, brings the kernel in line with it.

- Every arming is a one-shot poll with a token of its own, armed again by the look after the callbacks. One that was
  cancelled keeps its token until its completion came, so that it never reaches a newer registration.
- An armed poll keeps its file open: settle() cancels and harvests before a close.
- Every thread may use the ring, but what a thread armed ends with it: release() cancels and harvests all of it, and
  where another thread goes on without that, it arms everything anew.
"""

from __future__ import annotations

import errno
import select
import threading
from collections import OrderedDict
from collections.abc import Callable

from aioqemu_loop.fdmon.base import AioHandler, FDMon, ReadyList, check_pollable
from aioqemu_loop.uring.package import CANCEL_WAIT_NS, PackageRing

# Where the kernel did not take everything for now, it is asked again so soon.
RETRY_NS = 1_000_000


_thread = threading.local()


def this_thread() -> object:
    """Something that no other thread ever has; thread identifiers are used again."""
    try:
        return _thread.mark
    except AttributeError:
        _thread.mark = object()
        return _thread.mark


class Watch:
    """One registration."""

    __slots__ = ("armed", "handler", "monitor", "multishot", "token", "version", "wanted")

    def __init__(self, monitor: LiburingFDMon, handler: AioHandler) -> None:
        self.monitor = monitor
        self.handler = handler
        self.wanted = True
        self.version = 0  # counts up when the events or the file changed
        self.armed = 0  # the version that `token` stands for
        self.token = 0  # of what is armed and not cancelled
        self.multishot = False  # see LiburingFDMon._report()

    def completed(self, token: int, result: int, flags: int) -> None:
        self.monitor._polled(self, token, result, flags)


class LiburingFDMon(FDMon):
    """Raises ImportError where the package is missing or does not work here, OSError where the kernel refuses the
    ring.

    keep_ring: called by close() with a ring that has operations of others in flight; it is theirs from then on.
    """

    name = "liburing"

    def __init__(self) -> None:
        self.ring = PackageRing()
        self.keep_ring: Callable[[PackageRing], None] | None = None
        self._watches: dict[AioHandler, Watch] = {}
        self._todo: OrderedDict[Watch, None] = OrderedDict()
        self._held: dict[AioHandler, set[int]] = {}  # tokens that the kernel knows
        self._ready = ReadyList()
        self._parked = False
        self._armed_by: object = None

    def update(self, old: AioHandler | None, new: AioHandler | None) -> None:
        if new is not None and new.events:
            check_pollable(new)
            watch = self._watches.get(new)
            if watch is None:
                watch = self._watches[new] = Watch(self, new)
            watch.version += 1
            self._todo[watch] = None
        if old is not None and (new is not old or not new.events):
            watch = self._watches.pop(old, None)
            if watch is not None:
                watch.wanted = False
                if watch.token:
                    self._todo[watch] = None
                else:  # it must not pile up until the next look
                    self._todo.pop(watch, None)

    def need_wait(self) -> bool:
        if not self.ring.usable():
            return False  # in a forked child the ring's memory is missing
        return bool(self._todo) or self.ring.unsubmitted() > 0 or self.ring.has_events()

    def wait(self, ready_list: ReadyList, timeout_ns: int) -> int:
        self._begin_here()
        found = self._look(ready_list)
        if found == 0 and timeout_ns != 0:
            if self._todo or self.ring.unsubmitted():
                timeout_ns = min(timeout_ns, RETRY_NS) if timeout_ns > 0 else RETRY_NS
            self.ring.sleep(timeout_ns)
            found = self._look(ready_list)
        return found

    def _begin_here(self) -> None:
        """This thread arms from now on."""
        self._parked = False
        me = this_thread()
        if self._armed_by is not me:
            self._armed_by = me
            self._arm_anew()

    def _arm_anew(self) -> None:
        for watch in list(self._watches.values()):
            watch.version += 1
            self._todo[watch] = None

    def _look(self, ready_list: ReadyList) -> int:
        """Hand over what changed, and collect. Returns how much was found."""
        before = len(ready_list) + self.ring.told
        if not self.ring.alone(self._turn, ready_list):
            return 0
        return len(ready_list) + self.ring.told - before

    def _turn(self, ready_list: ReadyList) -> None:
        self._ready = ready_list
        self._fill()
        self.ring.submit()
        self.ring.harvest()

    def _fill(self) -> None:
        for watch in list(self._todo):
            self._reconcile(watch)

    def _reconcile(self, watch: Watch) -> None:
        try:
            if watch.token and (watch.armed != watch.version or not watch.wanted):
                self.ring.cancel(watch.token)
                watch.token = 0
            if watch.wanted and not watch.token and not self._parked:
                self._arm(watch)
            self._todo.pop(watch, None)
        finally:  # not done for now, or changed by another thread meanwhile
            if (watch.armed != watch.version or not watch.token) if watch.wanted else watch.token:
                self._todo[watch] = None

    def _arm(self, watch: Watch) -> None:
        watch.armed = watch.version
        token = self.ring.new_token()
        queued: list[bool] = []
        try:
            self.ring.pending[token] = watch
            watch.token = token
            self._held.setdefault(watch.handler, set()).add(token)
            self.ring.poll(token, watch.handler.fd, watch.handler.events, watch.multishot, queued)
        except BaseException:  # an exit, too: settle() would wait for what the kernel has not
            if not any(queued):
                self.ring.pending.pop(token, None)
                watch.token = 0
                self._let_go(watch.handler, token)
            raise

    def _polled(self, watch: Watch, token: int, result: int, flags: int) -> None:
        goes_on = flags & self.ring.api.IORING_CQE_F_MORE
        if watch.token == token:
            if not goes_on:
                if watch.wanted:
                    self._todo[watch] = None  # first: where an exit comes before it is reported, it is armed again
                watch.token = 0
            if watch.wanted:
                self._report(watch, result)
        if not goes_on:
            self._let_go(watch.handler, token)

    def _let_go(self, handler: AioHandler, token: int) -> None:
        held = self._held.get(handler)
        if held is not None:
            held.discard(token)
            if not held:
                del self._held[handler]

    def _report(self, watch: Watch, result: int) -> None:
        if result < 0 and result != -errno.ECANCELED:
            # The file is gone or refuses. Told once, as poll(2) would, and not armed again.
            gone = result == -errno.EBADF
            self._ready.add(watch.handler, select.POLLNVAL if gone else select.POLLNVAL | select.POLLERR)
            self._todo.pop(watch, None)
            return
        # The kernel always adds POLLRDHUP. A one-shot poll that was not asked for it would complete at once for ever:
        # a multishot poll, which is edge-triggered, waits for more.
        asked = watch.handler.events | select.POLLERR | select.POLLHUP | select.POLLNVAL
        unasked = result > 0 and not result & asked
        if result > 0 and not unasked:
            self._ready.add(watch.handler, result)
        if watch.multishot and not unasked and watch.token:
            watch.version += 1  # the multishot poll is cancelled
        watch.multishot = unasked
        if watch.token == 0 or not unasked:
            self._todo[watch] = None  # level-triggered

    def settle(self, handler: AioHandler, ready_list: ReadyList) -> None:
        while handler in self._held and self.ring.usable() and not self.ring.busy_here():
            self._look(ready_list)
            if handler in self._held:
                self.ring.sleep(CANCEL_WAIT_NS)
        # What was harvested by the way is armed again: an outside main loop may be about to sleep on the ring.
        if self._todo and self.ring.usable():
            self.ring.alone(self._arm_all)

    def _arm_all(self) -> None:
        self._fill()
        self.ring.submit()

    def settled(self, handler: AioHandler) -> bool:
        return handler not in self._held

    def release(self, ready_list: ReadyList) -> None:
        if not self.ring.usable() or self.ring.busy_here():
            return
        self._parked = True
        self._arm_anew()
        while self._held:
            self._look(ready_list)
            if self._held:
                self.ring.sleep(CANCEL_WAIT_NS)

    def close(self) -> None:
        self._watches.clear()
        self._todo.clear()
        if self.ring.usable() and self.ring.pending and self.keep_ring is not None:
            self.keep_ring(self.ring)
        else:
            self.ring.close()

    # -- where an outside main loop sleeps: the ring's fd wakes it --

    def gsource_fds(self) -> list[tuple[int, int]]:
        return [(self.ring.fd, select.POLLIN)]

    def gsource_prepare(self, ready_list: ReadyList) -> bool:
        self._begin_here()
        return self._look(ready_list) > 0 or len(ready_list) > 0 or self.need_wait()

    def gsource_check(self, ready: list[tuple[int, int]]) -> bool:
        return super().gsource_check(ready) or self.need_wait()
