from libc.stdint cimport uint32_t

cdef uint32_t process_mark() except 0
cdef bint same_process(uint32_t mark) noexcept nogil
