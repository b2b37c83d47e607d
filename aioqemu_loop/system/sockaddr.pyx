"""Socket addresses as the socket module shows them, without a socket object."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t, uint32_t

cdef extern from "Python.h":
    object PyUnicode_DecodeFSDefaultAndSize(const char *text, Py_ssize_t size)

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t size)

cdef extern from "<netinet/in.h>" nogil:
    struct sockaddr_in:
        uint16_t sin_port
        int sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        int sin6_addr
        uint32_t sin6_scope_id
    uint16_t ntohs(uint16_t value)
    uint32_t ntohl(uint32_t value)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)
    enum: INET6_ADDRSTRLEN

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        char sun_path[108]

cdef extern from "<stddef.h>" nogil:
    """
    #define AIOQEMU_SUN_PATH_OFFSET offsetof(struct sockaddr_un, sun_path)
    """
    int AIOQEMU_SUN_PATH_OFFSET


cdef object address_to_python(sockaddr_storage *address, socklen_t size):
    """(host, port), (host, port, flowinfo, scope_id), a Unix path (str, or bytes if abstract); None for others."""
    cdef char text[INET6_ADDRSTRLEN]
    cdef sockaddr_in *v4
    cdef sockaddr_in6 *v6
    cdef sockaddr_un *local
    cdef Py_ssize_t length
    if address.ss_family == AF_INET:
        v4 = <sockaddr_in *>address
        inet_ntop(AF_INET, &v4.sin_addr, text, INET6_ADDRSTRLEN)
        return (text.decode("ascii"), ntohs(v4.sin_port))
    if address.ss_family == AF_INET6:
        v6 = <sockaddr_in6 *>address
        inet_ntop(AF_INET6, &v6.sin6_addr, text, INET6_ADDRSTRLEN)
        return (text.decode("ascii"), ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo), v6.sin6_scope_id)
    if address.ss_family == AF_UNIX:
        local = <sockaddr_un *>address
        length = <Py_ssize_t>size - AIOQEMU_SUN_PATH_OFFSET
        if length <= 0:
            return ""
        if local.sun_path[0] == 0:
            return PyBytes_FromStringAndSize(local.sun_path, length)
        return PyUnicode_DecodeFSDefaultAndSize(local.sun_path, strnlen(local.sun_path, length))
    return None


cdef object sockname_of(int fd):
    """The socket's own address, or None."""
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    if getsockname(fd, <sockaddr *>&address, &size) < 0:
        return None
    return address_to_python(&address, size)
