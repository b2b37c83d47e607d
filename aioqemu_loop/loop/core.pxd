from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.handle cimport Handle, TimerHandle


cdef class LoopCore:
    cdef readonly AioContext context
    cdef public bint _debug
    cdef public bint _closed
    cdef public bint _stopping
    cdef public object _thread_id
    cdef public object _task_factory
    cdef dict future_options
    # The monitor asks for it: tasks then carry `_aioqemu_born`, in seconds of the monotonic clock.
    cdef public bint _notes_task_births
    # Each of these is called with (source, -1) before every callback, and after it with the ns that it took.
    cdef public tuple _callback_listeners

    # `kwargs` None: there are none.
    cdef object new_task(self, object coro, dict kwargs)
    cdef object make_task(self, object coro, dict kwargs)
    cdef int check_debug(self, object callback, str method) except -1
    cdef int note_replaced(self, object name) except -1
    cdef int refuse_closed(self) except -1
    # `args`: `count` of them; `context` None or NULL: a copy of the current one.
    cdef Handle soon(self, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context)
    cdef Handle soon_threadsafe(self, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context)
    cdef TimerHandle later(self, object delay, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context)
    # `when` None: at `seconds`.
    cdef TimerHandle at(self, object when, double seconds, PyObject *callback, PyObject *const *args, Py_ssize_t count,
                        PyObject *context)
    cdef int refuse_transport(self, object fd) except -1
    cdef Handle repeated_handle(self, object callback, tuple args, object context)
    cdef Handle watch(self, object fd, object callback, tuple args, bint write, object context=*)
    cdef bint unwatch(self, object fd, bint write) except -1
