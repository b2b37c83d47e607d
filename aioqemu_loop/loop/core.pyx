"""LoopCore: the calls of an asyncio loop that run per callback, compiled, over an AioContext.

It is the first base of `Loop`; asyncio.BaseEventLoop, the second, finds the attributes it shares with it here
(_debug, _closed, _stopping, _thread_id, _task_factory).
"""

from cpython.object cimport PyObject
from libc.math cimport ceil
from libc.stdint cimport INT64_MAX, int64_t

import inspect
import sys
from asyncio import base_events, events, format_helpers, tasks
from asyncio.futures import Future

from aioqemu_loop.context.aio_context cimport AioContext, as_fd
from aioqemu_loop.context.handle cimport Handle, TimerHandle, new_handle, new_threadsafe_handle, new_timer_handle
from aioqemu_loop.context.ready cimport tracked_again
from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.system.libc cimport clock_ns

cdef extern from "Python.h":
    PyObject **tuple_items "&PyTuple_GET_ITEM" (object args, Py_ssize_t i)
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    object PyObject_Call(object callable, object args, object options)
    int PyObject_GenericSetAttr(object owner, object name, PyObject *value) except -1

ctypedef object (*Method)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *)

cdef extern from *:
    """
    /* Where a compiled class keeps a method; NULL for a method that is not called with (self, args, count, names). */
    static PyMethodDef *aio_definition_of(PyObject *method) {
        PyMethodDef *definition;
        if (!Py_IS_TYPE(method, &PyMethodDescr_Type))
            return NULL;
        definition = ((PyMethodDescrObject *)method)->d_method;
        return definition->ml_flags == (METH_FASTCALL | METH_KEYWORDS) ? definition : NULL;
    }

    /* A compiled method as one of `owner`, a subclass; None for anything else. */
    static PyObject *aio_method_for(PyTypeObject *owner, PyObject *method) {
        if (!Py_IS_TYPE(method, &PyMethodDescr_Type))
            Py_RETURN_NONE;
        return PyDescr_NewMethod(owner, ((PyMethodDescrObject *)method)->d_method);
    }
    """
    ctypedef void (*PyCFunction)()
    ctypedef struct Definition "PyMethodDef":
        PyCFunction ml_meth
        const char *ml_doc
    Definition *aio_definition_of(object method)
    object aio_method_for(type owner, object method)

cdef object extract_stack = format_helpers.extract_stack
cdef object getframe = sys._getframe
cdef object get_asyncgen_hooks = sys.get_asyncgen_hooks
cdef object set_asyncgen_hooks = sys.set_asyncgen_hooks
cdef object current_task = tasks.current_task
cdef object enter_task = tasks._enter_task
cdef object leave_task = tasks._leave_task
cdef object base_create_task = base_events.BaseEventLoop.create_task
# With more from before a run, timers stay tracked in it: all of them are looked at when it ends, however short it was.
cdef Py_ssize_t MANY_TIMERS = 1000
# What it takes and passes on to Task() as it is.
cdef frozenset TASK_OPTIONS = frozenset(
    ("name", "context", "eager_start")[:1 + (sys.version_info >= (3, 11)) + (sys.version_info >= (3, 14))]
)
# Task is looked up in it for each task: a program may put another class there.
cdef dict tasks_module = tasks.__dict__


cdef bint is_own(object method, object own) except -1:
    return type(method) is type(own) and method == own  # a Mock's == may say anything


cdef int64_t seconds_to_ns(double when) noexcept:
    """The first ns of the monotonic clock at which loop.time() >= when, so that no timer is early."""
    cdef double ns = ceil(when * 1e9)
    cdef int64_t result
    if not ns > -9.2e18:  # NaN too: due at once, as in asyncio
        return 0
    if ns > 9.2e18:
        return INT64_MAX
    result = <int64_t>ns
    while <double>result / 1e9 < when:  # from 104 days on a double holds no single ns
        result += 1
    return result


# What a loop has until __init__() was called: it says that it is closed.
cdef AioContext NO_CONTEXT = AioContext("poll", 0)
NO_CONTEXT.close()


cdef class LoopCore:
    """Native half of Loop."""

    def __cinit__(self, *args, **kwargs):
        self.context = NO_CONTEXT
        self._callback_listeners = ()
        self._closed = True  # until BaseEventLoop.__init__ says otherwise; a loop that failed to start needs no close

    def __init__(self, fdmon="auto", poll_max_ns=None):
        self.future_options = {"loop": self}
        self.context = AioContext(fdmon, poll_max_ns)
        self.context.on_error = self._source_failed
        self.context.on_timed = self._callback_timed
        self.context.on_held = self._g_source_held
        self.context.on_dispatch = self._dispatch_guest
        for name in ("time", "call_soon", "_debug"):
            self.note_replaced(name)

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, <PyObject *>value)
        self.note_replaced(name)

    def __delattr__(self, name):
        PyObject_GenericSetAttr(self, name, NULL)
        self.note_replaced(name)

    cdef int note_replaced(self, object name) except -1:
        """Timers go by loop.time() and transports by loop.call_soon(), also where a test put another function there or a
        subclass has its own. Callbacks are timed in debug mode and where somebody listens."""
        if self.context is NO_CONTEXT:
            return 0  # __init__ will ask
        if name == "time":
            own = is_own(self.time, LoopCore.time.__get__(self))
            self.context.clock = None if own else self._replaced_time
        elif name == "call_soon":
            own = is_own(self.call_soon, LoopCore.call_soon.__get__(self))
            self.context.loop_debug = &self._debug if own else NULL
        elif name == "_debug" or name == "_callback_listeners":
            self.context.timed = self._debug or bool(self._callback_listeners)
        return 0

    def _replaced_time(self):
        return seconds_to_ns(self.time())

    @property
    def fdmon(self):
        """Name of the fd monitor in use."""
        return self.context.fdmon

    cdef int refuse_closed(self) except -1:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        return 0

    cdef int check_debug(self, object callback, str method) except -1:
        if method != "call_soon_threadsafe":
            self._check_thread()
        self._check_callback(callback, method)
        return 0

    # -- scheduling --

    def call_soon(self, callback, *args, context=None):
        return self.soon(<PyObject *>callback, tuple_items(args, 0), len(args), <PyObject *>context)

    def call_soon_threadsafe(self, callback, *args, context=None):
        return self.soon_threadsafe(<PyObject *>callback, tuple_items(args, 0), len(args), <PyObject *>context)

    def call_later(self, delay, callback, *args, context=None):
        return self.later(delay, <PyObject *>callback, tuple_items(args, 0), len(args), <PyObject *>context)

    def call_at(self, when, callback, *args, context=None):
        if when is None:
            raise TypeError("when cannot be None")
        return self.at(when, 0, <PyObject *>callback, tuple_items(args, 0), len(args), <PyObject *>context)

    cdef Handle soon(self, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context):
        cdef Handle handle
        self.refuse_closed()
        if self._debug:
            self.check_debug(<object>callback, "call_soon")
        handle = new_handle(callback, args, count, self, &self._debug, context)
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        self.context.ready.push_new(handle)
        return handle

    cdef Handle soon_threadsafe(self, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context):
        cdef Handle handle
        self.refuse_closed()
        self.context.check_open()  # a parent process's loop will never come to it
        if self._debug:
            self.check_debug(<object>callback, "call_soon_threadsafe")
        handle = new_threadsafe_handle(callback, args, count, self, &self._debug, context)
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        self.context.ready.push_new(handle)
        self.context.wakeup.notify()
        return handle

    cdef TimerHandle later(self, object delay, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context):
        if delay is None:
            raise TypeError("delay must not be None")
        if self.context.clock is not None:
            return self.at(self.time() + delay, 0, callback, args, count, context)
        if type(delay) is float or type(delay) is int:
            return self.at(None, clock_ns() / 1e9 + <double>delay, callback, args, count, context)
        return self.at(clock_ns() / 1e9 + delay, 0, callback, args, count, context)

    cdef TimerHandle at(self, object when, double seconds, PyObject *callback, PyObject *const *args, Py_ssize_t count,
                        PyObject *context):
        cdef TimerHandle handle
        self.refuse_closed()
        if self._debug:
            self.check_debug(<object>callback, "call_at")
        if when is not None:
            seconds = when
        handle = new_timer_handle(when, seconds, callback, args, count, self, &self._debug, context, self.context.timers)
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        self.context.timers.add_new(handle, seconds_to_ns(seconds))
        if self.context.ready.sleeper is not None:
            self.context.ready.sleeper.notify()
        return handle

    def time(self, /):
        """Seconds of the monotonic clock, as time.monotonic()."""
        return clock_ns() / 1e9

    # -- small calls that tasks and futures make all the time --

    def create_future(self, /):
        return PyObject_Call(Future, (), self.future_options)

    def create_task(self, coro, **kwargs):
        return self.new_task(coro, kwargs)

    cdef object new_task(self, object coro, dict kwargs):
        task = self.make_task(coro, kwargs)
        if self._notes_task_births:
            try:
                task._aioqemu_born = clock_ns() / 1e9
            except AttributeError:  # a factory's, with slots
                pass
        return task

    cdef object make_task(self, object coro, dict kwargs):
        # What is not the usual case (a task factory, debug mode, errors) is asyncio's own method's.
        if self._closed or self._debug or self._task_factory is not None:
            return base_create_task(self, coro, **(kwargs or {}))
        if kwargs is None:
            kwargs = self.future_options
        else:
            for option in kwargs:
                if option not in TASK_OPTIONS:
                    return base_create_task(self, coro, **kwargs)
            kwargs["loop"] = self
        return PyObject_Call(tasks_module["Task"], (coro,), kwargs)

    def get_debug(self, /):
        return self._debug

    def is_running(self, /):
        return self._thread_id is not None

    def is_closed(self, /):
        return self._closed

    # -- readers and writers --

    cdef Handle repeated_handle(self, object callback, tuple args, object context):
        """One that stays when it has run."""
        cdef Handle handle = new_handle(<PyObject *>callback, tuple_items(args, 0), len(args), self, &self._debug,
                                        <PyObject *>context)
        if handle.untracked:
            tracked_again(handle, 0)
        return handle

    cdef Handle watch(self, object fd, object callback, tuple args, bint write, object context=None):
        cdef Handle handle
        self.refuse_closed()
        self.context.check_open()  # a parent process's loop will never come to it
        self.refuse_transport(fd)
        handle = self.repeated_handle(callback, args, context)
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        self.context.set_half(as_fd(fd), write, handle)
        self.context.remember_file(as_fd(fd), fd)
        return handle

    cdef bint unwatch(self, object fd, bint write) except -1:
        cdef Runnable old
        cdef int number
        try:
            number = self.context.number_of(fd)
        except OverflowError:  # no fd is that large
            return False
        self.refuse_transport(fd)
        if self._closed:
            return False
        old = self.context.remove_half(number, write)
        if old is None:
            return False
        old.cancel()
        return True

    def add_reader(self, fd, callback, *args):
        self.watch(fd, callback, args, False)

    def add_writer(self, fd, callback, *args):
        self.watch(fd, callback, args, True)

    def remove_reader(self, fd):
        return self.unwatch(fd, False)

    def remove_writer(self, fd):
        return self.unwatch(fd, True)

    # asyncio's own names for the same, which return the handle.

    def _add_reader(self, fd, callback, *args, context=None):
        return self.watch(fd, callback, args, False, context)

    def _add_writer(self, fd, callback, *args, context=None):
        return self.watch(fd, callback, args, True, context)

    def _claim_fd(self, int fd):
        """A new file has this number. Whatever is registered by it has lost its own."""
        self.context.claim(fd)

    def _ensure_fd_no_transport(self, fd):
        self.refuse_transport(fd)

    cdef int refuse_transport(self, object fd) except -1:
        transport = self.context.transport_of(self.context.number_of(fd))
        if transport is not None:
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")
        return 0

    # -- running --

    def stop(self):
        self._stopping = True
        if self.context.held:
            self.context.stop_guest = True
            self.context.wakeup.notify()  # it may have been called by a callback of the outside main loop

    def _make_handle(self, callback, args):
        return self.repeated_handle(callback, args, None)

    def _add_callback(self, Handle handle not None):
        """Queue a handle once more."""
        if not handle._cancelled:
            self.context.ready.push(handle)

    def _run_turns(self):
        """Turn after turn until stop() was called; the turn in which it was called is finished."""
        cdef AioContext context = self.context
        context.enter()
        context.ready.running = True
        context.timers.running = context.timers.size < MANY_TIMERS
        try:
            while True:
                context.turn(not self._stopping)
                if self._stopping:
                    break
        finally:
            context.ready.track_all()
            context.timers.track_all()
            context.leave()

    def _dispatch_guest(self):
        """The turns of an outside main loop: in them this is the running loop, as in run_forever(). A task that runs that main
        loop (a dialog) is not the current one meanwhile. Returns whether stop() was called."""
        previous = events._get_running_loop()
        task = None if previous is None else current_task(previous)
        hooks = get_asyncgen_hooks()
        if task is not None:
            leave_task(previous, task)
        events._set_running_loop(self)
        set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)
        tracking = self._coroutine_origin_tracking_enabled  # in a nested dispatch it is on
        if self._debug:
            self._set_coroutine_origin_tracking(True)
        try:
            self.context.run_guest()
        finally:
            if self._coroutine_origin_tracking_enabled != tracking:
                self._set_coroutine_origin_tracking(tracking)
            set_asyncgen_hooks(hooks[0], hooks[1])
            events._set_running_loop(previous)
            if task is not None:
                enter_task(previous, task)
        self.context.stop_guest = False
        if not self._stopping:
            return False
        self._stopping = False
        return True

    def _source_failed(self, source, exc):
        self.call_exception_handler({"message": f"Exception in {source!r}", "exception": exc})

    def _callback_timed(self, source, took_ns):
        """Debug mode, or somebody listens: told before each callback (took_ns -1) and after."""
        for listener in self._callback_listeners:
            listener(source, took_ns)
        if not self._debug:
            return
        self._current_handle = source if took_ns < 0 and isinstance(source, Handle) else None
        if took_ns >= 0 and took_ns / 1e9 >= self.slow_callback_duration:
            name = base_events._format_handle(source) if isinstance(source, Handle) else repr(source)
            base_events.logger.warning("Executing %s took %.3f seconds", name, took_ns / 1e9)


# -- The usual calls, short: no tuple of the arguments, and `context` by identity. All else goes to the methods above, whose
# own functions are kept for that --

cdef str CONTEXT = sys.intern("context")
# The tuple ("context",) that was seen last, if its string is not the interned one: _asyncio has one of its own.
cdef tuple context_names = ()
cdef Method full_call_soon
cdef Method full_call_soon_threadsafe
cdef Method full_call_later
cdef Method full_call_at
cdef Method full_create_task


cdef inline bint is_usual(PyObject *names) except -1:
    return names == NULL or names == <PyObject *>context_names or only_context(<tuple>names)


cdef bint only_context(tuple names) except -1:
    global context_names
    if len(names) != 1:
        return False
    if names[0] is CONTEXT:
        return True
    if names[0] != CONTEXT:
        return False
    context_names = names
    return True


cdef inline PyObject *context_of(PyObject *const *args, Py_ssize_t count, PyObject *names) noexcept:
    return NULL if names == NULL else args[count]


cdef object short_call_soon(PyObject *loop, PyObject *const *args, Py_ssize_t count, PyObject *names):
    if count >= 1 and is_usual(names):
        return (<LoopCore>loop).soon(args[0], args + 1, count - 1, context_of(args, count, names))
    return full_call_soon(loop, args, count, names)


cdef object short_call_soon_threadsafe(PyObject *loop, PyObject *const *args, Py_ssize_t count, PyObject *names):
    if count >= 1 and is_usual(names):
        return (<LoopCore>loop).soon_threadsafe(args[0], args + 1, count - 1, context_of(args, count, names))
    return full_call_soon_threadsafe(loop, args, count, names)


cdef object short_call_later(PyObject *loop, PyObject *const *args, Py_ssize_t count, PyObject *names):
    if count >= 2 and is_usual(names):
        return (<LoopCore>loop).later(<object>args[0], args[1], args + 2, count - 2, context_of(args, count, names))
    return full_call_later(loop, args, count, names)


cdef object short_call_at(PyObject *loop, PyObject *const *args, Py_ssize_t count, PyObject *names):
    if count >= 2 and is_usual(names) and args[0] != <PyObject *>None:
        return (<LoopCore>loop).at(<object>args[0], 0, args[1], args + 2, count - 2, context_of(args, count, names))
    return full_call_at(loop, args, count, names)


cdef object short_create_task(PyObject *loop, PyObject *const *args, Py_ssize_t count, PyObject *names):
    if names == NULL and count == 1:
        return (<LoopCore>loop).new_task(<object>args[0], None)
    return full_create_task(loop, args, count, names)


cdef int shorten(object method, Method short, Method *full) except -1:
    """The interpreter has looked that `self` is of the class before it calls either."""
    cdef Definition *definition = aio_definition_of(method)
    if definition == NULL:
        raise SystemError(f"{method!r} was compiled in another way than expected")
    full[0] = <Method>definition.ml_meth
    definition.ml_meth = <PyCFunction>short
    return 0


shorten(LoopCore.call_soon, short_call_soon, &full_call_soon)
shorten(LoopCore.call_soon_threadsafe, short_call_soon_threadsafe, &full_call_soon_threadsafe)
shorten(LoopCore.call_later, short_call_later, &full_call_later)
shorten(LoopCore.call_at, short_call_at, &full_call_at)
shorten(LoopCore.create_task, short_create_task, &full_create_task)

# What inspect.signature() reads: this Python's own.
cdef bytes create_task_doc = f"create_task{inspect.signature(base_create_task)}\n--\n\n".replace("self", "$self", 1).encode()
aio_definition_of(LoopCore.create_task).ml_doc = create_task_doc


def with_own_methods(cls):
    """Give `cls` LoopCore's public methods as its own, where it has no others: the interpreter (3.11 on) calls a compiled method by its
    short way only where the object is of just the class that the method is of, and looks for that class among the bases otherwise."""
    for name, method in vars(LoopCore).items():
        if not name.startswith("_") and getattr(cls, name) is method:
            own = aio_method_for(cls, method)
            if own is not None:
                setattr(cls, name, own)
    return cls
