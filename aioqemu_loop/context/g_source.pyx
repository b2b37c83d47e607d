"""GSource: the context as one of an outside main loop's sources, in GLib's four steps.

    while True:
        timeout = source.prepare()            # ns, None: no limit, 0: do not sleep
        ready = ...                           # the outside loop polls, source.poll_fds() among its own
        if source.check(ready):
            source.dispatch()

Between prepare() and check() the outside loop is taken to sleep, so work that is queued then, by any thread or by that loop's
own callbacks, wakes it up. Poll mode is off: the context does not know what else the outside loop waits for.
"""

from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t

from aioqemu_loop.context.core cimport ContextCore
from aioqemu_loop.system.atomics cimport aio_fence, aio_load_relaxed, aio_store_release
from aioqemu_loop.system.process cimport same_process

import cython


@cython.final
cdef class GSource:
    """Made by AioContext.get_g_source(). The context counts as running while this is held: until destroy(), the end of a
    `with` block, or its last reference. Another thread may go on to drive it between two iterations.

    stopped: True once loop.stop() was called, after the dispatch() in which that happened, which may be a nested one.
    """

    def __cinit__(self, ContextCore context not None):
        context.monitor.gsource_fds()
        context.enter()
        context.wakeup.event.test_and_clear()  # on an edge-triggered monitor nobody has read it so far
        context.held = True
        self.context = context
        if context.on_held is not None:
            try:
                context.on_held(True)
            except BaseException:
                self.context = None
                context.held = False
                context.depth -= 1
                raise

    def __enter__(self):
        self.check_held()
        return self

    def __exit__(self, *exc_info):
        self.destroy()

    def __del__(self):
        self.destroy()

    cdef int check_held(self) except -1:
        cdef ContextCore context = self.context
        cdef unsigned long me = PyThread_get_thread_ident()
        if context is None:
            raise RuntimeError("GSource is destroyed")
        context.check_open()
        if context.home == me:
            return 0
        if self.dispatching:
            raise RuntimeError("GSource is being dispatched by another thread")
        context.home = me  # what a ring's old owner has armed is armed again by the new one
        if context.on_held is not None:
            context.on_held(True)
        return 0

    def prepare(self):
        """The outside loop is about to sleep: for how long it may, in ns, at most; None without limit."""
        cdef int64_t timeout = self.prepare_ns()
        return None if timeout < 0 else timeout

    cdef int64_t prepare_ns(self) except? -2:
        """prepare() for callers that are compiled; -1 without limit."""
        self.check_held()
        cdef ContextCore context = self.context
        cdef int64_t timeout
        aio_store_release(&context.wakeup.notify_me, 1)
        aio_fence()  # pairs with the one in Wakeup.notify()
        if context.monitor.gsource_prepare(context.ready_list) or aio_load_relaxed(&context.wakeup.notified):
            timeout = 0
        else:
            timeout = context.timeout_ns()
        context.ready.sleeper = context.wakeup
        return timeout

    cpdef list poll_fds(self):
        """[(fd, poll events)] to watch, to be asked last before the sleep. The same list object as long as nothing changed."""
        self.check_held()
        cdef ContextCore context = self.context
        if self.seen is not context.monitor or self.seen_changes != context.monitor.gsource_changes:
            self.fds = context.monitor.gsource_fds()
            self.seen = context.monitor
            self.seen_changes = context.monitor.gsource_changes
        return self.fds

    cpdef bint check(self, list ready) except *:
        """The outside loop woke up; `ready` is [(fd, poll revents)], others' fds may be among them. True: call dispatch()."""
        if ready is None:
            raise TypeError("ready must be a list, not None")
        self.check_held()
        cdef ContextCore context = self.context
        self.wake()
        cdef bint found = context.monitor.gsource_check(ready)
        return found or aio_load_relaxed(&context.wakeup.notified) or context.timeout_ns() == 0

    cdef int wake(self) except -1:
        aio_store_release(&self.context.wakeup.notify_me, 0)
        self.context.ready.sleeper = None
        return 0

    cpdef dispatch(self):
        """Run what is ready. Exceptions of callbacks come out where there is no loop on top."""
        self.run()

    cdef bint run(self) except *:
        """dispatch(); whether loop.stop() was called meanwhile."""
        self.check_held()
        cdef ContextCore context = self.context
        cdef bint stopped = False
        self.wake()
        self.dispatching += 1
        try:
            if context.on_dispatch is None:
                context.run_guest()
            else:
                stopped = context.on_dispatch()
        finally:
            self.dispatching -= 1
            if self.doomed:
                self.destroy()
        self.stopped = self.stopped or stopped
        return stopped

    def destroy(self):
        """Give the context back: it can be run, or get another GSource, after this. Called by one of the context's own
        callbacks it takes effect when dispatch() returns."""
        cdef ContextCore context = self.context
        if context is None:
            return
        if self.dispatching:
            self.doomed = True
            return
        self.wake()
        if same_process(context.mark) and not context.closed:
            context.monitor.gsource_check([])
        self.context = None
        context.held = False
        context.home = PyThread_get_thread_ident()
        try:
            context.leave()
        finally:
            if context.on_held is not None:
                context.on_held(False)
