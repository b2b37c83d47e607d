from aioqemu_loop.transports.base cimport FlowControlledTransport
from aioqemu_loop.transports.readiness cimport ReadinessEngine


cdef class DatagramEngine(ReadinessEngine):
    pass


cdef class DatagramTransport(FlowControlledTransport):
    cdef object remote
    cdef object queue
    cdef list arrived
    cdef Py_ssize_t size
    cdef int family
    cdef int batch
    cdef bint connected
    cdef bint peer_unnamed
    cdef bint native
    cdef bint retrying

    cdef int read_datagrams(self, int revents) except -1
    cdef bint receive(self, int revents) except -1
    cdef bint receive_batch(self, int revents) except -1
    cdef bint receive_one(self) except -1
    cdef int deliver(self) except -1
    cdef bint send(self, object data, object address) except -1
    cdef int send_native(self, object data, object address) except -1
    cdef bint goes_to_peer(self, object address) except -1
    cdef int send_queued(self) except -1
    cdef int wait_for_room(self) except -1
