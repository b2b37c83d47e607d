"""The operations that io_uring was asked for by add_sqe(): those that wait for the next look, and those the kernel has.

Invariant: a handler is in `waiting` (mon_queued) or in `slots` (mon_token), or this does not know it. It is in `slots` from the
moment its entry is in the submission queue until its last completion.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from aioqemu_loop.fdmon.base cimport CqeHandler, SlotTable
from aioqemu_loop.system.libc cimport ECANCELED, EINTR, EOWNERDEAD
from aioqemu_loop.system.objects cimport list_size
from aioqemu_loop.uring.abi cimport *
from aioqemu_loop.uring.ring cimport Ring

# user_data of requests whose own completion says nothing (ASYNC_CANCEL); never a token.
cdef uint64_t IGNORED = 0

# So many operations are submitted before the turn's end: a disk that waits for the end of a turn of 64 is idle for a part of it.
cdef Py_ssize_t EARLY = 16

# Kept for the life of the process: of these nobody will know when the kernel is through with their memory.
cdef list lost_handlers = []


cdef bint has_not_happened(int result) noexcept:
    """Interrupted or cancelled. -516 to -512 are the kernel's own ERESTART..., which io_uring lets out."""
    return result == -EINTR or result == -ECANCELED or -516 <= result <= -512


cdef class Operations:
    """Who calls prepare() or prepare_cancel() has made room in the submission queue and owns the ring."""

    def __cinit__(self):
        self.slots = SlotTable()
        self.waiting = []
        self.cancels = []

    cdef int add(self, CqeHandler handler) except -1:
        handler.mon_cancel = False
        handler.mon_queued = True
        self.waiting.append(handler)
        return 0

    cdef int cancel(self, CqeHandler handler) except -1:
        if handler.mon_cancel or not (handler.mon_token or handler.mon_queued):
            return 0
        handler.mon_cancel = True  # one that still waits hears of it from prepare()
        if handler.mon_token:
            self.cancels.append(handler)
        return 0

    cdef int interrupt(self) except -1:
        """Cancel all that the kernel has; what has not happened by then waits again."""
        for item in self.slots.handlers:
            if item is not None:
                self.cancels.append(item)
        return 0

    cdef bint has_work(self) noexcept:
        """Something is to be handed to the kernel."""
        return list_size(<PyObject *>self.waiting) != 0 or list_size(<PyObject *>self.cancels) != 0

    cdef bint has_cancels(self) noexcept:
        return list_size(<PyObject *>self.cancels) != 0

    cdef bint has_waiting(self) noexcept:
        return list_size(<PyObject *>self.waiting) != 0

    cdef bint are_many(self) noexcept:
        """So many wait that submit() had better be called before the turn's end."""
        return list_size(<PyObject *>self.waiting) - self.next_waiting >= EARLY

    cdef bint prepare(self, Ring ring) except -1:
        """The submission entry of the one that has waited longest; True if that was cancelled, and is told so instead."""
        cdef CqeHandler handler = <CqeHandler>self.waiting[self.next_waiting]
        cdef uint64_t token = 0
        cdef aio_sqe *sqe
        if not handler.mon_cancel:
            token = self.slots.alloc(handler)
        self.waiting[self.next_waiting] = None
        self.next_waiting += 1
        if self.next_waiting == len(self.waiting):
            self.waiting.clear()
            self.next_waiting = 0
        handler.mon_queued = False
        if not token:
            handler.on_cqe(-ECANCELED, 0)
            return True
        handler.mon_token = token
        sqe = ring.get_sqe()
        sqe[0] = handler.sqe
        sqe.user_data = OPERATION_BIT | token
        return False

    cdef int submit(self, Ring ring) except -1:
        """What waits, by a system call that does nothing else, as far as there is room; what is left waits on. Returns how many
        were told that they are cancelled."""
        cdef int told = 0
        while self.has_waiting() and ring.unsubmitted() < ring.sq_entries:
            told += self.prepare(ring)
        ring.submit()
        return told

    cdef int prepare_cancel(self, Ring ring) except -1:
        cdef CqeHandler handler = <CqeHandler>self.cancels.pop()
        if handler.mon_token:
            prepare_cancel(ring, OPERATION_BIT | handler.mon_token)
        return 0

    cdef int complete(self, aio_cqe cqe) except -1:
        cdef uint64_t token = cqe.user_data & ~<uint64_t>OPERATION_BIT
        found = self.slots.get(token)
        if found is None:
            return 0
        cdef CqeHandler handler = <CqeHandler>found
        if not cqe.flags & AIO_CQE_F_MORE:
            self.slots.free(token)
            handler.mon_token = 0
            if not handler.mon_cancel and has_not_happened(cqe.res):
                return self.add(handler)  # and nobody asked for that
        return handler.on_cqe(cqe.res, cqe.flags)

    cdef int lose(self) except -1:
        """The ring is gone, and with it all word of what the kernel had. It may be at their memory still."""
        cdef SlotTable lost = self.slots
        self.slots = SlotTable()
        self.cancels.clear()
        for item in lost.handlers:
            if item is not None:
                lost_handlers.append(item)
                (<CqeHandler>item).mon_token = 0
                (<CqeHandler>item).on_cqe(-EOWNERDEAD, 0)
        return 0

    cdef int forget(self) except -1:
        """The ring is closed. What the kernel has still, as nobody could enter the ring, keeps its memory."""
        for item in self.slots.handlers:
            if item is not None:
                lost_handlers.append(item)
        self.slots = SlotTable()
        self.waiting = []
        self.cancels = []
        return 0

    cdef list take(self):
        """All that waits, which this forgets."""
        cdef list taken = self.waiting[self.next_waiting :]
        self.waiting = []
        self.next_waiting = 0
        for item in taken:
            (<CqeHandler>item).mon_queued = False
        return taken


cdef int prepare_cancel(Ring ring, uint64_t user_data) except -1:
    """Not POLL_REMOVE, where it is a poll: that gives up (EALREADY) on a multishot poll that has just fired, and leaves it
    armed."""
    cdef aio_sqe *sqe = ring.get_sqe()
    sqe.opcode = AIO_OP_ASYNC_CANCEL
    sqe.fd = -1
    sqe.addr = user_data
    sqe.user_data = IGNORED
    if ring.features & AIO_FEAT_CQE_SKIP:
        sqe.flags = AIO_SQE_CQE_SKIP_SUCCESS
    return 0
