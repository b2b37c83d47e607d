cdef bint is_plain(object protocol) except -1
cdef int feed(object protocol, const char *data, Py_ssize_t size) except -1
