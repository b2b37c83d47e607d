"""The ready queue: a FIFO ring of what is to be run.

`popped` and `pushed` only ever count up, so "everything that was queued when this turn began" is `pushed` at that
moment, also when a nested turn has run part of it meanwhile.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint64_t

from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.system.objects cimport list_items, new_store, store_set, store_take

import cython

cdef uint64_t FIRST_SIZE = 256  # a power of two


@cython.final
cdef class ReadyQueue:
    def __cinit__(self):
        self.store = new_store(FIRST_SIZE)
        self.items = list_items(self.store)
        self.mask = FIRST_SIZE - 1

    def __len__(self):
        return self.pushed - self.popped

    cdef int grow(self) except -1:
        cdef uint64_t size = (self.mask + 1) * 2
        cdef list store = new_store(size)
        cdef PyObject **items = list_items(store)
        cdef PyObject *moving
        cdef uint64_t i = self.popped
        while i != self.pushed:
            moving = store_take(&self.items[i & self.mask])
            store_set(&items[i & (size - 1)], <object>moving)
            Py_DECREF(<object>moving)
            i += 1
        self.store = store
        self.items = items
        self.mask = size - 1
        return 0

    cdef int track_all(self) except -1:
        """Nobody runs the queue from now on: it may become garbage with all that is in it."""
        cdef uint64_t i = self.popped
        cdef Runnable item
        self.running = False
        while i != self.pushed:
            item = <Runnable>self.items[i & self.mask]
            if item.untracked:
                tracked_again(item, 0)
            i += 1
        return 0

    cdef int clear(self) except -1:
        cdef PyObject *item
        while self.popped != self.pushed:
            item = self.pop()
            Py_DECREF(<object>item)
        return 0
