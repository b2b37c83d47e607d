cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        unsigned short ss_family
    struct sockaddr:
        pass
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int getsockname(int fd, sockaddr *address, socklen_t *size)
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        SOCK_CLOEXEC
        SOCK_NONBLOCK

cdef object address_to_python(sockaddr_storage *address, socklen_t size)
cdef socklen_t address_from_python(object address, int family, sockaddr_storage *out) except? 0
cdef bytes raw_address(sockaddr_storage *address, socklen_t size)
cdef bytes raw_sockname(int fd)
cdef object name_from_raw(bytes raw)
