/* Acquire/release accesses to memory that is shared with the kernel (ring indices)
 * or with other threads while the GIL is dropped (the notify flags). */
#ifndef AIOQEMU_ATOMICS_H
#define AIOQEMU_ATOMICS_H

#include <stdint.h>

static inline uint32_t aio_load_acquire(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void aio_store_release(uint32_t *p, uint32_t value) {
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static inline void aio_store_release16(uint16_t *p, uint16_t value) {
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static inline uint32_t aio_load_relaxed(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void aio_fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void aio_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
