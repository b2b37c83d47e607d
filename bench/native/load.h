/*
 * What the load programs share: their words, the clock, latencies, CPU time, the line they print.
 *
 * The server's CPU time and memory are read here because only the load program knows exactly when the measured
 * seconds begin and end.
 */

#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "net.h"
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define EVENTS 64

/* `program ADDRESS key=value ...`; what is not given is 0. */
static struct {
    const char *address;
    size_t connections;
    size_t size;            /* bytes of a message */
    size_t reply;           /* bytes of the answer where it is not an echo */
    size_t idle;            /* connections that are open beside the busy ones */
    size_t pace;            /* messages per second, where not each answer is followed by the next message at once */
    bool up, down;          /* bulk: bytes to the server, from the server */
    double seconds, warmup; /* measured, and before that */
    const char *pid;        /* of the server, to read its CPU time */
} option;

static inline void read_options(int count, char **words)
{
    if (count < 2)
        die("usage: %s ADDRESS key=value ...", words[0]);
    option.address = words[1];
    for (int i = 2; i < count; i++) {
        char *value = strchr(words[i], '=');

        if (!value)
            die("%s is not key=value", words[i]);
        *value++ = 0;
        if (!strcmp(words[i], "connections"))
            option.connections = (size_t)atol(value);
        else if (!strcmp(words[i], "size"))
            option.size = (size_t)atol(value);
        else if (!strcmp(words[i], "reply"))
            option.reply = (size_t)atol(value);
        else if (!strcmp(words[i], "idle"))
            option.idle = (size_t)atol(value);
        else if (!strcmp(words[i], "pace"))
            option.pace = (size_t)atol(value);
        else if (!strcmp(words[i], "up"))
            option.up = atoi(value) != 0;
        else if (!strcmp(words[i], "down"))
            option.down = atoi(value) != 0;
        else if (!strcmp(words[i], "seconds"))
            option.seconds = atof(value);
        else if (!strcmp(words[i], "warmup"))
            option.warmup = atof(value);
        else if (!strcmp(words[i], "pid"))
            option.pid = value;
        else
            die("there is no option %s", words[i]);
    }
    if (!option.connections)
        die("there must be a connection");
}

static inline uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* In nanoseconds. 32 bits are enough: 4.2 s is longer than any stall that is let pass. */
static uint32_t *latencies;
static size_t latency_count, latency_room;

static inline void note_latency(uint64_t ns)
{
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 1 << 20;
        latencies = must_have(realloc(latencies, latency_room * sizeof(*latencies)));
    }
    latencies[latency_count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static inline int by_size(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return (a > b) - (a < b);
}

/* The text of /proc/PID/NAME, in a buffer that the next call uses again. */
static inline char *read_proc(const char *name)
{
    static char text[8192];
    char path[64];

    snprintf(path, sizeof(path), "/proc/%s/%s", option.pid, name);
    FILE *file = fopen(path, "r");
    if (!file)
        die("%s: %s", path, strerror(errno));
    text[fread(text, 1, sizeof(text) - 1, file)] = 0;
    fclose(file);
    return text;
}

struct cpu {
    double user_us, sys_us;
};

static inline struct cpu server_cpu(void)
{
    unsigned long long user, sys;
    double us_per_tick = 1e6 / (double)sysconf(_SC_CLK_TCK);

    if (!option.pid)
        return (struct cpu){0, 0};
    /* The second field is a name that may hold anything, so count from its closing bracket. */
    char *bracket = strrchr(read_proc("stat"), ')');
    if (!bracket ||
        sscanf(bracket, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &sys) != 2)
        die("cannot read /proc/%s/stat", option.pid);
    return (struct cpu){(double)user * us_per_tick, (double)sys * us_per_tick};
}

/* CPU time of this program. One that has no time left between two messages is what holds the server up. */
static inline double own_cpu_s(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static inline double server_memory_bytes(void)
{
    char *line = option.pid ? strstr(read_proc("status"), "VmRSS:") : NULL;

    return line ? atof(line + strlen("VmRSS:")) * 1024 : 0;
}

/* Runs `drive` for the seconds of the options, first unmeasured, and prints the one line of JSON. */
static inline void measure(void (*drive)(uint64_t until_ns, bool measured), double (*operations)(void),
                           double bytes_per_connection)
{
    drive(now_ns() + (uint64_t)(option.warmup * 1e9), false);
    struct cpu before = server_cpu();
    double own_s = own_cpu_s();
    uint64_t began_ns = now_ns();
    drive(began_ns + (uint64_t)(option.seconds * 1e9), true);
    double took = (double)(now_ns() - began_ns) / 1e9;
    own_s = own_cpu_s() - own_s;
    struct cpu after = server_cpu();

    printf("{\"operations\": %.3f, \"seconds\": %.6f, \"user_us\": %.0f, \"sys_us\": %.0f, \"load_busy\": %.4f",
           operations(), took, after.user_us - before.user_us, after.sys_us - before.sys_us, own_s / took);
    if (latency_count) {
        qsort(latencies, latency_count, sizeof(*latencies), by_size);
        printf(", \"p50_us\": %.1f, \"p99_us\": %.1f", latencies[(latency_count - 1) / 2] / 1e3,
               latencies[(size_t)((double)(latency_count - 1) * 0.99)] / 1e3);
    }
    if (bytes_per_connection)
        printf(", \"connection_bytes\": %.0f", bytes_per_connection);
    puts("}");
}

static inline double latencies_noted(void)
{
    return (double)latency_count;
}

#endif
