"""Which thread this is."""

from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline int aio_gettid(void) { return (int)syscall(SYS_gettid); }  /* glibc has it from 2.30 */
    /* A number for this thread that no other thread ever gets; pthread ids are reused at once. */
    static uint64_t aio_last_thread;
    static __thread uint64_t aio_this_thread;
    static inline uint64_t aio_thread_number(void) {
        if (aio_this_thread == 0)
            aio_this_thread = __atomic_add_fetch(&aio_last_thread, 1, __ATOMIC_RELAXED);
        return aio_this_thread;
    }
    """
    int gettid "aio_gettid"()
    uint64_t thread_number "aio_thread_number"()
