"""Sleeping on one file, for what is written in Python and must not hold the GIL meanwhile."""

from libc.errno cimport errno
from libc.stdint cimport int64_t
from posix.time cimport timespec

from aioqemu_loop.system.libc cimport EINTR, POLLIN, pollfd, ppoll, raise_errno, to_timespec


def wait_readable(int fd, int64_t timeout_ns):
    """Sleep until `fd` is readable, at most `timeout_ns` (-1: without limit). False at the limit or after a signal, whose Python
    handler has run when this returns. Raises OSError."""
    cdef timespec ts
    cdef timespec *limit = NULL
    cdef pollfd item
    cdef int found
    item.fd = fd
    item.events = POLLIN
    if timeout_ns >= 0:
        to_timespec(timeout_ns, &ts)
        limit = &ts
    with nogil:
        found = ppoll(&item, 1, limit, NULL)
    if found < 0 and errno != EINTR:
        raise_errno(errno)
    return found > 0
