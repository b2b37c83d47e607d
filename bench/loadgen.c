/*
 * Load for an echo server.
 *
 *   loadgen ADDRESS CONNECTIONS SIZE SECONDS WARMUP [PID]    prints one line of JSON
 *
 * Closed loop: a connection has one message on its way. It sends SIZE bytes, waits for all of them to come back,
 * checks the sequence number that stands at both ends of them, and sends the next. With PID, the CPU time of that
 * process during the measured seconds is printed too. It is read here because only this program knows exactly
 * when they begin and end.
 */

#define _GNU_SOURCE
#include "net.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define STALL_NS NS_PER_S   /* an echo that takes so long was forgotten by the server */
#define EVENTS 64
#define SEQUENCE_SIZE sizeof(uint64_t)

struct connection {
    int fd;
    bool wants_out;         /* EPOLLOUT is armed: the socket buffer was full */
    uint64_t sequence;
    uint64_t began_ns;
    size_t sent, received;
    unsigned char *out, *in;
};

static int epoll_fd;
static size_t message_size;

/* In nanoseconds. 32 bits are enough: 4.2 s is longer than a stall. */
static uint32_t *latencies;
static size_t latency_count, latency_room;

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void watch(struct connection *connection, int operation, bool out)
{
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = connection};

    if (epoll_ctl(epoll_fd, operation, connection->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
    connection->wants_out = out;
}

static void connect_to(struct connection *connection, const struct sockaddr_storage *address, socklen_t length)
{
    connection->fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("socket: %s", strerror(errno));
    if (connect(connection->fd, (const struct sockaddr *)address, length) < 0)
        die("connect: %s", strerror(errno));
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    no_delay(connection->fd, address);
    connection->out = must_have(malloc(message_size));
    connection->in = must_have(malloc(message_size));
    memset(connection->out, 'x', message_size);
    watch(connection, EPOLL_CTL_ADD, false);
}

static void send_rest(struct connection *connection)
{
    while (connection->sent < message_size) {
        ssize_t count = send(connection->fd, connection->out + connection->sent,
                             message_size - connection->sent, MSG_NOSIGNAL);
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
    memcpy(connection->out + message_size - SEQUENCE_SIZE, &connection->sequence, SEQUENCE_SIZE);
    connection->sent = connection->received = 0;
    connection->began_ns = began_ns;
    send_rest(connection);
}

/* True when the whole echo is there. */
static bool receive(struct connection *connection)
{
    ssize_t count = recv(connection->fd, connection->in + connection->received,
                         message_size - connection->received, 0);

    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (count < 0)
        die("recv: %s", strerror(errno));
    /* No room left means the whole echo is there before the whole message is out: the server made something up. */
    if (count == 0)
        die(connection->received < message_size ? "the server closed a connection" : "an echo came too early");
    connection->received += (size_t)count;
    if (connection->received < message_size || connection->sent < message_size)
        return false;
    if (memcmp(connection->in, &connection->sequence, SEQUENCE_SIZE) ||
        memcmp(connection->in + message_size - SEQUENCE_SIZE, &connection->sequence, SEQUENCE_SIZE))
        die("an echo came back changed: message %llu of its connection", (unsigned long long)connection->sequence);
    return true;
}

static void note_latency(uint64_t ns)
{
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 1 << 20;
        latencies = must_have(realloc(latencies, latency_room * sizeof(*latencies)));
    }
    latencies[latency_count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

/* Keep all connections busy until then. What is under way at the end stays so, for the next call. */
static void drive(uint64_t until_ns, bool measured)
{
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns();

    while (now < until_ns) {
        /* Rounded up: a timeout of 0 would spin through the last millisecond. */
        int timeout_ms = (int)((until_ns - now) / 1000000 + 1);
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
            send_next(connection, now);
        }
    }
}

/* A loop that loses a wake-up only makes one connection silent. The totals would hardly show it. */
static void check_stalls(const struct connection *all, size_t connections)
{
    uint64_t now = now_ns();

    for (size_t i = 0; i < connections; i++) {
        if (now - all[i].began_ns > STALL_NS)
            die("connection %zu of %zu waits for an echo since %.1f s, %zu of %zu bytes came", i + 1, connections,
                (double)(now - all[i].began_ns) / 1e9, all[i].received, message_size);
    }
}

static void read_cpu(const char *pid, double *user_us, double *sys_us)
{
    char path[64], text[1024];
    unsigned long long user, sys;
    double us_per_tick = 1e6 / (double)sysconf(_SC_CLK_TCK);
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    file = fopen(path, "r");
    if (!file)
        die("%s: %s", path, strerror(errno));
    text[fread(text, 1, sizeof(text) - 1, file)] = 0;
    fclose(file);
    /* The second field is a name that may hold anything, so count from its closing bracket. */
    char *bracket = strrchr(text, ')');
    if (!bracket ||
        sscanf(bracket, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &sys) != 2)
        die("cannot read %s", path);
    *user_us = (double)user * us_per_tick;
    *sys_us = (double)sys * us_per_tick;
}

static int by_size(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return (a > b) - (a < b);
}

static double quantile_us(double part)
{
    return latency_count ? latencies[(size_t)((double)(latency_count - 1) * part)] / 1e3 : 0;
}

int main(int count, char **words)
{
    struct sockaddr_storage address;
    double user_us[2] = {0}, sys_us[2] = {0};

    if (count < 6)
        die("usage: loadgen ADDRESS CONNECTIONS SIZE SECONDS WARMUP [PID]");
    socklen_t length = parse_address(words[1], &address);
    size_t connections = (size_t)atoi(words[2]);
    double seconds = atof(words[4]), warmup = atof(words[5]);
    const char *pid = count > 6 ? words[6] : NULL;
    message_size = (size_t)atol(words[3]);
    if (!connections || message_size < SEQUENCE_SIZE)
        die("there must be a connection, and a message must have %zu bytes", SEQUENCE_SIZE);

    struct connection *all = must_have(calloc(connections, sizeof(*all)));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; i < connections; i++) {
        connect_to(&all[i], &address, length);
        all[i].sequence = (uint64_t)i << 32;  /* an echo on the wrong connection must not look right */
    }
    for (size_t i = 0; i < connections; i++)
        send_next(&all[i], now_ns());

    drive(now_ns() + (uint64_t)(warmup * 1e9), false);
    if (pid)
        read_cpu(pid, &user_us[0], &sys_us[0]);
    uint64_t began_ns = now_ns();
    drive(began_ns + (uint64_t)(seconds * 1e9), true);
    double took = (double)(now_ns() - began_ns) / 1e9;
    if (pid)
        read_cpu(pid, &user_us[1], &sys_us[1]);
    check_stalls(all, connections);

    qsort(latencies, latency_count, sizeof(*latencies), by_size);
    printf("{\"messages\": %zu, \"seconds\": %.6f, \"msgs_per_s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f",
           latency_count, took, (double)latency_count / took, quantile_us(0.5), quantile_us(0.99));
    if (pid)
        printf(", \"server_user_us\": %.0f, \"server_sys_us\": %.0f", user_us[1] - user_us[0],
               sys_us[1] - sys_us[0]);
    puts("}");
    return 0;
}
