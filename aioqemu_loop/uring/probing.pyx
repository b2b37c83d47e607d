"""What the running kernel's io_uring can do beyond knowing operations, found out by doing it."""

from libc.stdint cimport int64_t

from aioqemu_loop.uring.abi cimport *
from aioqemu_loop.uring.buffers cimport BUFFER_GROUP, BufferRing
from aioqemu_loop.uring.ring cimport Ring

import socket

cdef int64_t PATIENCE_NS = 1_000_000_000

# What this project uses: name -> (number of the operation, the Linux that brought it).
OPERATIONS = {
    "readv": (AIO_OP_READV, "5.1"),
    "writev": (AIO_OP_WRITEV, "5.1"),
    "fsync": (AIO_OP_FSYNC, "5.1"),
    "poll_add": (AIO_OP_POLL_ADD, "5.1"),
    "async_cancel": (AIO_OP_ASYNC_CANCEL, "5.5"),
    "openat": (AIO_OP_OPENAT, "5.6"),
    "read": (AIO_OP_READ, "5.6"),
    "write": (AIO_OP_WRITE, "5.6"),
    "send": (AIO_OP_SEND, "5.6"),
    "recv": (AIO_OP_RECV, "5.6"),
    "openat2": (AIO_OP_OPENAT2, "5.6"),
    "splice": (AIO_OP_SPLICE, "5.7"),
    "tee": (AIO_OP_TEE, "5.8"),
    "renameat": (AIO_OP_RENAMEAT, "5.11"),
    "unlinkat": (AIO_OP_UNLINKAT, "5.11"),
    "mkdirat": (AIO_OP_MKDIRAT, "5.15"),
    "symlinkat": (AIO_OP_SYMLINKAT, "5.15"),
    "linkat": (AIO_OP_LINKAT, "5.15"),
    "waitid": (AIO_OP_WAITID, "6.7"),
    "futex_wait": (AIO_OP_FUTEX_WAIT, "6.7"),
    "futex_wake": (AIO_OP_FUTEX_WAKE, "6.7"),
}


def probe_ring():
    """Name -> whether a new ring has it: the set-up flags and features that this project uses. "entries": how many
    submissions it holds, which is fewer than the usual 64 where memory for rings is short. Raises OSError as Ring() does."""
    cdef Ring ring = Ring()
    try:
        return {
            "entries": ring.sq_entries,
            "defer_taskrun": bool(ring.setup_flags & AIO_SETUP_DEFER_TASKRUN),
            "cqe_skip": bool(ring.features & AIO_FEAT_CQE_SKIP),
            "no_iowait": bool(ring.features & AIO_FEAT_NO_IOWAIT),
        }
    finally:
        ring.close()


def probe_receiving():
    """(provided buffers, multishot receive): each None if it works here, else -errno or the odd result. Raises OSError as
    Ring() does."""
    cdef Ring ring = Ring(8)
    cdef BufferRing buffers
    cdef int result
    try:
        ring.enable()
        try:
            buffers = BufferRing()
        except OSError as exc:
            return -exc.errno, None
        result = buffers.register(ring)
        if result < 0:
            return result, None
        near, far = socket.socketpair()
        with near, far:
            return None, receive_twice(ring, near.fileno(), far)
    finally:
        ring.close()


cdef object receive_twice(Ring ring, int fd, object far):
    """None if one multishot receive told of two messages and of the end."""
    cdef aio_sqe *sqe = ring.get_sqe()
    cdef aio_cqe cqe
    sqe.opcode = AIO_OP_RECV
    sqe.ioprio = AIO_RECV_MULTISHOT
    sqe.flags = AIO_SQE_BUFFER_SELECT
    sqe.buf_group = BUFFER_GROUP
    sqe.fd = fd
    for expected in (1, 1, 0):
        if expected:
            far.send(b"x")
        else:
            far.close()
        ring.enter(1, PATIENCE_NS)
        if not ring.cq_ready():
            return 0
        cqe = ring.pop_cqe()
        if cqe.res != expected or (expected and not cqe.flags & AIO_CQE_F_MORE):
            return cqe.res
    return None
