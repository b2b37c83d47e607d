"""Memory that the kernel receives into: a ring of provided buffers, shared by all receives of one io_uring.

The kernel takes a buffer when there are bytes for it, so an idle connection holds none; give() hands it back. Buffers
come back in any order and go out first in, first out.
"""

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from aioqemu_loop.system.atomics cimport aio_store_release16
from aioqemu_loop.system.libc cimport MADV_DONTFORK, madvise, raise_errno
from aioqemu_loop.system.process cimport process_mark, same_process
from aioqemu_loop.uring.abi cimport *
from aioqemu_loop.uring.ring cimport Ring

cdef enum:
    # Measured on 6.18: of 2 KiB to 256 KiB this size was the fastest for bulk, and small ones stay in the cache.
    BUFFER_SIZE = 4096
    RING_SIZE = 65536  # 256 entries of 16 bytes, and whole pages on every machine


cdef class BufferRing:
    """256 buffers of 4 KiB. Touched, and so really taken, as far as they are used. Raises OSError (ENOMEM)."""

    def __cinit__(self):
        cdef uint32_t i
        cdef void *address
        self.mark = process_mark()
        address = mmap(NULL, RING_SIZE + BUFFERS * BUFFER_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if address == MAP_FAILED:
            raise_errno(errno)
        self.entries = <aio_buf *>address
        self.memory = <char *>address + RING_SIZE
        # The kernel has pinned the ring; a fork must not give this process another copy. Of the buffers a child has its own.
        if madvise(address, RING_SIZE, MADV_DONTFORK) < 0:
            raise_errno(errno)
        for i in range(<uint32_t>BUFFERS):
            self.give(i)

    def __dealloc__(self):
        if self.entries == NULL:
            return
        munmap(self.memory, BUFFERS * BUFFER_SIZE)
        if same_process(self.mark):  # the ring does not exist in a child
            munmap(self.entries, RING_SIZE)

    cdef int register(self, Ring ring) noexcept:
        """Let `ring` receive into these, as group BUFFER_GROUP. By the ring's owner. Returns 0 or -errno."""
        cdef aio_buf_reg wanted
        memset(&wanted, 0, sizeof(wanted))
        wanted.ring_addr = <uint64_t>self.entries
        wanted.ring_entries = BUFFERS
        wanted.bgid = BUFFER_GROUP
        return aio_uring_register(ring.fd, AIO_REGISTER_PBUF_RING, &wanted, 1)

    cdef char *at(self, uint32_t index) noexcept:
        return self.memory + index * BUFFER_SIZE

    cdef int give(self, uint32_t index) except -1:
        """The kernel may use buffer `index` again."""
        cdef aio_buf *entry
        if not same_process(self.mark):
            return 0
        entry = &self.entries[self.tail & (BUFFERS - 1)]
        entry.addr = <uint64_t>self.at(index)
        entry.len = BUFFER_SIZE
        entry.bid = <uint16_t>index
        self.tail += 1
        aio_store_release16(&self.entries[0].tail, self.tail)
        return 0
