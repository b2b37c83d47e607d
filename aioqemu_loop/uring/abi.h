/* The io_uring ABI as this project uses it. The kernel's ABI only ever grows, so constants newer than the build
 * machine's linux/io_uring.h are declared here; what the running kernel has is found out by probing. */
#ifndef AIOQEMU_URING_ABI_H
#define AIOQEMU_URING_ABI_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_enter 426
#define SYS_io_uring_register 427
#endif

struct aio_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buf_group; /* or buf_index */
    uint16_t personality;
    int32_t file_index; /* or splice_fd_in */
    uint64_t addr3;
    uint64_t unused;
};

struct aio_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct aio_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct aio_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct aio_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct aio_sq_offsets sq_off;
    struct aio_cq_offsets cq_off;
};

struct aio_kernel_timespec {
    int64_t tv_sec;
    int64_t tv_nsec;
};

struct aio_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz;
    uint32_t min_wait_usec;
    uint64_t ts;
};

/* An entry of a ring of provided buffers. The ring's tail lies in the last two bytes of the first one. */
struct aio_buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t tail;
};

struct aio_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid;
    uint16_t flags;
    uint64_t resv[3];
};

/* What IORING_REGISTER_PROBE tells of each operation. */
struct aio_probe_op {
    uint8_t op, resv;
    uint16_t flags;
    uint32_t resv2;
};

struct aio_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct aio_probe_op ops[256];
};

_Static_assert(offsetof(struct aio_probe, ops) == 16, "probe");
_Static_assert(sizeof(struct aio_buf) == 16, "buf");
_Static_assert(sizeof(struct aio_buf_reg) == 40, "buf reg");
_Static_assert(sizeof(struct aio_sqe) == 64, "sqe");
_Static_assert(offsetof(struct aio_sqe, user_data) == 32, "sqe user_data");
_Static_assert(sizeof(struct aio_cqe) == 16, "cqe");
_Static_assert(sizeof(struct aio_uring_params) == 120, "params");
_Static_assert(sizeof(struct aio_getevents_arg) == 24, "getevents arg");

enum {
    AIO_OP_READV = 1,
    AIO_OP_WRITEV = 2,
    AIO_OP_FSYNC = 3,
    AIO_OP_POLL_ADD = 6,
    AIO_OP_ASYNC_CANCEL = 14, /* 5.5 */
    AIO_OP_OPENAT = 18,       /* 5.6 */
    AIO_OP_READ = 22,         /* 5.6 */
    AIO_OP_WRITE = 23,        /* 5.6 */
    AIO_OP_SEND = 26,         /* 5.6 */
    AIO_OP_RECV = 27,         /* 5.6 */
    AIO_OP_OPENAT2 = 28,      /* 5.6 */
    AIO_OP_SPLICE = 30,       /* 5.7 */
    AIO_OP_TEE = 33,          /* 5.8 */
    AIO_OP_RENAMEAT = 35,     /* 5.11 */
    AIO_OP_UNLINKAT = 36,     /* 5.11 */
    AIO_OP_MKDIRAT = 37,      /* 5.15 */
    AIO_OP_SYMLINKAT = 38,    /* 5.15 */
    AIO_OP_LINKAT = 39,       /* 5.15 */
    AIO_OP_WAITID = 50,       /* 6.7 */
    AIO_OP_FUTEX_WAIT = 51,   /* 6.7 */
    AIO_OP_FUTEX_WAKE = 52,   /* 6.7 */
};

enum {
    AIO_FSYNC_DATASYNC = 1u << 0, /* of op_flags */
};

enum {
    AIO_RECV_MULTISHOT = 1u << 1, /* of ioprio; 6.0 */
};

enum {
    AIO_POLL_ADD_MULTI = 1u << 0, /* 5.13; edge-triggered */
};

enum {
    AIO_SETUP_CQSIZE = 1u << 3,
    AIO_SETUP_R_DISABLED = 1u << 6,    /* 5.10 */
    AIO_SETUP_SUBMIT_ALL = 1u << 7,    /* 5.18 */
    AIO_SETUP_COOP_TASKRUN = 1u << 8,  /* 5.19 */
    AIO_SETUP_TASKRUN_FLAG = 1u << 9,  /* 5.19 */
    AIO_SETUP_SINGLE_ISSUER = 1u << 12, /* 6.0 */
    AIO_SETUP_DEFER_TASKRUN = 1u << 13, /* 6.1 */
};

enum {
    AIO_FEAT_SINGLE_MMAP = 1u << 0, /* 5.4 */
    AIO_FEAT_NODROP = 1u << 1,      /* 5.5 */
    AIO_FEAT_EXT_ARG = 1u << 8,     /* 5.11 */
    AIO_FEAT_CQE_SKIP = 1u << 11,   /* 5.17 */
    AIO_FEAT_NO_IOWAIT = 1u << 17,  /* 6.15 */
};

enum {
    AIO_SQE_ASYNC = 1u << 4,
    AIO_SQE_BUFFER_SELECT = 1u << 5,
    AIO_SQE_CQE_SKIP_SUCCESS = 1u << 6, /* needs AIO_FEAT_CQE_SKIP */
};

enum {
    AIO_SQ_CQ_OVERFLOW = 1u << 1,
    AIO_SQ_TASKRUN = 1u << 2,
};

enum {
    AIO_ENTER_GETEVENTS = 1u << 0,
    AIO_ENTER_EXT_ARG = 1u << 3,
    AIO_ENTER_NO_IOWAIT = 1u << 7,
};

enum {
    AIO_CQ_EVENTFD_DISABLED = 1u << 0,
};

enum {
    AIO_CQE_F_BUFFER = 1u << 0,
    AIO_CQE_F_MORE = 1u << 1,
    AIO_CQE_BUFFER_SHIFT = 16,
};

#define AIO_OFF_SQ_RING 0ULL
#define AIO_OFF_SQES 0x10000000ULL
#define AIO_REGISTER_EVENTFD 4
#define AIO_UNREGISTER_EVENTFD 5
#define AIO_REGISTER_PROBE 8 /* 5.6 */
#define AIO_PROBE_SUPPORTED (1u << 0)
#define AIO_REGISTER_ENABLE_RINGS 12
#define AIO_REGISTER_IOWQ_MAX_WORKERS 19 /* 5.15 */
#define AIO_REGISTER_PBUF_RING 22 /* 5.19 */

/* Each returns a value >= 0, or -errno. */
static inline int aio_uring_setup(uint32_t entries, struct aio_uring_params *params) {
    int ret = (int)syscall(SYS_io_uring_setup, entries, params);
    return ret < 0 ? -errno : ret;
}

static inline int aio_uring_enter(int fd, uint32_t to_submit, uint32_t min_complete, uint32_t flags,
                                  const void *arg, size_t arg_size) {
    int ret = (int)syscall(SYS_io_uring_enter, fd, to_submit, min_complete, flags, arg, arg_size);
    return ret < 0 ? -errno : ret;
}

static inline int aio_uring_register(int fd, unsigned opcode, void *arg, unsigned count) {
    int ret = (int)syscall(SYS_io_uring_register, fd, opcode, arg, count);
    return ret < 0 ? -errno : ret;
}

/* poll32_events is two swapped 16-bit halves on big-endian machines. */
static inline uint32_t aio_poll_events(uint32_t events) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return (events << 16) | (events >> 16);
#else
    return events;
#endif
}

#endif
