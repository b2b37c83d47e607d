"""What is to be known of an fd before something is done with it: whether it can wait, and for what."""

from libc.errno cimport EBADF, errno
from libc.stdint cimport uint32_t
from posix.fcntl cimport F_GETFL, O_APPEND, O_NONBLOCK, fcntl
from posix.stat cimport S_ISCHR, S_ISDIR, S_ISREG, fstat, struct_stat

from aioqemu_loop.system.libc cimport raise_errno

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <sys/vfs.h>
    """
    enum:
        O_DIRECT
    struct c_statfs "statfs":
        long f_type
    int fstatfs(int fd, c_statfs *buffer) nogil


# f_type of statfs(2), <linux/magic.h>.

cdef bint is_in_memory(uint32_t file_system) noexcept nogil:
    """Nothing there waits for a device: tmpfs, ramfs."""
    return file_system == 0x01021994u or file_system == 0x858458F6u


cdef bint is_local(uint32_t file_system) noexcept nogil:
    """open, stat and close do not ask another machine or process there."""
    return (
        is_in_memory(file_system)
        or file_system == 0xEF53u  # ext2, ext3, ext4
        or file_system == 0x58465342u  # xfs
        or file_system == 0x9123683Eu  # btrfs
        or file_system == 0xF2F52010u  # f2fs
        or file_system == 0x794C7630u  # overlayfs
        or file_system == 0x73717368u  # squashfs
        or file_system == 0xE0F5E1E2u  # erofs
        or file_system == 0x2FC12FC1u  # zfs
        or file_system == 0xCA451A4Eu  # bcachefs
    )


cdef class Facts:
    """What opening and reading a whole file ask of an fd, by one fstat(2)."""


cdef Facts facts_for(int fd, int kind):
    """`kind`: what examine() said. Raises OSError for an fd that is not open; where fstat() fails otherwise the facts are zeros,
    as io has it."""
    cdef struct_stat st
    cdef Facts facts
    cdef int ret
    with nogil:
        ret = fstat(fd, &st)
    facts = Facts.__new__(Facts)
    facts.fd = fd
    if ret < 0:
        if errno == EBADF:
            raise_errno(errno)
        return facts
    facts.directory = S_ISDIR(st.st_mode)
    facts.local = kind & REGULAR and kind & LOCAL
    facts.size = st.st_size
    facts.block_size = st.st_blksize
    return facts


def facts_in_thread(int fd, int kind):
    """The same, where it may have to wait."""
    return facts_for(fd, kind)


cdef int examine(int fd) noexcept nogil:
    """What is to be known; 0 for an fd that is not open: the operation itself will tell."""
    return examine_as(fd, -1)


cdef int examine_as(int fd, int flags) noexcept nogil:
    """The same, where the flags of open(2) are known (-1: they are not)."""
    cdef struct_stat st
    cdef c_statfs fs
    cdef int kind = 0
    if fstat(fd, &st) < 0:
        return 0
    if flags == -1:
        flags = fcntl(fd, F_GETFL)
    if S_ISREG(st.st_mode):
        kind |= REGULAR
        if flags & O_DIRECT:
            kind |= DIRECT
        if flags & O_APPEND:
            kind |= APPEND
    elif flags & O_NONBLOCK:
        kind |= NONBLOCK
    if S_ISREG(st.st_mode) or S_ISDIR(st.st_mode):
        if fstatfs(fd, &fs) == 0 and is_local(<uint32_t>fs.f_type):
            kind |= LOCAL | QUICK_CLOSE
            if is_in_memory(<uint32_t>fs.f_type):
                kind = (kind & ~<int>DIRECT) | <int>IN_MEMORY
    elif not S_ISCHR(st.st_mode):  # closing a terminal waits for its output
        kind |= QUICK_CLOSE
    return kind
