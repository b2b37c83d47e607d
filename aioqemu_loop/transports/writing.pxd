from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.base cimport FlowControlledTransport
from aioqemu_loop.transports.write_queue cimport WriteQueue


cdef class WritingTransport(FlowControlledTransport):
    cdef WriteQueue queue
    cdef str what
    cdef bint blocked
    cdef bint keeps_messages
    cdef Py_ssize_t sending
    cdef int send_error

    cdef int begin_sending(self) except -1
    cdef bint may_gather(self) noexcept
    cdef int refuse_write(self, str method) except -1
    cdef bint may_write(self) except -1
    cdef int queue_bytes(self, object data) except -1
    cdef int flush_now(self) except -1
    cdef bint gather(self) except -1
    cdef int send_queued(self) except -1
    cdef int all_sent(self) except -1


cdef int refuse_in_child(AioContext context) except -1
