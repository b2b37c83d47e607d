from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "aioqemu_loop/uring/abi.h" nogil:
    struct aio_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        uint16_t buf_group
        int32_t file_index
        uint64_t addr3
    struct aio_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    struct aio_sq_offsets:
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array
    struct aio_cq_offsets:
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags
    struct aio_uring_params:
        uint32_t sq_entries, cq_entries, flags, features
        aio_sq_offsets sq_off
        aio_cq_offsets cq_off
    struct aio_kernel_timespec:
        int64_t tv_sec, tv_nsec
    struct aio_getevents_arg:
        uint64_t sigmask
        uint32_t sigmask_sz, min_wait_usec
        uint64_t ts
    struct aio_buf:
        uint64_t addr
        uint32_t len
        uint16_t bid, tail
    struct aio_buf_reg:
        uint64_t ring_addr
        uint32_t ring_entries
        uint16_t bgid, flags
    struct aio_probe_op:
        uint8_t op
        uint16_t flags
    struct aio_probe:
        uint8_t last_op, ops_len
        aio_probe_op ops[256]
    enum:
        AIO_OP_READV
        AIO_OP_WRITEV
        AIO_OP_FSYNC
        AIO_OP_POLL_ADD
        AIO_OP_ASYNC_CANCEL
        AIO_OP_OPENAT
        AIO_OP_READ
        AIO_OP_WRITE
        AIO_OP_SEND
        AIO_OP_RECV
        AIO_OP_OPENAT2
        AIO_OP_SPLICE
        AIO_OP_TEE
        AIO_OP_RENAMEAT
        AIO_OP_UNLINKAT
        AIO_OP_MKDIRAT
        AIO_OP_SYMLINKAT
        AIO_OP_LINKAT
        AIO_OP_WAITID
        AIO_OP_FUTEX_WAIT
        AIO_OP_FUTEX_WAKE
        AIO_FSYNC_DATASYNC
        AIO_RECV_MULTISHOT
        AIO_POLL_ADD_MULTI
        AIO_SETUP_CQSIZE
        AIO_SETUP_R_DISABLED
        AIO_SETUP_SUBMIT_ALL
        AIO_SETUP_COOP_TASKRUN
        AIO_SETUP_TASKRUN_FLAG
        AIO_SETUP_SINGLE_ISSUER
        AIO_SETUP_DEFER_TASKRUN
        AIO_FEAT_SINGLE_MMAP
        AIO_FEAT_NODROP
        AIO_FEAT_EXT_ARG
        AIO_FEAT_CQE_SKIP
        AIO_FEAT_NO_IOWAIT
        AIO_SQE_ASYNC
        AIO_SQE_BUFFER_SELECT
        AIO_SQE_CQE_SKIP_SUCCESS
        AIO_SQ_CQ_OVERFLOW
        AIO_SQ_TASKRUN
        AIO_ENTER_GETEVENTS
        AIO_ENTER_EXT_ARG
        AIO_ENTER_NO_IOWAIT
        AIO_CQE_F_BUFFER
        AIO_CQE_F_MORE
        AIO_CQE_BUFFER_SHIFT
        AIO_CQ_EVENTFD_DISABLED
        AIO_REGISTER_EVENTFD
        AIO_UNREGISTER_EVENTFD
        AIO_REGISTER_PROBE
        AIO_PROBE_SUPPORTED
        AIO_REGISTER_ENABLE_RINGS
        AIO_REGISTER_IOWQ_MAX_WORKERS
        AIO_REGISTER_PBUF_RING
    uint64_t AIO_OFF_SQ_RING
    uint64_t AIO_OFF_SQES
    int aio_uring_setup(uint32_t entries, aio_uring_params *params)
    int aio_uring_enter(int fd, uint32_t to_submit, uint32_t min_complete, uint32_t flags, const void *arg,
                        size_t arg_size)
    int aio_uring_register(int fd, unsigned opcode, void *arg, unsigned count)
    uint32_t aio_poll_events(uint32_t events)
