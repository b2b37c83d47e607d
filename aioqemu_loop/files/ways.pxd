from libc.stdint cimport int64_t, uint32_t

from aioqemu_loop.loop.core cimport LoopCore


cdef class Job:
    cdef object function
    cdef tuple args
    cdef dict kwargs
    cdef bint must
    cdef bint begun
    cdef bint asked  # to be cancelled
    cdef object message
    cdef object future
    cdef object result
    cdef object error

    cdef bint cancel(self, object message) except -1
    cdef int let_go(self) except -1
    cdef int run(self) except -1
    cdef int end(self) except -1


cdef class Ways:
    cdef object __weakref__
    cdef readonly object loop
    cdef LoopCore core  # the same, if it is one of ours
    cdef bint in_turn
    cdef int64_t turn_ns
    cdef object turn_over
    cdef object waiting
    cdef object jobs  # not begun
    cdef object over  # done, of which their tasks do not know yet
    cdef int callers  # calls in the executor that do them
    cdef bint lingering  # one of them waits for the next job
    cdef uint32_t posted  # changes when that one is to look
    cdef bint told  # the loop will look at what is over

    cdef int begin_turn(self) except -1
    cdef bint spent(self) except -1
    cdef object another_turn(self)
    cdef bint has_ring(self) noexcept
    cdef Job start(self, object function, tuple args, dict kwargs=*, bint must=*)
    cdef bint has_taker(self) except -1
    cdef int callers_max(self) except -1
    cdef int add_caller(self) except -1
    cdef int linger(self) except -1


cdef int raise_for(Py_ssize_t ret) except -1
