"""Waking a context that sleeps: an eventfd, and QEMU's notify_me protocol around it.

The context raises `notify_me` before it sleeps and looks at `notified` after that; who has work for it sets `notified`
and then looks at `notify_me`. Either the producer sees the sleeper and writes, or the sleeper sees the work and does
not sleep. While the context is awake a notification costs no system call, and a sleeping one is written to once.
"""

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from posix.unistd cimport close, read, write

import cython

from aioqemu_loop.system.libc cimport EAGAIN, EFD_CLOEXEC, EFD_NONBLOCK, EINTR, eventfd, raise_errno


cdef class EventNotifier:
    """QEMU's EventNotifier on an eventfd. Raises OSError when no fd can be had."""

    def __cinit__(self):
        self.fd = -1
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            raise_errno(errno)

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    def fileno(self):
        return self.fd

    cpdef set(self):
        """Make the fd readable. From any thread."""
        cdef uint64_t one = 1
        # EAGAIN: the counter is full, so the fd is readable anyway.
        while write(self.fd, &one, sizeof(one)) < 0:
            if errno == EAGAIN:
                break
            if errno != EINTR:
                raise_errno(errno)

    cpdef bint test_and_clear(self) except *:
        """True if set() was called since the last test_and_clear()."""
        cdef uint64_t count = 0
        while read(self.fd, &count, sizeof(count)) < 0:
            if errno == EAGAIN:
                return False
            if errno != EINTR:
                raise_errno(errno)
        return count != 0

    cpdef close(self):
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1


@cython.final
cdef class Wakeup:
    """The notify_me state of one context."""

    def __cinit__(self):
        self.event = EventNotifier()
