from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.system.objects cimport Py_REFCNT, PyObject_GC_Track, store_set, store_take


cdef class ReadyQueue:
    cdef list store
    cdef PyObject **items
    cdef uint64_t mask
    cdef uint64_t popped
    cdef uint64_t pushed
    # Set while an outside main loop sleeps for the context: work may be queued by that loop's own callbacks.
    cdef Wakeup sleeper
    # Somebody runs what is queued, until track_all().
    cdef bint running

    cdef int grow(self) except -1

    cdef inline int push(self, Runnable item) except -1:
        if self.pushed - self.popped > self.mask:
            self.grow()
        store_set(&self.items[self.pushed & self.mask], item)
        self.pushed += 1
        if self.sleeper is not None:
            self.sleeper.notify()
        return 0

    cdef inline int push_new(self, Runnable item) except -1:
        """For an item as it was made, untracked. While the queue is being run all of it is alive, and the collector need not
        look at it: in a busy loop that was a fifth of its time (callgrind). Who runs the item calls tracked_again()."""
        if item.untracked and not self.running:
            tracked_again(item, 0)
        return self.push(item)

    cdef inline PyObject *pop(self) noexcept:
        """The oldest item; the caller owns the reference and has seen that there is one."""
        self.popped += 1
        return store_take(&self.items[(self.popped - 1) & self.mask])

    cdef int clear(self) except -1
    cdef int track_all(self) except -1


cdef inline int tracked_again(Runnable item, Py_ssize_t references) except -1:
    """`item` is not in a queue that is run any more, and the caller knows of so many references: if there are others, it may be
    part of a cycle from now on."""
    item.untracked = False
    if Py_REFCNT(item) > references:
        PyObject_GC_Track(item)
    return 0
