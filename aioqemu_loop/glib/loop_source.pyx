"""LoopSource: an AioContext's GSource as a source of a GLib main context, called by GLib without Python in between.

GLib calls prepare, check and dispatch in the thread that iterates the main context, without the GIL. Timeouts are rounded up
to GLib's milliseconds.
"""

from libc.stdint cimport int64_t

import cython

from aioqemu_loop.context.g_source cimport GSource
from aioqemu_loop.glib.libglib cimport Functions, address_of, aio_source, aio_source_funcs, functions
from aioqemu_loop.system.libc cimport pollfd
from aioqemu_loop.system.process cimport same_process

cdef extern from "Python.h":
    void PyErr_SetObject(object type, object value)
    void PyErr_PrintEx(int set_sys_last_vars)

cdef int64_t NS_PER_MS = 1_000_000
cdef int64_t TIMEOUT_MAX_MS = 0x7FFFFFFF

cdef aio_source_funcs callbacks
callbacks.prepare = on_prepare
callbacks.check = on_check
callbacks.dispatch = on_dispatch


@cython.final
cdef class PollRecord:
    """A GPollFD, which must stay where it is while GLib knows it."""


@cython.final
cdef class LoopSource:
    """Attaches `guest` to a GLib.MainContext (None: the default one), until destroy().

    priority: GLib's, 0 is G_PRIORITY_DEFAULT; on_stop(): called in the main context after loop.stop(); raises: exceptions that
    come out of the loop are kept for raise_failure().
    """

    def __cinit__(self, GSource guest not None, main_context, int priority, on_stop, *, bint raises=False):
        self.glib = functions()
        cdef void *context = address_of(main_context)
        self.records = {}
        self.source = <aio_source *>self.glib.source_new(&callbacks, sizeof(aio_source))
        self.source.owner = <void *>self
        self.guest = guest
        self.on_stop = on_stop
        self.raises = raises
        self.glib.source_set_priority(self.source, priority)
        self.glib.source_set_can_recurse(self.source, True)
        self.glib.source_set_name(self.source, b"aioqemu_loop")
        self.main_context = self.glib.main_context_ref(context)
        with nogil:
            self.glib.source_attach(self.source, context)

    def __dealloc__(self):
        if self.source != NULL:
            self.source.owner = NULL
            self.glib.source_destroy(self.source)
            self.glib.source_unref(self.source)
            self.glib.main_context_unref(self.main_context)

    def destroy(self):
        """Take the source out of the main context and give the AioContext back. Also inside one of its callbacks."""
        cdef aio_source *source = self.source
        if source == NULL:
            return
        self.source = NULL
        source.owner = NULL
        with nogil:
            self.glib.source_destroy(source)
            self.glib.source_unref(source)
            self.glib.main_context_unref(self.main_context)
        self.records.clear()  # GLib has let go of them
        self.guest.destroy()

    cdef int prepare(self, int *timeout_ms) except -1:
        """Where there is work already GLib is told not to sleep, but not that this source is ready: it would leave out
        check(), and fds would starve as long as there is work."""
        self.timeout_ns = self.guest.prepare_ns()
        self.watch(self.guest.poll_fds())
        if self.timeout_ns >= 0 and not self.hosted:
            timeout_ms[0] = <int>min((self.timeout_ns + NS_PER_MS - 1) // NS_PER_MS, TIMEOUT_MAX_MS)
        return False

    cdef int watch(self, list wanted) except -1:
        """Bring GLib's poll records in line."""
        cdef PollRecord record
        cdef dict keep
        if wanted is self.fds:
            return 0
        self.fds = wanted
        keep = dict(wanted)
        for fd in [fd for fd in self.records if fd not in keep]:
            self.forget(<PollRecord>self.records.pop(fd))
        for fd, events in wanted:
            if fd in self.records:
                record = <PollRecord>self.records[fd]
                if record.pfd.events == <short>events:
                    continue
                self.forget(record)
            record = PollRecord.__new__(PollRecord)
            record.pfd.fd = fd
            record.pfd.events = <short>events
            record.pfd.revents = 0
            self.records[fd] = record
            self.glib.source_add_poll(self.source, &record.pfd)
        return 0

    cdef int forget(self, PollRecord record) except -1:
        self.glib.source_remove_poll(self.source, &record.pfd)
        return 0

    cdef bint check(self) except *:
        cdef list ready = []
        for record in self.records.values():
            if (<PollRecord>record).pfd.revents:
                ready.append(((<PollRecord>record).pfd.fd, (<PollRecord>record).pfd.revents))
        return self.guest.check(ready)

    cdef bint dispatch(self) except *:
        if self.guest.run() and self.source != NULL:
            self.on_stop()
        return self.source != NULL

    cdef int failed(self, object exc) except -1:
        """What came out of a callback of GLib's. A host raises it; GLib can only have it shown, and SystemExit ends the process,
        as in every callback of PyGObject's."""
        if self.raises:
            self.failure = self.failure or exc
        else:
            PyErr_SetObject(type(exc), exc)
            PyErr_PrintEx(0)
        if self.guest.context is not None and not same_process(self.guest.context.mark):
            self.destroy()  # a forked child is told once
        return 0

    cdef int raise_failure(self) except -1:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return 0


cdef int on_prepare(void *source, int *timeout_ms) noexcept with gil:
    cdef LoopSource owner
    timeout_ms[0] = -1
    try:
        if (<aio_source *>source).owner != NULL:
            owner = <LoopSource>(<aio_source *>source).owner
            return owner.prepare(timeout_ms)
    except BaseException as exc:
        owner.failed(exc)
    return False


cdef int on_check(void *source) noexcept with gil:
    cdef LoopSource owner
    try:
        if (<aio_source *>source).owner != NULL:
            owner = <LoopSource>(<aio_source *>source).owner
            return owner.check()
    except BaseException as exc:
        owner.failed(exc)
    return False


cdef int on_dispatch(void *source, void *callback, void *user_data) noexcept with gil:
    """Returns G_SOURCE_CONTINUE or G_SOURCE_REMOVE."""
    cdef LoopSource owner
    try:
        if (<aio_source *>source).owner != NULL:
            owner = <LoopSource>(<aio_source *>source).owner
            return owner.dispatch()
    except BaseException as exc:
        owner.failed(exc)
        return (<aio_source *>source).owner != NULL
    return False
