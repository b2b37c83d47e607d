"""Socket addresses as the socket module shows them, without a socket object."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT32_MAX, uint16_t, uint32_t
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    object PyUnicode_DecodeFSDefaultAndSize(const char *text, Py_ssize_t size)

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t size)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        int sin6_addr
        uint32_t sin6_scope_id
    uint16_t ntohs(uint16_t value)
    uint32_t ntohl(uint32_t value)
    uint16_t htons(uint16_t value)
    uint32_t htonl(uint32_t value)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *address)
    enum: INET6_ADDRSTRLEN

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        char sun_path[108]

cdef extern from "<stddef.h>" nogil:
    """
    #define AIOQEMU_SUN_PATH_OFFSET offsetof(struct sockaddr_un, sun_path)
    """
    int AIOQEMU_SUN_PATH_OFFSET


# A flow label has 20 bits.
cdef int FLOWINFO_MAX = 0xFFFFF


cdef int write_ipv4(unsigned char *address, char *text) noexcept:
    """As inet_ntop(), which goes by printf and takes longer than accept() in a busy server. Returns the length."""
    cdef int length = 0
    cdef int i, part
    for i in range(4):
        part = address[i]
        if part >= 100:
            text[length] = 48 + part // 100
            length += 1
        if part >= 10:
            text[length] = 48 + part // 10 % 10
            length += 1
        text[length] = 48 + part % 10
        text[length + 1] = 46  # "."
        length += 2
    return length - 1


cdef object address_to_python(sockaddr_storage *address, socklen_t size):
    """(host, port), (host, port, flowinfo, scope_id), a Unix path (str, or bytes if abstract); None for others."""
    cdef char text[INET6_ADDRSTRLEN]
    cdef sockaddr_in *v4
    cdef sockaddr_in6 *v6
    cdef sockaddr_un *local
    cdef Py_ssize_t length
    if size == 0:  # the peer of a Unix datagram socket that has no name
        return None
    if address.ss_family == AF_INET:
        v4 = <sockaddr_in *>address
        return (text[: write_ipv4(<unsigned char *>&v4.sin_addr, text)].decode("ascii"), ntohs(v4.sin_port))
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


cdef socklen_t address_from_python(object address, int family, sockaddr_storage *out) except? 0:
    """Fill in (host, port) or (host, port, flowinfo, scope_id) with a numeric host; returns the size.

    0 without an exception: not of that form, names and mistakes are the socket module's to deal with.
    """
    cdef sockaddr_in *v4 = <sockaddr_in *>out
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>out
    cdef Py_ssize_t count
    if type(address) is not tuple or (family != AF_INET and family != AF_INET6):
        return 0
    count = len(<tuple>address)
    if count != 2 and (family == AF_INET or count < 2 or count > 4):
        return 0
    host = (<tuple>address)[0]
    for number in (<tuple>address)[1:]:
        if type(number) is not int or not 0 <= number <= UINT32_MAX:
            return 0
    port = (<tuple>address)[1]
    if port > 0xFFFF or count > 2 and (<tuple>address)[2] > FLOWINFO_MAX:
        return 0
    if type(host) is not str or "\0" in <str>host:
        return 0
    text = (<str>host).encode("utf-8", "replace")
    memset(out, 0, sizeof(sockaddr_storage))
    out.ss_family = family
    if family == AF_INET:
        v4.sin_port = htons(port)
        return sizeof(sockaddr_in) if inet_pton(AF_INET, text, &v4.sin_addr) == 1 else 0
    v6.sin6_port = htons(port)
    if count > 2:
        v6.sin6_flowinfo = htonl((<tuple>address)[2])
    if count > 3:
        v6.sin6_scope_id = (<tuple>address)[3]
    return sizeof(sockaddr_in6) if inet_pton(AF_INET6, text, &v6.sin6_addr) == 1 else 0


cdef bytes raw_address(sockaddr_storage *address, socklen_t size):
    """A copy, for name_from_raw()."""
    return PyBytes_FromStringAndSize(<char *>address, min(size, <socklen_t>sizeof(sockaddr_storage)))


cdef bytes raw_sockname(int fd):
    """The socket's own address, or None."""
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    if getsockname(fd, <sockaddr *>&address, &size) < 0:
        return None
    return raw_address(&address, size)


cdef object name_from_raw(bytes raw):
    """What raw_address() or raw_sockname() returned, as the socket module shows it."""
    cdef sockaddr_storage address
    if raw is None:
        return None
    memcpy(&address, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    return address_to_python(&address, <socklen_t>PyBytes_GET_SIZE(raw))
