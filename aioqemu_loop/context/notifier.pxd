from libc.stdint cimport uint32_t

from aioqemu_loop.system.atomics cimport aio_fence, aio_load_relaxed, aio_store_release


cdef class EventNotifier:
    cdef readonly int fd

    cpdef set(self)
    cpdef bint test_and_clear(self) except *
    cpdef close(self)


cdef class Wakeup:
    cdef readonly EventNotifier event
    cdef uint32_t notify_me
    cdef uint32_t notified
    cdef uint32_t written

    cdef inline int notify(self) except -1:
        """Work was published: wake the context if it sleeps. Pairs with the fence in AioContext.look(). Under the GIL, as is
        whatever clears `notified`: where it is set the fence has been made."""
        if not aio_load_relaxed(&self.notified):
            aio_store_release(&self.notified, 1)
            aio_fence()
        if aio_load_relaxed(&self.notify_me) and not self.written:
            self.event.set()
            self.written = 1
        return 0
