"""fdmon "poll": ppoll(2), ns precision. Works everywhere and watches what epoll refuses (regular files).

Invariant: `watched` is the interest set and may change at any time, in other threads too; the kernel only ever sees
`scratch`, a copy made for one system call and read right after it. A thread that changes the set while another one
sleeps in ppoll must notify that one (AioContext does).
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport timespec

from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, SlotTable, check_fd
from aioqemu_loop.system.libc cimport EINTR, POLLERR, POLLHUP, POLLNVAL, pollfd, ppoll, raise_errno, to_timespec


cdef int reserve(PollSet *poll_set, Py_ssize_t count) except -1:
    cdef void *grown
    if count <= poll_set.capacity:
        return 0
    cdef Py_ssize_t capacity = max(64, count * 2)
    grown = PyMem_Realloc(poll_set.fds, capacity * sizeof(pollfd))
    if grown == NULL:
        raise MemoryError
    poll_set.fds = <pollfd *>grown
    grown = PyMem_Realloc(poll_set.tokens, capacity * sizeof(uint64_t))
    if grown == NULL:
        raise MemoryError
    poll_set.tokens = <uint64_t *>grown
    poll_set.capacity = capacity
    return 0


cdef class PollFDMon(FDMon):
    name = "poll"

    def __cinit__(self):
        self.slots = SlotTable()
        self.positions = {}

    def __dealloc__(self):
        PyMem_Free(self.watched.fds)
        PyMem_Free(self.watched.tokens)
        PyMem_Free(self.scratch.fds)
        PyMem_Free(self.scratch.tokens)

    cpdef update(self, AioHandler old, AioHandler new):
        if old is not None and old.mon_token and (new is not old or new.events == 0):
            self.drop(old)
        cdef pollfd *watched
        if new is None or new.events == 0:
            return
        if new.mon_token:
            watched = &self.watched.fds[<Py_ssize_t>self.positions[new.mon_token]]
            if new.events & ~watched.events:  # to be told less cannot fail
                check_fd(new.fd)
            watched.events = <short>new.events
            self.gsource_changes += 1
        else:
            check_fd(new.fd)
            self.append(new)

    cdef int append(self, AioHandler handler) except -1:
        reserve(&self.watched, self.count + 1)
        handler.mon_token = self.slots.alloc(handler)
        self.positions[handler.mon_token] = self.count
        self.watched.fds[self.count].fd = handler.fd
        self.watched.fds[self.count].events = <short>handler.events
        self.watched.fds[self.count].revents = 0
        self.watched.tokens[self.count] = handler.mon_token
        self.count += 1
        self.gsource_changes += 1
        return 0

    cdef int drop(self, AioHandler handler) except -1:
        """Take the last entry into the hole."""
        cdef Py_ssize_t hole = self.positions.pop(handler.mon_token)
        cdef Py_ssize_t last = self.count - 1
        if hole != last:
            self.watched.fds[hole] = self.watched.fds[last]
            self.watched.tokens[hole] = self.watched.tokens[last]
            self.positions[self.watched.tokens[last]] = hole
        self.count = last
        self.gsource_changes += 1
        cdef uint64_t token = handler.mon_token
        handler.mon_token = 0
        self.slots.free(token)
        return 0

    cpdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef timespec ts
        cdef timespec *limit = NULL
        cdef int found
        self.prepare_scratch()
        if timeout_ns >= 0:
            to_timespec(timeout_ns, &ts)
            limit = &ts
        self.calls += 1
        if timeout_ns == 0:
            found = ppoll(self.scratch.fds, self.scratch_count, limit, NULL)
        else:
            with nogil:
                found = ppoll(self.scratch.fds, self.scratch_count, limit, NULL)
        if found < 0:
            if errno == EINTR:
                return 0
            raise_errno(errno)
        return self.collect_scratch(found, ready_list)

    cdef int collect_scratch(self, int found, ReadyList ready_list) except -1:
        """`found` entries of the copy have events."""
        cdef Py_ssize_t i
        cdef int left = found
        cdef AioHandler handler
        for i in range(self.scratch_count):
            if left == 0:
                break
            if self.scratch.fds[i].revents:
                left -= 1
                handler = self.slots.get(self.scratch.tokens[i])
                if handler is not None:
                    ready_list.push(handler, self.scratch.fds[i].revents)
        return found

    cdef int prepare_scratch(self) except -1:
        reserve(&self.scratch, self.count)
        if self.count:
            memcpy(self.scratch.fds, self.watched.fds, self.count * sizeof(pollfd))
            memcpy(self.scratch.tokens, self.watched.tokens, self.count * sizeof(uint64_t))
        self.scratch_count = self.count
        self.checked = 0
        return 0

    cpdef list gsource_fds(self):
        """Everything that is watched: O(n) after every change, as QEMU's fdmon-poll and GLib themselves."""
        return [(self.watched.fds[i].fd, self.watched.fds[i].events) for i in range(self.count)]

    cpdef bint gsource_check(self, list ready) except *:
        cdef Py_ssize_t i
        cdef int fd, revents
        cdef dict found = {}
        for fd, revents in ready:  # more than one entry may be for the same fd
            if revents:
                found[fd] = found.get(fd, 0) | revents
        self.prepare_scratch()
        if not found:
            return False
        for i in range(self.count):
            revents = found.get(self.scratch.fds[i].fd, 0)
            revents &= self.scratch.fds[i].events | POLLERR | POLLHUP | POLLNVAL
            self.scratch.fds[i].revents = <short>revents
            self.checked += revents != 0
        return self.checked != 0

    cpdef int gsource_dispatch(self, ReadyList ready_list) except -1:
        """What gsource_check() was told. Nothing, where somebody polled meanwhile: what is ready stays so."""
        cdef int found = self.checked
        self.checked = 0
        return self.collect_scratch(found, ready_list)

    cpdef close(self):
        self.slots = SlotTable()
        self.positions = {}
        self.count = 0

    cdef bint begin_peek(self, ReadyList ready_list) except -1:
        self.prepare_scratch()
        return True

    cdef bint peek(self) noexcept nogil:
        cdef timespec zero
        to_timespec(0, &zero)
        self.calls += 1
        return ppoll(self.scratch.fds, self.scratch_count, &zero, NULL) > 0
