from libc.stdint cimport int64_t


# What is known of an fd.
cdef enum:
    REGULAR = 1 << 0
    DIRECT = 1 << 1
    IN_MEMORY = 1 << 2
    LOCAL = 1 << 3  # a regular file or directory that is
    QUICK_CLOSE = 1 << 4
    # RWF_NOWAIT is not supported there.
    NO_TRY_READ = 1 << 5
    NO_TRY_WRITE = 1 << 6
    # No regular file, and O_NONBLOCK.
    NONBLOCK = 1 << 7
    # A regular file, and O_APPEND.
    APPEND = 1 << 8


cdef class Facts:
    cdef readonly int fd
    cdef readonly bint directory
    cdef readonly bint local  # a regular file of a local file system
    cdef readonly int64_t size  # bytes
    cdef readonly int64_t block_size  # what suits the file, bytes


cdef int examine(int fd) noexcept nogil
cdef int examine_as(int fd, int flags) noexcept nogil
cdef Facts facts_for(int fd, int kind)
