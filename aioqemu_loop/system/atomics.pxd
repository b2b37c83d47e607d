from libc.stdint cimport uint16_t, uint32_t

cdef extern from "aioqemu_loop/system/atomics.h" nogil:
    uint32_t aio_load_acquire(const uint32_t *p)
    void aio_store_release(uint32_t *p, uint32_t value)
    void aio_store_release16(uint16_t *p, uint16_t value)
    uint32_t aio_load_relaxed(const uint32_t *p)
    void aio_fence()
    void aio_cpu_relax()
