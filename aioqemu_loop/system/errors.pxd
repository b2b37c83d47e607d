cdef object os_error(int err)
