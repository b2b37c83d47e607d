"""What Cython's own libc and posix declarations lack, plus the clock and errno helpers."""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "<poll.h>" nogil:
    ctypedef unsigned long nfds_t
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *fds, nfds_t nfds, const timespec *timeout, const void *sigmask)
    enum:
        POLLIN
        POLLPRI
        POLLOUT
        POLLERR
        POLLHUP
        POLLNVAL
        POLLRDNORM
        POLLWRNORM

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <poll.h>
    #ifndef POLLRDHUP
    #define POLLRDHUP 0x2000
    #endif
    #include <sys/syscall.h>
    #include <unistd.h>
    #include <errno.h>
    /* glibc has epoll_pwait2 only from 2.35, musl not at all; the number is the same on every architecture. */
    #ifndef SYS_epoll_pwait2
    #define SYS_epoll_pwait2 441
    #endif
    #include <sys/epoll.h>
    static inline int aio_epoll_pwait2(int epfd, struct epoll_event *events, int count,
                                       const struct timespec *timeout) {
        return (int)syscall(SYS_epoll_pwait2, epfd, events, count, timeout, NULL, (size_t)0);
    }
    """
    enum: O_PATH
    enum: POLLRDHUP
    int aio_epoll_pwait2(int epfd, epoll_event *events, int count, const timespec *timeout) nogil

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int count, int timeout_ms)
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        EPOLLET

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef extern from "<errno.h>" nogil:
    enum:
        EACCES
        EAGAIN
        EBADF
        EBUSY
        ECANCELED
        EOWNERDEAD
        ECONNABORTED
        EEXIST
        EHOSTDOWN
        EHOSTUNREACH
        EINTR
        EINVAL
        EMFILE
        ENETDOWN
        ENETUNREACH
        ENFILE
        ENOBUFS
        ENOENT
        ENOMEM
        ENONET
        ENOSPC
        ENOPROTOOPT
        ENOSYS
        EPERM
        EPROTO
        ETIME

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t length, int advice)
    enum:
        MADV_DONTFORK
        MADV_WIPEONFORK

cdef inline int64_t clock_ns() noexcept nogil:
    """CLOCK_MONOTONIC in ns, the clock of time.monotonic()."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec

cdef inline void to_timespec(int64_t ns, timespec *ts) noexcept nogil:
    ts.tv_sec = ns // 1000000000
    ts.tv_nsec = ns % 1000000000

cdef inline int raise_errno(int number) except -1:
    """Raise the OSError subclass that belongs to an errno."""
    global errno
    errno = number
    PyErr_SetFromErrno(OSError)
    return -1
