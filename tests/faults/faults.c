/* Preloaded into a child process: makes the system calls of the loop's compiled modules fail, fall short, or behave like
 * those of an older kernel, as a plan says. Driven from Python by ctypes (faults.py), where the names are explained.
 *
 * A call that is to fail is not made, but for close(), which lets go of the fd whatever it returns. An operation of
 * io_uring that is to fail becomes a NOP that completes with the error (IORING_NOP_INJECT_RESULT, Linux 6.10). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALLS(X)                                                                                                       \
    X(ppoll) X(epoll_wait) X(epoll_pwait2) X(epoll_ctl) X(epoll_create1) X(eventfd) X(read) X(write) X(writev) X(recv) \
    X(recvmsg) X(recvmmsg) X(send) X(sendto) X(sendmsg) X(accept4) X(connect) X(socket) X(shutdown) X(close) X(fcntl)  \
    X(fstat) X(getsockopt) X(setsockopt) X(getsockname) X(mmap) X(madvise) X(preadv2) X(pwritev2) X(sendfile)          \
    X(pidfd_open) X(waitid) X(waitpid) X(pipe2) X(io_uring_setup) X(io_uring_enter) X(io_uring_register) X(sqe_poll)   \
    X(sqe_recv) X(sqe_send) X(sqe_read) X(sqe_write) X(sqe_fsync) X(sqe_open) X(sqe_other)

#define NUMBER(name) F_##name,
#define NAME(name) #name,
#define REAL(name) static __typeof__(name) *real_##name;
#define FIND(name) real_##name = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);
enum { CALLS(NUMBER) CALL_COUNT };
static const char *const names[] = {CALLS(NAME)};

/* The plan. */
int fault_call = -1, fault_errno, fault_short, fault_count, fault_percent, fault_anybody, fault_level;
int64_t fault_first;
uint64_t fault_random = 1;
/* What happened. */
int64_t fault_seen, fault_done, fault_calls[CALL_COUNT];

const char *fault_name(int call)
{
    return call < CALL_COUNT ? names[call] : NULL;
}

#define LIBC(X)                                                                                                        \
    X(ppoll) X(epoll_wait) X(epoll_ctl) X(epoll_create1) X(read) X(write) X(writev) X(recv) X(recvmsg) X(recvmmsg)     \
    X(send) X(sendto) X(sendmsg) X(accept4) X(connect) X(socket) X(shutdown) X(close) X(getsockopt) X(setsockopt)      \
    X(getsockname) X(mmap) X(madvise) X(waitid) X(waitpid) X(pipe2) X(syscall)
LIBC(REAL)
static int (*real_eventfd)(unsigned, int);
static int (*real_fcntl)(int, int, ...);
static int (*real_fstat)(int, struct stat *);
static ssize_t (*real_preadv2)(int, const struct iovec *, int, off_t, int);
static ssize_t (*real_pwritev2)(int, const struct iovec *, int, off_t, int);
static ssize_t (*real_sendfile)(int, int, off_t *, size_t);

static void find_the_real_ones(void) /* also called before any constructor runs */
{
    if (real_syscall)
        return;
    LIBC(FIND)
    *(void **)&real_eventfd = dlsym(RTLD_NEXT, "eventfd");
    *(void **)&real_fcntl = dlsym(RTLD_NEXT, "fcntl64");
    *(void **)&real_fstat = dlsym(RTLD_NEXT, "fstat");
    *(void **)&real_preadv2 = dlsym(RTLD_NEXT, "preadv64v2");
    *(void **)&real_pwritev2 = dlsym(RTLD_NEXT, "pwritev64v2");
    *(void **)&real_sendfile = dlsym(RTLD_NEXT, "sendfile64");
}

/* Whether the code at this address is a compiled module of the loop. */
static int is_ours(void *caller)
{
    static struct { void *caller; int ours; } known[1024];
    unsigned slot = (unsigned)((uintptr_t)caller >> 1) % 1024;
    Dl_info info;
    if (known[slot].caller != caller) {
        int ours = dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "aioqemu_loop/") != NULL;
        known[slot].caller = NULL;
        known[slot].ours = ours;
        __atomic_store_n(&known[slot].caller, caller, __ATOMIC_RELEASE);
    }
    return known[slot].ours;
}

enum { NORMAL = 0, SHORT = -1 };

/* What is to become of this call: NORMAL, SHORT, or an errno. */
static int decide(int call, int ours)
{
    int64_t seen;
    if (ours)
        __atomic_add_fetch(&fault_calls[call], 1, __ATOMIC_RELAXED);
    if (fault_call != call || !(ours || fault_anybody))
        return NORMAL;
    seen = __atomic_add_fetch(&fault_seen, 1, __ATOMIC_RELAXED);
    if (fault_percent) {
        fault_random ^= fault_random << 13;
        fault_random ^= fault_random >> 7;
        fault_random ^= fault_random << 17;
        if (fault_random % 100 >= (uint64_t)fault_percent)
            return NORMAL;
    } else if (seen < fault_first || (fault_count >= 0 && seen >= fault_first + fault_count)) {
        return NORMAL;
    }
    __atomic_add_fetch(&fault_done, 1, __ATOMIC_RELAXED);
    return fault_short ? SHORT : fault_errno;
}

#define DECIDE(call) (find_the_real_ones(), decide(F_##call, is_ours(__builtin_return_address(0))))
#define HALF(size) ((size) > 1 ? (size) / 2 : (size))

/* Edge-triggered registrations are reported once per change. After EAGAIN, or bytes left behind, the kernel would tell of
 * the next change; here none comes, so the registration is looked at anew. */
enum { WATCHED_MAX = 4096 };
static struct { int epfd; struct epoll_event event; } watched[WATCHED_MAX];

static void tell_again(int fd)
{
    if (fd >= 0 && fd < WATCHED_MAX && watched[fd].epfd)
        real_epoll_ctl(watched[fd].epfd, EPOLL_CTL_MOD, fd, &watched[fd].event);
}

static int failed(int fd, int error)
{
    if (error == EAGAIN)
        tell_again(fd);
    errno = error;
    return -1;
}

#define FAILING(call, fd)                                                                                              \
    int what = DECIDE(call);                                                                                           \
    if (what > 0)                                                                                                      \
        return failed(fd, what);

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *limit, const sigset_t *mask)
{
    FAILING(ppoll, -1)
    return real_ppoll(fds, count, limit, mask);
}

int epoll_wait(int epfd, struct epoll_event *events, int count, int ms)
{
    FAILING(epoll_wait, -1)
    return real_epoll_wait(epfd, events, what == SHORT ? 1 : count, ms);
}

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    if (op == EPOLL_CTL_ADD) { /* the others allocate nothing */
        FAILING(epoll_ctl, -1)
    }
    if (fd >= 0 && fd < WATCHED_MAX && is_ours(__builtin_return_address(0))) {
        watched[fd].epfd = op == EPOLL_CTL_DEL ? 0 : epfd;
        if (event)
            watched[fd].event = *event;
    }
    return real_epoll_ctl(epfd, op, fd, event);
}

int epoll_create1(int flags)
{
    FAILING(epoll_create1, -1)
    return real_epoll_create1(flags);
}

int eventfd(unsigned value, int flags)
{
    FAILING(eventfd, -1)
    return real_eventfd(value, flags);
}

ssize_t read(int fd, void *buffer, size_t size)
{
    FAILING(read, fd)
    return real_read(fd, buffer, what == SHORT && size != 8 ? HALF(size) : size); /* 8: an eventfd */
}

ssize_t write(int fd, const void *buffer, size_t size)
{
    FAILING(write, fd)
    return real_write(fd, buffer, what == SHORT && size != 8 ? HALF(size) : size);
}

ssize_t writev(int fd, const struct iovec *chunks, int count)
{
    FAILING(writev, fd)
    if (what == SHORT && count > 0) {
        struct iovec chunk = {chunks->iov_base, HALF(chunks->iov_len)};
        return real_writev(fd, &chunk, 1);
    }
    return real_writev(fd, chunks, count);
}

ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
    FAILING(recv, fd)
    if (what == SHORT) {
        ssize_t got = real_recv(fd, buffer, size > 1000 ? 1000 : HALF(size), flags);
        tell_again(fd);
        return got;
    }
    return real_recv(fd, buffer, size, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    FAILING(recvmsg, fd)
    if (what == SHORT) {
        size_t size = message->msg_iov->iov_len;
        ssize_t got;
        message->msg_iov->iov_len = size > 1000 ? 1000 : HALF(size);
        got = real_recvmsg(fd, message, flags);
        message->msg_iov->iov_len = size;
        tell_again(fd);
        return got;
    }
    return real_recvmsg(fd, message, flags);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *limit)
{
    FAILING(recvmmsg, fd)
    if (what == SHORT)
        count = 1;
    int got = real_recvmmsg(fd, messages, count, flags, limit);
    if (what == SHORT)
        tell_again(fd);
    return got;
}

static int is_stream(int fd)
{
    int kind = 0;
    socklen_t size = sizeof(kind);
    return real_getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 && kind == SOCK_STREAM;
}

ssize_t send(int fd, const void *buffer, size_t size, int flags)
{
    FAILING(send, fd)
    return real_send(fd, buffer, what == SHORT && is_stream(fd) ? HALF(size) : size, flags);
}

ssize_t sendto(int fd, const void *buffer, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    FAILING(sendto, fd) /* datagrams: whole ones only */
    return real_sendto(fd, buffer, size, flags, to, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    FAILING(sendmsg, fd)
    if (what == SHORT && message->msg_iovlen > 0)
        return real_send(fd, message->msg_iov->iov_base, HALF(message->msg_iov->iov_len), flags);
    return real_sendmsg(fd, message, flags);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    FAILING(accept4, fd)
    return real_accept4(fd, address, size, flags);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    FAILING(connect, -1)
    return real_connect(fd, address, size);
}

int socket(int family, int kind, int protocol)
{
    FAILING(socket, -1)
    return real_socket(family, kind, protocol);
}

int shutdown(int fd, int how)
{
    FAILING(shutdown, -1)
    return real_shutdown(fd, how);
}

int close(int fd)
{
    int what = DECIDE(close);
    int result;
    if (fd >= 0 && fd < WATCHED_MAX)
        watched[fd].epfd = 0;
    result = real_close(fd);
    return what > 0 ? failed(-1, what) : result;
}

int fcntl64(int fd, int command, ...)
{
    va_list rest;
    void *argument;
    va_start(rest, command);
    argument = va_arg(rest, void *);
    va_end(rest);
    FAILING(fcntl, -1)
    return real_fcntl(fd, command, argument);
}

int fstat(int fd, struct stat *result)
{
    FAILING(fstat, -1)
    return real_fstat(fd, result);
}

int fstat64(int fd, struct stat64 *result)
{
    FAILING(fstat, -1)
    return real_fstat(fd, (struct stat *)result);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    FAILING(getsockopt, -1)
    return real_getsockopt(fd, level, name, value, size);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    FAILING(setsockopt, -1)
    return real_setsockopt(fd, level, name, value, size);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
    FAILING(getsockname, -1)
    return real_getsockname(fd, address, size);
}

int madvise(void *address, size_t size, int advice)
{
    FAILING(madvise, -1)
    return real_madvise(address, size, advice);
}

static ssize_t move(int what, __typeof__(real_preadv2) call, int fd, const struct iovec *parts, int count, off_t at, int flags)
{
    if (what == SHORT && count > 0) {
        struct iovec part = {parts->iov_base, HALF(parts->iov_len)};
        return call(fd, &part, 1, at, flags);
    }
    return call(fd, parts, count, at, flags);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{
    FAILING(preadv2, fd)
    return move(what, real_preadv2, fd, parts, count, at, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{
    FAILING(pwritev2, fd)
    return move(what, real_pwritev2, fd, parts, count, at, flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size)
{
    FAILING(sendfile, to)
    return real_sendfile(to, from, (off_t *)at, what == SHORT ? HALF(size) : size);
}

int waitid(idtype_t kind, id_t id, siginfo_t *info, int options)
{
    FAILING(waitid, -1)
    return real_waitid(kind, id, info, options);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    FAILING(waitpid, -1)
    return real_waitpid(pid, status, options);
}

int pipe2(int fds[2], int flags)
{
    FAILING(pipe2, -1)
    return real_pipe2(fds, flags);
}

/* -- io_uring -- */

#define NR_pidfd_open 434
#define NR_epoll_pwait2 441
#define NR_io_uring_setup 425
#define NR_io_uring_enter 426
#define NR_io_uring_register 427
#define SQES_OFFSET 0x10000000ULL
#define REGISTER_PROBE 8
#define REGISTER_PBUF_RING 22
enum { SQE_BUFFER_SELECT = 1 << 5, SQE_CQE_SKIP_SUCCESS = 1 << 6, NOP_INJECT_RESULT = 1, POLL_MULTI = 1, RECV_MULTISHOT = 2 };
enum { OP_NOP, OP_READV, OP_WRITEV, OP_FSYNC, OP_POLL_ADD = 6, OP_CANCEL = 14, OP_OPENAT = 18, OP_READ = 22, OP_WRITE = 23,
       OP_SEND = 26, OP_RECV = 27, OP_OPENAT2 = 28 };

struct sqe {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off, addr;
    uint32_t len, op_flags;
    uint64_t user_data, rest[3];
};

struct offsets { uint32_t head, tail, ring_mask, ring_entries, others[4]; uint64_t address; };

struct params {
    uint32_t sq_entries, cq_entries, flags, cpu, idle, features, wq_fd, rest[3];
    struct offsets sq, cq;
};

enum { RINGS_MAX = 4096 };
static struct { uint32_t *head, mask, tail_seen, *tail; struct sqe *sqes; struct offsets offsets; } rings[RINGS_MAX];

/* What kernels had: set-up flags, features, the last operation. */
static const struct { int level; uint32_t flags, features; uint8_t last_op; } kernels[] = {
    {511, 0x7f, 0x1ff, 36}, {519, 0xfff, 0x1fff, 46}, {601, 0x3fff, 0x1fff, 48}, {606, 0x1ffff, 0x3fff, 49},
};

static int kernel(void)
{
    for (unsigned i = 0; i < sizeof(kernels) / sizeof(*kernels); i++)
        if (kernels[i].level == fault_level)
            return (int)i;
    return -1;
}

static long setup(unsigned entries, struct params *params)
{
    int old = kernel();
    long fd;
    if (old >= 0 && params->flags & ~kernels[old].flags)
        return failed(-1, EINVAL);
    fd = real_syscall(NR_io_uring_setup, entries, params);
    if (fd < 0)
        return fd;
    if (old >= 0)
        params->features &= kernels[old].features;
    if (fd < RINGS_MAX) {
        memset(&rings[fd], 0, sizeof(rings[fd]));
        rings[fd].offsets = params->sq;
    }
    return fd;
}

static long enroll(long fd, long opcode, unsigned char *argument, long count)
{
    int old = kernel();
    long result;
    if (old >= 0 && opcode == REGISTER_PBUF_RING && fault_level < 519)
        return failed(-1, EINVAL);
    result = real_syscall(NR_io_uring_register, fd, opcode, argument, count);
    if (old >= 0 && opcode == REGISTER_PROBE && result >= 0)
        for (int op = kernels[old].last_op + 1; op < count; op++)
            argument[16 + 8 * op + 2] = 0; /* its flags */
    return result;
}

static void replace(struct sqe *sqe, int error)
{
    uint8_t skip = sqe->flags & SQE_CQE_SKIP_SUCCESS;
    uint64_t user_data = sqe->user_data;
    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = OP_NOP;
    sqe->flags = skip;
    sqe->op_flags = NOP_INJECT_RESULT;
    sqe->len = (uint32_t)-error;
    sqe->fd = -1;
    sqe->user_data = user_data;
}

static int call_of(const struct sqe *sqe)
{
    switch (sqe->opcode) {
    case OP_POLL_ADD: return F_sqe_poll;
    case OP_RECV: return F_sqe_recv;
    case OP_SEND: return F_sqe_send;
    case OP_READ: case OP_READV: return F_sqe_read;
    case OP_WRITE: case OP_WRITEV: return F_sqe_write;
    case OP_FSYNC: return F_sqe_fsync;
    case OP_OPENAT: case OP_OPENAT2: return F_sqe_open;
    default: return F_sqe_other;
    }
}

/* Whether a kernel of the level would have refused it. */
static int is_too_new(const struct sqe *sqe)
{
    int old = kernel();
    if (old < 0)
        return 0;
    return sqe->opcode > kernels[old].last_op || (sqe->flags & SQE_CQE_SKIP_SUCCESS && !(kernels[old].features & 1 << 11)) ||
           (sqe->opcode == OP_POLL_ADD && sqe->len & POLL_MULTI && fault_level < 513) ||
           (sqe->opcode == OP_RECV && sqe->ioprio & RECV_MULTISHOT && fault_level < 600);
}

/* Those that are new in the submission queue. */
static void change_submissions(long fd, int ours)
{
    struct sqe *sqe;
    int what;
    if (fd < 0 || fd >= RINGS_MAX || !rings[fd].sqes || !rings[fd].head)
        return;
    if ((int32_t)(rings[fd].tail_seen - *rings[fd].head) < 0)
        rings[fd].tail_seen = *rings[fd].head;
    for (; rings[fd].tail_seen != *rings[fd].tail; rings[fd].tail_seen++) {
        sqe = &rings[fd].sqes[rings[fd].tail_seen & rings[fd].mask];
        if (sqe->opcode == OP_CANCEL)
            continue; /* what asks for the end of another one fails only where that has ended */
        what = decide(call_of(sqe), ours);
        if (what > 0)
            replace(sqe, what);
        else if (is_too_new(sqe))
            replace(sqe, EINVAL);
        else if (what == SHORT && (sqe->opcode == OP_SEND || sqe->opcode == OP_READ || sqe->opcode == OP_WRITE)) {
            sqe->len = HALF(sqe->len);
            sqe->flags &= (uint8_t)~SQE_CQE_SKIP_SUCCESS;
        }
    }
}

static void *mapped(void *address, int fd, uint64_t at)
{
    if (address == MAP_FAILED || fd < 0 || fd >= RINGS_MAX || !rings[fd].offsets.tail)
        return address;
    if (at == SQES_OFFSET) {
        rings[fd].sqes = address;
    } else if (at == 0) {
        rings[fd].head = (uint32_t *)((char *)address + rings[fd].offsets.head);
        rings[fd].tail = (uint32_t *)((char *)address + rings[fd].offsets.tail);
        rings[fd].mask = *(uint32_t *)((char *)address + rings[fd].offsets.ring_mask);
    }
    return address;
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t at)
{
    int what = DECIDE(mmap);
    if (what > 0) {
        errno = what;
        return MAP_FAILED;
    }
    return mapped(real_mmap(address, size, protection, flags, fd, at), fd, (uint64_t)at);
}

long syscall(long number, ...)
{
    void *caller = __builtin_return_address(0);
    long a[6];
    int call, what;
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    find_the_real_ones();
    switch (number) {
    case NR_epoll_pwait2: call = F_epoll_pwait2; break;
    case NR_pidfd_open: call = F_pidfd_open; break;
    case NR_io_uring_setup: call = F_io_uring_setup; break;
    case NR_io_uring_enter: call = F_io_uring_enter; break;
    case NR_io_uring_register: call = F_io_uring_register; break;
    default: return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
    what = decide(call, is_ours(caller));
    if (what > 0)
        return failed(-1, what);
    if (number == NR_io_uring_setup)
        return setup((unsigned)a[0], (struct params *)a[1]);
    if (number == NR_io_uring_register)
        return enroll(a[0], a[1], (unsigned char *)a[2], a[3]);
    if (number == NR_io_uring_enter)
        change_submissions(a[0], is_ours(caller));
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
