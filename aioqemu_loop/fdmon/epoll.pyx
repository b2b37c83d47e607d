"""fdmon "epoll": epoll(7), ns precision through epoll_pwait2 (Linux 5.11; else ppoll on the epoll fd).

Facts it is built on:
- epoll knows files, not fd numbers. A file closed by its last fd leaves the set by itself; one kept alive by a dup
  keeps reporting, and cannot be removed by the closed number any more. Events carry a token, so such a report finds no
  handler; since it would come for ever, the whole set is then built anew.
- EPOLL_CTL_DEL takes effect at once, so there is nothing to settle.
- An epoll fd is shared with forked children: a child must not change it.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.fcntl cimport fcntl
from posix.time cimport timespec
from posix.unistd cimport close as close_fd

from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, SlotTable
from aioqemu_loop.system.libc cimport *
from aioqemu_loop.system.process cimport process_mark, same_process


cdef extern from "<fcntl.h>" nogil:
    enum: F_DUPFD_CLOEXEC


cdef class EpollFDMon(FDMon):
    name = "epoll"

    def __cinit__(self):
        self.edge = True
        self.costly_changes = True
        self.slots = SlotTable()
        self.mark = process_mark()
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise_errno(errno)

    def __dealloc__(self):
        if self.epfd >= 0:
            close_fd(self.epfd)

    cpdef update(self, AioHandler old, AioHandler new):
        cdef int err = 0
        cdef uint64_t token
        if old is not None and old.mon_token and (new is not old or new.events == 0):
            token = old.mon_token
            # ENOENT and EBADF: the file was closed and has left the set by itself.
            self.control(EPOLL_CTL_DEL, old)
            old.mon_token = 0
            self.slots.free(token)
        if new is None or new.events == 0:
            return
        if new.mon_token:
            err = self.control(EPOLL_CTL_MOD, new)
            if err == 0:
                return
            token = new.mon_token
            new.mon_token = 0
            self.slots.free(token)
            if err != ENOENT:
                raise_errno(err)
            # Another file has this number now. It gets a token of its own: the old file may live on and report.
        new.mon_token = self.slots.alloc(new)
        err = self.control(EPOLL_CTL_ADD, new)
        if err == EEXIST:  # what is left of an earlier registration of the same file and number
            err = self.control(EPOLL_CTL_MOD, new)
        if err:
            token = new.mon_token
            new.mon_token = 0
            self.slots.free(token)
            raise_errno(err)

    cdef int control(self, int op, AioHandler handler) noexcept:
        """Returns 0 or errno."""
        if not same_process(self.mark):
            return 0
        cdef epoll_event event
        event.events = <uint32_t>handler.events
        if handler.edge:
            event.events |= <uint32_t>EPOLLET
        event.data.u64 = handler.mon_token
        self.calls += 1
        return errno if epoll_ctl(self.epfd, op, handler.fd, &event) < 0 else 0

    cpdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef int i, count
        cdef AioHandler handler
        if not same_process(self.mark):
            raise RuntimeError("this epoll set belongs to the parent process")
        if self.fetched:  # by peek()
            count = self.fetched
            self.fetched = 0
        elif timeout_ns == 0:
            count = self.fetch(0)
        else:
            with nogil:
                count = self.fetch(timeout_ns)
        if count < 0:
            if count == -EINTR:
                return 0
            raise_errno(-count)
        for i in range(count):
            handler = self.slots.get(self.events[i].data.u64)
            if handler is not None:
                ready_list.push(handler, <int>self.events[i].events)
            else:
                self.stale = True
        if self.stale:
            self.rebuild()
        return count

    cdef int fetch(self, long long timeout_ns) noexcept nogil:
        """Returns the number of events, or -errno."""
        cdef timespec ts
        cdef pollfd waiting
        cdef int count
        self.calls += 1
        if timeout_ns <= 0:
            count = epoll_wait(self.epfd, self.events, EVENTS_MAX, 0 if timeout_ns == 0 else -1)
            return count if count >= 0 else -errno
        to_timespec(timeout_ns, &ts)
        if not self.no_pwait2:
            count = aio_epoll_pwait2(self.epfd, self.events, EVENTS_MAX, &ts)
            if count >= 0:
                return count
            if errno != ENOSYS and errno != EPERM:  # EPERM: a seccomp profile older than the call
                return -errno
            self.no_pwait2 = True
        self.calls += 1
        waiting.fd = self.epfd
        waiting.events = POLLIN
        count = ppoll(&waiting, 1, &ts, NULL)
        if count > 0:
            count = epoll_wait(self.epfd, self.events, EVENTS_MAX, 0)
        return count if count >= 0 else -errno

    cdef int rebuild(self) except -1:
        """Leave behind files that report for registrations which are gone."""
        cdef int old = self.epfd
        cdef int low
        cdef int fresh = epoll_create1(EPOLL_CLOEXEC)
        cdef set taken = {(<AioHandler>handler).fd for handler in self.slots.handlers if handler is not None}
        while fresh in taken:
            # The number of one that was closed, whose owner may do so again: not ours, then.
            low = fresh
            fresh = fcntl(low, F_DUPFD_CLOEXEC, low + 1)
            close_fd(low)
        if fresh < 0:
            return 0  # EMFILE, ENOMEM: tried again at the next stale report
        self.epfd = fresh
        for handler in self.slots.handlers:
            # A file closed meanwhile cannot be added; it would not have reported either.
            if handler is not None and self.control(EPOLL_CTL_ADD, <AioHandler>handler) in (ENOMEM, ENOSPC):
                close_fd(fresh)
                self.epfd = old
                return 0
        close_fd(old)
        self.gsource_changes += 1
        self.stale = False
        return 0

    cpdef close(self):
        if self.epfd >= 0:
            close_fd(self.epfd)
            self.epfd = -1
        self.slots = SlotTable()

    cpdef list gsource_fds(self):
        return [(self.epfd, POLLIN)]

    cdef bint begin_peek(self, ReadyList ready_list) except -1:
        return same_process(self.mark)

    cdef bint peek(self) noexcept nogil:
        cdef int count = epoll_wait(self.epfd, self.events, EVENTS_MAX, 0)
        self.calls += 1
        if count > 0:
            self.fetched = count
        return count > 0
