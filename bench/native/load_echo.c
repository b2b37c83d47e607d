/*
 * Load for an echo server.
 *
 *   load_echo ADDRESS connections=N size=BYTES seconds=S [warmup=S] [reply=BYTES] [idle=N] [pace=N] [pid=PID]
 *
 * Closed loop: a connection has one message on its way. It sends `size` bytes, waits for all of them to come back,
 * checks the sequence number that stands at both ends of them, and sends the next. With `reply`, so many bytes of
 * anything are the answer. `idle` connections are opened first, echo one message each, and then stay silent; the
 * memory that each has cost the server is printed. "udp:" before the address makes every message a datagram.
 *
 * With `pace`, so many messages per second are sent, each by a connection that has none on its way. This program then
 * never sleeps: what is measured is what the server does in between. Where all connections wait, the message is left out.
 */

#define _GNU_SOURCE
#include "load.h"
#include "stream.h"
#include <poll.h>
#include <sys/epoll.h>

#define STALL_NS NS_PER_S   /* an echo that takes so long was forgotten by the server */
#define SEQUENCE_SIZE sizeof(uint64_t)

struct connection {
    struct stream stream;
    bool wants_out;         /* EPOLLOUT is armed: the socket buffer was full */
    bool resting;           /* has no message on its way */
    uint64_t sequence;
    uint64_t began_ns;
    size_t sent, received;
    unsigned char *out, *in;
};

static int epoll_fd;
static size_t reply_size;
static struct connection *all;

static void watch(struct connection *connection, int operation, bool out)
{
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = connection};

    if (epoll_ctl(epoll_fd, operation, connection->stream.fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
    connection->wants_out = out;
}

static void send_rest(struct connection *connection)
{
    while (connection->sent < option.size) {
        ssize_t count = stream_send(&connection->stream, connection->out + connection->sent,
                                    option.size - connection->sent);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno != EAGAIN)
            die("send: %s", strerror(errno));
        if (count < 0) {
            if (!connection->wants_out)
                watch(connection, EPOLL_CTL_MOD, true);
            return;
        }
        connection->sent += (size_t)count;
    }
    if (connection->wants_out)
        watch(connection, EPOLL_CTL_MOD, false);
}

static void send_next(struct connection *connection, uint64_t began_ns)
{
    connection->sequence++;
    memcpy(connection->out, &connection->sequence, SEQUENCE_SIZE);
    memcpy(connection->out + option.size - SEQUENCE_SIZE, &connection->sequence, SEQUENCE_SIZE);
    connection->sent = connection->received = 0;
    connection->resting = false;
    connection->began_ns = began_ns;
    send_rest(connection);
}

static void check(const struct connection *connection)
{
    if (memcmp(connection->in, &connection->sequence, SEQUENCE_SIZE) ||
        memcmp(connection->in + option.size - SEQUENCE_SIZE, &connection->sequence, SEQUENCE_SIZE))
        die("an echo came back changed: message %llu of its connection", (unsigned long long)connection->sequence);
}

/* True when the whole answer is there. */
static bool receive(struct connection *connection)
{
    ssize_t count = stream_receive(&connection->stream, connection->in + connection->received,
                                   reply_size - connection->received);

    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (count < 0)
        die("recv: %s", strerror(errno));
    /* No room left means the whole answer is there before the whole message is out: the server made something up. */
    if (count == 0)
        die(connection->received < reply_size ? "the server closed a connection" : "an echo came too early");
    connection->received += (size_t)count;
    if (connection->received < reply_size || connection->sent < option.size)
        return false;
    if (!option.reply)
        check(connection);
    return true;
}

static void send_when_due(uint64_t now)
{
    static uint64_t due_ns;
    static size_t turn;

    if (now < due_ns)
        return;
    due_ns = (now - due_ns < NS_PER_S ? due_ns : now) + NS_PER_S / option.pace;
    for (size_t i = 0; i < option.connections; i++) {
        struct connection *connection = &all[turn++ % option.connections];

        if (connection->resting) {
            send_next(connection, now);
            return;
        }
    }
}

/* Keep all connections busy until then, or the pace. What is under way at the end stays so, for the next call. */
static void drive(uint64_t until_ns, bool measured)
{
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns();

    while (now < until_ns) {
        /* Rounded up: a timeout of 0 would spin through the last millisecond. */
        int timeout_ms = option.pace ? 0 : (int)((until_ns - now) / 1000000 + 1);
        int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);

        if (count < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        now = now_ns();
        for (int i = 0; i < count && now < until_ns; i++) {
            struct connection *connection = events[i].data.ptr;

            if (events[i].events & EPOLLOUT)
                send_rest(connection);
            if (!(events[i].events & ~(uint32_t)EPOLLOUT) || !receive(connection))
                continue;
            now = now_ns();
            if (measured)
                note_latency(now - connection->began_ns);
            connection->resting = true;
            if (!option.pace)
                send_next(connection, now);
        }
        if (option.pace)
            send_when_due(now);
    }
}

/* A loop that loses a wake-up only makes one connection silent. The totals would hardly show it. */
static void check_stalls(void)
{
    uint64_t now = now_ns();

    for (size_t i = 0; i < option.connections; i++) {
        if (!all[i].resting && now - all[i].began_ns > STALL_NS)
            die("connection %zu of %zu waits for an echo since %.1f s, %zu of %zu bytes came", i + 1,
                option.connections, (double)(now - all[i].began_ns) / 1e9, all[i].received, reply_size);
    }
}

static void drive_and_check(uint64_t until_ns, bool measured)
{
    drive(until_ns, measured);
    check_stalls();
}

static void make(struct connection *connection, uint64_t first_sequence)
{
    stream_open(&connection->stream, option.address);
    connection->sequence = first_sequence;
    connection->out = must_have(malloc(option.size));
    connection->in = must_have(malloc(reply_size));
    memset(connection->out, 'x', option.size);
    watch(connection, EPOLL_CTL_ADD, false);
}

/* What one idle connection costs the server, in bytes. Each has echoed a message, so that the server has met it. */
static double open_idle(void)
{
    struct connection idle = {0};
    double before = server_memory_bytes();

    for (size_t i = 0; i < option.idle; i++) {
        make(&idle, i << 32);
        send_next(&idle, now_ns());
        while (!receive(&idle)) {
            struct pollfd one = {.fd = idle.stream.fd, .events = POLLIN};

            if (poll(&one, 1, (int)(STALL_NS / 1000000)) <= 0)
                die("idle connection %zu of %zu got no echo", i + 1, option.idle);
        }
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, idle.stream.fd, NULL);
        free(idle.out);
        free(idle.in);
    }
    return option.idle ? (server_memory_bytes() - before) / (double)option.idle : 0;
}

int main(int count, char **words)
{
    read_options(count, words);
    if (option.size < SEQUENCE_SIZE)
        die("a message must have %zu bytes", SEQUENCE_SIZE);
    reply_size = option.reply ? option.reply : option.size;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    double bytes_per_connection = open_idle();

    all = must_have(calloc(option.connections, sizeof(*all)));
    for (size_t i = 0; i < option.connections; i++)
        make(&all[i], (uint64_t)(i + option.idle) << 32);  /* an echo on the wrong connection must not look right */
    for (size_t i = 0; i < option.connections; i++)
        send_next(&all[i], now_ns());
    measure(drive_and_check, latencies_noted, bytes_per_connection);
    return 0;
}
