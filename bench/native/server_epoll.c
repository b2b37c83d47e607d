/*
 * The limit of the echo benchmarks by epoll: an echo server that does nothing else.
 *
 *   server_epoll ADDRESS    prints "ready ADDRESS" (with the port, if it was 0), then echoes for ever
 *
 * epoll, level-triggered, one receive and one send per wake-up. A loop that waits for readiness cannot be cheaper.
 */

#define _GNU_SOURCE
#include "net.h"
#include <errno.h>
#include <stdbool.h>
#include <sys/epoll.h>

#define EVENTS 64
#define BUFFER_SIZE 262144  /* what asyncio receives at most at once */

struct connection {
    int fd;
    size_t sent, received;
    char buffer[BUFFER_SIZE];
};

static int epoll_fd;

static void watch(int operation, int fd, uint32_t what, void *owner)
{
    struct epoll_event event = {.events = what, .data.ptr = owner};

    if (epoll_ctl(epoll_fd, operation, fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void accept_one(int listener, const struct sockaddr_storage *address)
{
    struct connection *connection = must_have(malloc(sizeof(*connection)));

    connection->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection->fd < 0)
        die("accept: %s", strerror(errno));
    connection->sent = connection->received = 0;
    no_delay(connection->fd, address);
    watch(EPOLL_CTL_ADD, connection->fd, EPOLLIN, connection);
}

static void drop(struct connection *connection)
{
    close(connection->fd);
    free(connection);
}

/* Nothing more is received before all of it is sent: the connection then waits for EPOLLOUT alone. */
static void serve(struct connection *connection)
{
    bool was_full = connection->sent < connection->received;
    ssize_t count;

    if (!was_full) {
        count = recv(connection->fd, connection->buffer, BUFFER_SIZE, 0);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count <= 0) {
            drop(connection);
            return;
        }
        connection->sent = 0;
        connection->received = (size_t)count;
    }
    count = send(connection->fd, connection->buffer + connection->sent,
                 connection->received - connection->sent, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN) {
        drop(connection);
        return;
    }
    connection->sent += count > 0 ? (size_t)count : 0;
    bool full = connection->sent < connection->received;
    if (full != was_full)
        watch(EPOLL_CTL_MOD, connection->fd, full ? EPOLLOUT : EPOLLIN, connection);
}

int main(int count, char **words)
{
    struct sockaddr_storage address;
    struct epoll_event events[EVENTS];

    if (count != 2)
        die("usage: server_epoll ADDRESS");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(words[1], &address);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);

        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                serve(events[i].data.ptr);
            else
                accept_one(listener, &address);
        }
    }
}
