"""Timers: a binary heap ordered by (time in ns, order of setting), in C.

An entry is alive while its number is the one its item carries (Runnable.timer_seq). Cancelling or moving a timer just
changes that number: O(1), and the dead entry is dropped when it comes up, or when most of the heap is dead.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint64_t

from aioqemu_loop.context.ready cimport ReadyQueue, tracked_again
from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.system.objects cimport list_items, new_store, store_set, store_take

import cython

# Compact when more than this many entries are dead and they are more than half (asyncio's rule, its numbers 100 and
# one half): each cancelled timer is looked at once more at the most.
cdef Py_ssize_t DEAD_MIN = 100


cdef inline bint before(TimerEntry *a, TimerEntry *b) noexcept:
    return a.when_ns < b.when_ns or (a.when_ns == b.when_ns and a.seq < b.seq)


@cython.final
cdef class TimerHeap:
    """heap[i] and items[i] are one entry."""

    def __dealloc__(self):
        PyMem_Free(self.heap)

    def __len__(self):
        return self.size - self.dead

    cdef int add(self, Runnable item, int64_t when_ns) except -1:
        """Set the timer of `item`; a time set before is forgotten."""
        if item.timer_seq:
            self.cancel(item)
        if self.size == self.capacity:
            self.grow()
        self.last_seq += 1
        item.timer_seq = self.last_seq
        self.heap[self.size].when_ns = when_ns
        self.heap[self.size].seq = self.last_seq
        store_set(&self.items[self.size], item)
        self.size += 1
        self.sift_up(self.size - 1)
        return 0

    cdef int add_new(self, Runnable item, int64_t when_ns) except -1:
        """For an item as it was made, untracked: as ReadyQueue.push_new()."""
        if item.untracked:
            if self.running:
                self.has_untracked = True
            else:
                tracked_again(item, 0)
        return self.add(item, when_ns)

    cdef int track_all(self) except -1:
        """Nobody runs the context from now on. Those that came due are in the ready queue."""
        cdef Runnable item
        cdef Py_ssize_t i
        self.running = False
        if not self.has_untracked:
            return 0
        self.has_untracked = False
        for i in range(self.size):
            item = <Runnable>self.items[i]
            if item.untracked:
                tracked_again(item, 0)
        return 0

    cdef int grow(self) except -1:
        cdef Py_ssize_t capacity = max(64, self.capacity * 2)
        cdef Py_ssize_t i
        cdef PyObject *moving
        cdef list store = new_store(capacity)
        cdef PyObject **items = list_items(store)
        cdef void *grown = PyMem_Realloc(self.heap, capacity * sizeof(TimerEntry))
        if grown == NULL:
            raise MemoryError
        self.heap = <TimerEntry *>grown
        for i in range(self.size):
            moving = store_take(&self.items[i])
            store_set(&items[i], <object>moving)
            Py_DECREF(<object>moving)
        self.store = store
        self.items = items
        self.capacity = capacity
        return 0

    cdef bint alive(self, Py_ssize_t i) noexcept:
        return self.heap[i].seq == (<Runnable>self.items[i]).timer_seq

    cdef int cancel(self, Runnable item) except -1:
        if item.timer_seq == 0:
            return 0
        item.timer_seq = 0
        self.dead += 1
        if self.dead > DEAD_MIN and self.dead * 2 > self.size:
            self.compact()
        return 0

    cdef bint pending(self) except -1:
        """True where a timer is set; heap[0] is then the one that is due first."""
        while self.size and not self.alive(0):
            self.dead -= 1
            self.drop_first()
        return self.size != 0

    cdef int move_due(self, int64_t now_ns, ReadyQueue ready) except -1:
        """Queue what is due, earliest first."""
        cdef Runnable item
        while self.size and self.heap[0].when_ns <= now_ns:
            if self.alive(0):
                item = <Runnable>self.items[0]
                ready.push(item)
                item.timer_seq = 0
            else:
                self.dead -= 1
            self.drop_first()
        return 0

    cdef int clear(self) except -1:
        while self.size:
            (<Runnable>self.items[0]).timer_seq = 0
            self.drop_first()
        self.dead = 0
        return 0

    cdef void sift_up(self, Py_ssize_t i) noexcept:
        cdef TimerEntry entry = self.heap[i]
        cdef PyObject *item = self.items[i]
        cdef Py_ssize_t parent
        while i > 0:
            parent = (i - 1) >> 1
            if not before(&entry, &self.heap[parent]):
                break
            self.heap[i] = self.heap[parent]
            self.items[i] = self.items[parent]
            i = parent
        self.heap[i] = entry
        self.items[i] = item

    cdef void sift_down(self, Py_ssize_t i) noexcept:
        cdef TimerEntry entry = self.heap[i]
        cdef PyObject *item = self.items[i]
        cdef Py_ssize_t child
        while True:
            child = 2 * i + 1
            if child >= self.size:
                break
            if child + 1 < self.size and before(&self.heap[child + 1], &self.heap[child]):
                child += 1
            if not before(&self.heap[child], &entry):
                break
            self.heap[i] = self.heap[child]
            self.items[i] = self.items[child]
            i = child
        self.heap[i] = entry
        self.items[i] = item

    cdef int drop_first(self) except -1:
        cdef PyObject *item = self.items[0]
        self.size -= 1
        # The last entry takes the first place; what was first goes to the end, and out.
        self.items[0] = self.items[self.size]
        self.items[self.size] = item
        if self.size:
            self.heap[0] = self.heap[self.size]
            self.sift_down(0)
        item = store_take(&self.items[self.size])
        Py_DECREF(<object>item)
        return 0

    cdef int compact(self) except -1:
        """Drop every dead entry. The references go last: a destructor may set or cancel timers."""
        cdef Py_ssize_t i, live = 0
        cdef PyObject *item
        cdef list dropped = []
        for i in range(self.size):
            if self.alive(i):
                self.heap[live] = self.heap[i]
                item = self.items[live]
                self.items[live] = self.items[i]
                self.items[i] = item
                live += 1
        for i in range(live, self.size):
            item = store_take(&self.items[i])
            dropped.append(<object>item)
            Py_DECREF(<object>item)
        self.size = live
        self.dead = 0
        for i in range(live // 2 - 1, -1, -1):
            self.sift_down(i)
        return 0
