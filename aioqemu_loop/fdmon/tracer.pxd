cdef class Tracer:
    cdef object callback
    cdef frozenset names

    cdef int tell(self, str name, dict details) except -1
