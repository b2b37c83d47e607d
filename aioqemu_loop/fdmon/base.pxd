from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from aioqemu_loop.fdmon.tracer cimport Tracer
from aioqemu_loop.uring.abi cimport aio_sqe
from aioqemu_loop.uring.buffers cimport BufferRing


cdef class Runnable:
    cdef uint64_t timer_seq
    # The collector does not know it, as it was made: see ReadyQueue.push_new().
    cdef bint untracked

    cdef int run(self) except -1


cdef class AioHandler(Runnable):
    cdef readonly int fd
    cdef readonly int events
    cdef readonly bint edge
    cdef bint known_pollable
    cdef bint maybe_eventfd
    cdef bint receives
    cdef bint mon_polls
    # What the monitor in charge keeps here; meaningless to everybody else.
    cdef uint64_t mon_token
    cdef int mon_inflight
    cdef bint mon_registered
    cdef bint mon_dirty
    cdef bint mon_rearm
    cdef bint mon_receiving

    cdef int on_ready(self, int revents) except -1
    cdef int on_data(self, BufferRing buffers, uint32_t index, int size) except -1
    cdef int on_end(self, int result) except -1
    cdef bint on_sent(self, int result) except -1


cdef class CqeHandler:
    cdef aio_sqe sqe
    # What the monitor in charge keeps here.
    cdef uint64_t mon_token
    cdef bint mon_queued
    cdef bint mon_cancel

    cdef int on_cqe(self, int result, uint32_t flags) except -1


cdef class ReadyList:
    cdef PyObject **handlers
    cdef int *revents
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity

    cdef int push(self, AioHandler handler, int revents) except -1


cdef struct Slot:
    uint32_t generation
    uint32_t next_free


cdef class SlotTable:
    cdef Slot *slots
    cdef list handlers
    cdef uint32_t size
    cdef uint32_t first_free
    cdef readonly uint32_t used

    cdef uint64_t alloc(self, object handler) except 0
    cdef object get(self, uint64_t token)
    cdef int free(self, uint64_t token) except -1


cdef class FDMon:
    cdef object __weakref__
    cdef public bint edge
    cdef bint costly_changes
    cdef bint gathers
    cdef bint has_ring
    cdef uint64_t calls
    cdef Tracer tracer
    cdef public uint64_t gsource_changes

    cpdef update(self, AioHandler old, AioHandler new)
    cpdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1
    cpdef bint need_wait(self) except -1
    cpdef settle(self, AioHandler handler, ReadyList ready_list)
    cpdef bint settled(self, AioHandler handler) except *
    cpdef release(self, ReadyList ready_list)
    cpdef close(self)
    cpdef unsigned long long system_calls(self)
    cpdef list gsource_fds(self)
    cpdef bint gsource_prepare(self, ReadyList ready_list) except *
    cpdef bint gsource_check(self, list ready) except *
    cpdef int gsource_dispatch(self, ReadyList ready_list) except -1
    cdef int receive(self, AioHandler handler, bint on) except -1
    cdef bint send_later(self, AioHandler handler, object owner, void *data, uint32_t size,
                         ReadyList ready_list) except -1
    cdef int submit(self, ReadyList ready_list) except -1
    cdef bint add_sqe(self, CqeHandler handler) except -1
    cdef int cancel_sqe(self, CqeHandler handler) except -1
    cdef list take_sqes(self)
    cdef bint begin_peek(self, ReadyList ready_list) except -1
    cdef bint peek(self) noexcept nogil


cdef int check_fd(int fd) except -1
cpdef int check_pollable(AioHandler handler) except -1
