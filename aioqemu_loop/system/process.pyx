"""Which process we are in, at the price of a memory read.

Kernel objects made before a fork must not be used in the child: an inherited epoll fd or ring is the parent's own.
`getpid` costs a system call on every look, so a page that the kernel zeroes in a forked child (MADV_WIPEONFORK,
Linux 4.14) holds the process's mark instead. It also catches a fork that bypasses Python's at-fork hooks.
"""

from libc.stdint cimport uint32_t
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap
from posix.unistd cimport getpid

from aioqemu_loop.system.libc cimport MADV_WIPEONFORK, errno, madvise, raise_errno

import os
import weakref

cdef uint32_t *page = NULL


cdef int make_page() except -1:
    global page
    cdef void *address = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if address == MAP_FAILED:
        raise_errno(errno)
    if madvise(address, 4096, MADV_WIPEONFORK) < 0:
        raise_errno(errno)
    page = <uint32_t *>address
    return 0


cdef uint32_t process_mark() except 0:
    """The mark of this process; an object keeps the one it was made under."""
    if page[0] == 0:
        page[0] = <uint32_t>getpid()
    return page[0]


def current_mark():
    """process_mark() for Python."""
    return process_mark()


cdef bint same_process(uint32_t mark) noexcept nogil:
    return page[0] == mark


make_page()

# Objects with a flush_before_fork() method: it brings out what parent and child would else both bring out.
flush_before_fork = weakref.WeakSet()
# Objects with a forget_after_fork() method: it lets go of what the child must not hold, such as a ring's fd.
forget_in_child = weakref.WeakSet()


def _before_fork():
    for item in list(flush_before_fork):
        item.flush_before_fork()


def _after_fork_in_child():
    for item in list(forget_in_child):
        item.forget_after_fork()
    forget_in_child.clear()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
