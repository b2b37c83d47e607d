from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.system.objects cimport store_set, store_take


cdef class ReadyQueue:
    cdef list store
    cdef PyObject **items
    cdef uint64_t mask
    cdef uint64_t popped
    cdef uint64_t pushed
    # Set while an outside main loop sleeps for the context: work may be queued by that loop's own callbacks.
    cdef Wakeup sleeper

    cdef int grow(self) except -1

    cdef inline int push(self, Runnable item) except -1:
        if self.pushed - self.popped > self.mask:
            self.grow()
        store_set(&self.items[self.pushed & self.mask], item)
        self.pushed += 1
        if self.sleeper is not None:
            self.sleeper.notify()
        return 0

    cdef inline PyObject *pop(self) noexcept:
        """The oldest item; the caller owns the reference and has seen that there is one."""
        self.popped += 1
        return store_take(&self.items[(self.popped - 1) & self.mask])

    cdef int clear(self) except -1
