"""What is to be known of an fd before something is done with it: whether it can wait, and for what."""

from posix.fcntl cimport F_GETFL, O_NONBLOCK, fcntl
from posix.stat cimport S_ISCHR, S_ISDIR, S_ISREG, fstat, struct_stat

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

# f_type of statfs(2), <linux/magic.h>: where nothing waits for a device ...
cdef frozenset MEMORY_FILE_SYSTEMS = frozenset({0x01021994, 0x858458F6})  # tmpfs, ramfs
# ... and where open, stat and close do not ask another machine or process.
cdef frozenset LOCAL_FILE_SYSTEMS = MEMORY_FILE_SYSTEMS | {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # xfs
    0x9123683E,  # btrfs
    0xF2F52010,  # f2fs
    0x794C7630,  # overlayfs
    0x73717368,  # squashfs
    0xE0F5E1E2,  # erofs
    0x2FC12FC1,  # zfs
    0xCA451A4E,  # bcachefs
}

cdef int examine(int fd) noexcept:
    """What is to be known; 0 for an fd that is not open: the operation itself will tell."""
    cdef struct_stat st
    cdef c_statfs fs
    cdef int kind = 0
    if fstat(fd, &st) < 0:
        return 0
    cdef int flags = fcntl(fd, F_GETFL)
    if S_ISREG(st.st_mode):
        kind |= REGULAR
        if flags & O_DIRECT:
            kind |= DIRECT
    elif flags & O_NONBLOCK:
        kind |= NONBLOCK
    if S_ISREG(st.st_mode) or S_ISDIR(st.st_mode):
        if fstatfs(fd, &fs) == 0:
            if fs.f_type in MEMORY_FILE_SYSTEMS:
                kind = kind & ~DIRECT | IN_MEMORY
            if fs.f_type in LOCAL_FILE_SYSTEMS:
                kind |= LOCAL | QUICK_CLOSE
    elif not S_ISCHR(st.st_mode):  # closing a terminal waits for its output
        kind |= QUICK_CLOSE
    return kind
