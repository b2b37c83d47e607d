/*
 * Load for a server that greets each connection.
 *
 *   load_connect ADDRESS connections=N seconds=S [warmup=S] [pid=PID]
 *
 * So many connections are being made at any time. An operation is one of them: connected, with TLS shaken hands,
 * and the server's first byte or its end received. Then it is reset, and the next one begins in its place.
 */

#define _GNU_SOURCE
#include "load.h"
#include "stream.h"
#include <sys/epoll.h>

struct attempt {
    struct stream stream;
    uint64_t began_ns;
};

static int epoll_fd;
static struct sockaddr_storage address;
static socklen_t address_length;

static void begin(struct attempt *attempt)
{
    /* Edge-triggered, in and out: the kernel tells every step of connecting once, and nothing has to be changed. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = attempt};

    stream_make(&attempt->stream, address.ss_family, SOCK_STREAM | SOCK_NONBLOCK);
    attempt->began_ns = now_ns();
    if (connect(attempt->stream.fd, (struct sockaddr *)&address, address_length) < 0 && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, attempt->stream.fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

/* True when the server has greeted. */
static bool advance(struct attempt *attempt)
{
    char byte;

    ssize_t count = stream_receive(&attempt->stream, &byte, 1);
    if (count >= 0)
        return true;
    if (errno == EAGAIN || errno == ENOTCONN)
        return false;
    die("the server refused or broke a connection: %s", strerror(errno));
}

static void drive(uint64_t until_ns, bool measured)
{
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns();

    while (now < until_ns) {
        int count = epoll_wait(epoll_fd, events, EVENTS, (int)((until_ns - now) / 1000000 + 1));

        for (int i = 0; i < count; i++) {
            struct attempt *attempt = events[i].data.ptr;

            if (!advance(attempt))
                continue;
            if (measured)
                note_latency(now_ns() - attempt->began_ns);
            stream_reset(&attempt->stream);
            begin(attempt);
        }
        now = now_ns();
    }
}

int main(int count, char **words)
{
    read_options(count, words);
    address_length = parse_address(option.address, &address);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct attempt *all = must_have(calloc(option.connections, sizeof(*all)));
    for (size_t i = 0; i < option.connections; i++)
        begin(&all[i]);
    measure(drive, latencies_noted, 0);
    return 0;
}
