from libc.stdint cimport int64_t

from aioqemu_loop.loop.core cimport LoopCore


cdef class Job:
    cdef object function
    cdef tuple args
    cdef dict kwargs
    cdef bint cancelled
    cdef bint begun
    cdef object future

    cdef int let_go(self) except -1


cdef class Ways:
    cdef object __weakref__
    cdef readonly object loop
    cdef LoopCore core  # the same, if it is one of ours
    cdef bint in_turn
    cdef int64_t turn_ns
    cdef object turn_over
    cdef object waiting

    cdef int begin_turn(self) except -1
    cdef bint spent(self) except -1
    cdef object another_turn(self)
    cdef bint has_ring(self) noexcept
    cdef Job start(self, object function, tuple args, dict kwargs=*)


cdef object result_of(object future)
cdef int raise_for(Py_ssize_t ret) except -1
