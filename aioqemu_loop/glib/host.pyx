"""Iterating a GLib main context by GLib's own four steps, with ns timeouts: QEMU's os_host_main_loop_wait.

The loop is one of the main context's sources (LoopSource), so what GLib's callbacks may do (iterate the context themselves, as
a dialog does) works as in any GLib program. GLib counts in ms; the time until the loop's next timer does not go through it.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.errno cimport errno
from libc.stdint cimport int64_t
from posix.time cimport timespec

import cython

from aioqemu_loop.glib.libglib cimport Functions, address_of, functions
from aioqemu_loop.glib.loop_source cimport LoopSource
from aioqemu_loop.system.libc cimport EINTR, pollfd, ppoll, raise_errno, to_timespec

cdef int64_t NS_PER_MS = 1_000_000


@cython.final
cdef class MainContextHost:
    """Owns a GLib.MainContext (None: the default one) until release(). Raises RuntimeError where another thread owns it."""

    cdef Functions *glib
    cdef void *context
    cdef bint owned
    cdef pollfd *fds
    cdef int capacity

    def __cinit__(self, main_context):
        self.glib = functions()
        cdef void *context = address_of(main_context)
        with nogil:
            self.owned = self.glib.main_context_acquire(context) != 0
        if not self.owned:
            raise RuntimeError("the GLib.MainContext is run by another thread")
        self.context = self.glib.main_context_ref(context)

    def __dealloc__(self):
        if self.context != NULL:
            self.glib.main_context_unref(self.context)
        PyMem_Free(self.fds)

    def release(self):
        if self.owned:
            self.owned = False
            with nogil:
                self.glib.main_context_release(self.context)

    def iterate(self, LoopSource loop_source not None):
        """One iteration: prepare, query, poll, check, dispatch. Raises what came out of the loop's callbacks."""
        cdef int priority = 0
        cdef int timeout_ms = -1
        cdef int count, found, ready
        cdef int64_t timeout_ns
        cdef timespec ts
        cdef timespec *limit = NULL
        loop_source.hosted = True
        try:
            with nogil:
                self.glib.main_context_prepare(self.context, &priority)
            count = self.query(priority, &timeout_ms)
        finally:
            loop_source.hosted = False
        timeout_ns = timeout_ms * NS_PER_MS if timeout_ms >= 0 else -1
        if loop_source.timeout_ns >= 0 and (timeout_ns < 0 or loop_source.timeout_ns < timeout_ns):
            timeout_ns = loop_source.timeout_ns
        if timeout_ns >= 0:
            to_timespec(timeout_ns, &ts)
            limit = &ts
        with nogil:
            found = ppoll(self.fds, count, limit, NULL)
        if found < 0 and errno != EINTR:
            raise_errno(errno)
        with nogil:
            ready = self.glib.main_context_check(self.context, priority, self.fds, count)
        PyErr_CheckSignals()
        if ready:
            with nogil:
                self.glib.main_context_dispatch(self.context)
            PyErr_CheckSignals()
        loop_source.raise_failure()

    cdef int query(self, int priority, int *timeout_ms) except -1:
        """Fill `fds`; returns how many there are."""
        cdef int count
        cdef void *grown
        while True:
            with nogil:
                count = self.glib.main_context_query(self.context, priority, timeout_ms, self.fds, self.capacity)
            if count <= self.capacity:
                return count
            grown = PyMem_Realloc(self.fds, count * sizeof(pollfd))
            if grown == NULL:
                raise MemoryError
            self.fds = <pollfd *>grown
            self.capacity = count
