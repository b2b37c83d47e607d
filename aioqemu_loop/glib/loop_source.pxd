from libc.stdint cimport int64_t

from aioqemu_loop.context.g_source cimport GSource
from aioqemu_loop.glib.libglib cimport Functions, aio_source
from aioqemu_loop.system.libc cimport pollfd


cdef class LoopSource:
    cdef Functions *glib
    cdef aio_source *source
    cdef void *main_context
    cdef GSource guest
    cdef list fds
    cdef dict records
    cdef object on_stop
    cdef bint raises
    cdef object failure
    # Of the last prepare(), in ns; while `hosted` GLib is not told, because who iterates the main context takes it from here.
    cdef int64_t timeout_ns
    cdef bint hosted

    cdef int prepare(self, int *timeout_ms) except -1
    cdef int watch(self, list wanted) except -1
    cdef int forget(self, PollRecord record) except -1
    cdef bint check(self) except *
    cdef bint dispatch(self) except *
    cdef int failed(self, object exc) except -1
    cdef int raise_failure(self) except -1


cdef class PollRecord:
    cdef pollfd pfd
