/*
 * Load for a server that takes or gives bytes without end.
 *
 *   load_bulk ADDRESS connections=N size=BYTES up=0|1 down=0|1 seconds=S [warmup=S] [pid=PID]
 *
 * `up` sends to the server as fast as it takes, `down` receives what it gives, `size` bytes per call. An operation
 * is 1 MiB moved, both directions added.
 */

#define _GNU_SOURCE
#include "load.h"
#include "stream.h"
#include <sys/epoll.h>

#define CALLS_AT_ONCE 16    /* on one connection, before the others get their turn */
#define MIB 1048576.0

static int epoll_fd;
static char *out, *in;
static double moved;        /* bytes in the measured seconds */

static size_t send_some(struct stream *stream)
{
    size_t total = 0;

    for (int i = 0; i < CALLS_AT_ONCE; i++) {
        ssize_t count = stream_send(stream, out, option.size);

        if (count < 0 && errno == EAGAIN)
            break;
        if (count < 0)
            die("send: %s", strerror(errno));
        total += (size_t)count;
    }
    return total;
}

/* Until there is nothing: bytes that a TLS session has decrypted already would not wake epoll again. */
static size_t receive_all(struct stream *stream, uint64_t until_ns)
{
    size_t total = 0;

    do {
        ssize_t count = stream_receive(stream, in, option.size);

        if (count < 0 && errno == EAGAIN)
            break;
        if (count < 0)
            die("recv: %s", strerror(errno));
        if (count == 0)
            die("the server closed a connection");
        total += (size_t)count;
    } while (now_ns() < until_ns);
    return total;
}

static void drive(uint64_t until_ns, bool measured)
{
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns();

    while (now < until_ns) {
        int count = epoll_wait(epoll_fd, events, EVENTS, (int)((until_ns - now) / 1000000 + 1));

        for (int i = 0; i < count; i++) {
            struct stream *stream = events[i].data.ptr;
            size_t bytes = 0;

            if (option.down && (events[i].events & ~(uint32_t)EPOLLOUT))
                bytes += receive_all(stream, until_ns);
            if (option.up && (events[i].events & EPOLLOUT))
                bytes += send_some(stream);
            moved += measured ? (double)bytes : 0;
        }
        now = now_ns();
    }
}

static double mebibytes(void)
{
    return moved / MIB;
}

int main(int count, char **words)
{
    read_options(count, words);
    if (!option.size || !(option.up || option.down))
        die("size and up or down must be given");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    out = must_have(calloc(1, option.size));
    in = must_have(malloc(option.size));
    struct stream *all = must_have(calloc(option.connections, sizeof(*all)));
    for (size_t i = 0; i < option.connections; i++) {
        struct epoll_event event = {.data.ptr = &all[i]};

        event.events = (option.up ? EPOLLOUT : 0) | (option.down ? EPOLLIN : 0);
        stream_open(&all[i], option.address);
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, all[i].fd, &event) < 0)
            die("epoll_ctl: %s", strerror(errno));
    }
    measure(drive, mebibytes, 0);
    return 0;
}
