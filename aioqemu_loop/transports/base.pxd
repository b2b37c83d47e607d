from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.engine cimport Engine, Sink


cdef class BaseTransport(Sink):
    cdef object __weakref__
    cdef dict __dict__
    cdef AioContext context
    cdef Engine engine
    cdef readonly object _loop
    cdef object protocol
    cdef object py_context
    cdef object given_context
    cdef dict extra  # None where it is empty
    cdef object file
    cdef int fd
    cdef bint paused
    cdef bint closing
    cdef readonly int _conn_lost

    cdef int set_up(self, AioContext context, object loop, int fd, object file, object protocol, dict extra,
                    object given_context, object py_context=*) except -1
    cdef int call_soon(self, object callback, object argument) except -1
    cdef bint enter_context(self) except -1
    cdef int leave_context(self, bint entered) except -1
    cdef int start(self, object waiter) except -1
    cdef int begin_reading(self) except -1
    cdef int lookup(self, str name) except -1
    cdef int fatal_error(self, object exc, str message) except -1
    cdef int log_fatal(self, object exc, str message, bint quietly) except -1
    cdef int force_close(self, object exc) except -1
    cdef int schedule_connection_lost(self, object exc) except -1
    cdef int drop_output(self) except -1
    cdef int release_fd(self) except -1
    cdef int close_file(self, int fd) except -1
    cdef int let_go(self) except -1


cdef class FlowControlledTransport(BaseTransport):
    cdef readonly bint _protocol_paused
    cdef Py_ssize_t high_water
    cdef Py_ssize_t low_water

    cdef Py_ssize_t buffered_size(self) noexcept
    cdef int flow_control(self) except -1


cdef int hold_socket(object sock) except -1
cdef int let_go_of_socket(object sock) except -1
cdef int tell_flow(object protocol, bint pause, object transport, object loop) except -1
cdef tuple water_marks(object high, object low, Py_ssize_t default_high)
