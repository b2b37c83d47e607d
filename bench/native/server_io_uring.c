/*
 * The limit of the echo benchmarks by io_uring: an echo server that does nothing else.
 *
 *   server_io_uring ADDRESS    prints "ready ADDRESS" (with the port, if it was 0), then echoes for ever
 *
 * One io_uring_enter a turn submits everything and waits. What a connection has received is sent back, and the next
 * receive is linked to that send, so that one completion is all that a message needs. The listener has a multishot
 * accept. No liburing: the ring's ABI is small.
 */

#define _GNU_SOURCE
#include "net.h"
#include <linux/io_uring.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define ENTRIES 1024        /* a power of two */
#define SEND_FAILED 1       /* user_data of a send: only its failure is told */
#define BUFFER_SIZE 262144  /* what asyncio receives at most at once */

struct connection {
    int fd;
    char buffer[BUFFER_SIZE];
};

static struct {
    int fd;
    unsigned *sq_tail, *sq_array, sq_mask;
    unsigned *cq_head, *cq_tail, cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    unsigned queued;        /* filled in, not submitted yet */
} ring;

static void *map(size_t size, off_t offset)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, offset);

    if (memory == MAP_FAILED)
        die("mmap: %s", strerror(errno));
    return memory;
}

static void set_up(void)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};

    ring.fd = (int)syscall(__NR_io_uring_setup, ENTRIES, &params);
    if (ring.fd < 0)
        die("io_uring_setup: %s", strerror(errno));
    char *sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    char *cq = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    ring.sqes = map(params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    ring.sq_tail = (unsigned *)(sq + params.sq_off.tail);
    ring.sq_array = (unsigned *)(sq + params.sq_off.array);
    ring.sq_mask = params.sq_entries - 1;
    ring.cq_head = (unsigned *)(cq + params.cq_off.head);
    ring.cq_tail = (unsigned *)(cq + params.cq_off.tail);
    ring.cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
    ring.cq_mask = params.cq_entries - 1;
}

static void enter(unsigned wanted)
{
    int count = (int)syscall(__NR_io_uring_enter, ring.fd, ring.queued, wanted,
                             wanted ? IORING_ENTER_GETEVENTS : 0, NULL, 0);

    if (count >= 0)
        ring.queued -= (unsigned)count;
    else if (errno != EINTR)
        die("io_uring_enter: %s", strerror(errno));
}

static struct io_uring_sqe *next_sqe(uint8_t operation, int fd, uint64_t user_data)
{
    unsigned tail = *ring.sq_tail, index = tail & ring.sq_mask;
    struct io_uring_sqe *sqe = &ring.sqes[index];

    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = operation;
    sqe->fd = fd;
    sqe->user_data = user_data;
    ring.sq_array[index] = index;
    __atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
    ring.queued++;
    return sqe;
}

static void accept_all(int listener)
{
    next_sqe(IORING_OP_ACCEPT, listener, 0)->ioprio = IORING_ACCEPT_MULTISHOT;
}

/* Sends so many bytes of the buffer, and then receives into it. */
static void go_on(struct connection *connection, unsigned count)
{
    struct io_uring_sqe *sqe;

    if (ring.queued > ENTRIES - 2)
        enter(0);  /* a link must not be cut in two */
    if (count) {
        sqe = next_sqe(IORING_OP_SEND, connection->fd, SEND_FAILED);
        sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
        sqe->addr = (uint64_t)(uintptr_t)connection->buffer;
        sqe->len = count;
        sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    }
    sqe = next_sqe(IORING_OP_RECV, connection->fd, (uint64_t)(uintptr_t)connection);
    sqe->addr = (uint64_t)(uintptr_t)connection->buffer;
    sqe->len = BUFFER_SIZE;
}

static void begin(int fd, const struct sockaddr_storage *address)
{
    struct connection *connection = must_have(malloc(sizeof(*connection)));

    connection->fd = fd;
    no_delay(fd, address);
    go_on(connection, 0);
}

/* A receive is done. After a send that failed it was cancelled, which also is the end. */
static void received(struct connection *connection, int result)
{
    if (result > 0) {
        go_on(connection, (unsigned)result);
        return;
    }
    close(connection->fd);
    free(connection);
}

int main(int count, char **words)
{
    struct sockaddr_storage address;

    if (count != 2)
        die("usage: server_io_uring ADDRESS");
    set_up();
    int listener = listen_on(words[1], &address);
    accept_all(listener);
    for (;;) {
        enter(1);
        unsigned head = *ring.cq_head, tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);

        for (; head != tail; head++) {
            struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];

            if (cqe->user_data == SEND_FAILED)
                continue;
            if (cqe->user_data) {
                received((struct connection *)(uintptr_t)cqe->user_data, cqe->res);
                continue;
            }
            if (cqe->res < 0)
                die("accept: %s", strerror(-cqe->res));
            begin(cqe->res, &address);
            if (!(cqe->flags & IORING_CQE_F_MORE))
                accept_all(listener);
        }
        __atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
    }
}
