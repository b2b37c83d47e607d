from aioqemu_loop.context.core cimport ContextCore
from aioqemu_loop.context.sources cimport FdCallbacks
from aioqemu_loop.fdmon.base cimport AioHandler, CqeHandler, FDMon, Runnable


cdef class AioContext(ContextCore):
    cdef AioHandler wakeup_handler
    cdef dict handlers
    # use_g_source() was called: no io_uring any more.
    cdef readonly bint g_source_mode
    cdef bint keeps_fdmon

    cdef int change_fdmon(self, FDMon new) except -1
    cdef int adopt(self, FDMon monitor, AioHandler handler) except -1
    cdef int add_handler(self, AioHandler handler) except -1
    cdef int tell_sleeper(self) except -1
    cdef int claim(self, int fd) except -1
    cdef int drop_lost(self) except -1
    cdef int change_events(self, AioHandler handler, int events) except -1
    cdef int remove_handler(self, AioHandler handler) except -1
    cdef bint add_sqe(self, CqeHandler handler) except -1
    cdef int cancel_sqe(self, CqeHandler handler) except -1
    cdef int settle(self, AioHandler handler) except -1
    cdef int wait_settled(self, AioHandler handler) except -1
    cdef int set_half(self, int fd, bint write, Runnable callback, bint known_pollable=*) except -1
    cdef Runnable remove_half(self, int fd, bint write, bint for_now=*)
    cdef int remember_file(self, int fd, object file) except -1
    cdef int number_of(self, object fd) except -1
    cdef FdCallbacks callbacks_of(self, int fd)
    cdef object transport_of(self, int fd)


cdef int as_fd(object fd) except -1
