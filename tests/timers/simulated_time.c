/* Preloaded into a child process: CLOCK_MONOTONIC moves only when somebody sleeps, and then at once by the time that was
 * to be slept, so that a day of timers takes no time. Every system call by which a loop of ours, or the standard
 * library's, sleeps with a time limit is made without waiting instead; fds are looked at as ever. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <errno.h>

#define SECOND 1000000000LL
#define NR_io_uring_enter 426
#define NR_epoll_pwait2 441
#define ENTER_EXT_ARG 8u

struct getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz, min_wait_usec;
    uint64_t ts;
};

static long (*real_syscall)(long, ...);
static int (*real_ppoll)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
static int (*real_epoll_wait)(int, struct epoll_event *, int, int);
static const struct timespec zero;

/* Driven from Python by ctypes. percent: how much of a sleep is slept (less than 100: it ends too early, as by a
 * signal); late_ns: how much longer than it should a whole sleep takes; tick_ns: what one look at the clock costs. */
int64_t simulated_now_ns = 1000 * SECOND;
int64_t simulated_tick_ns, simulated_late_ns, simulated_percent = 100;
int64_t simulated_sleeps;

/* Also called before any constructor runs. */
static void find_the_real_ones(void)
{
    if (real_syscall)
        return;
    real_ppoll = (int (*)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))dlsym(RTLD_NEXT, "ppoll");
    real_epoll_wait = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
}

static void sleep_for(int64_t ns)
{
    int64_t slept = ns;
    if (simulated_percent == 100)
        slept += simulated_late_ns;
    else
        slept = (int64_t)((double)ns * (double)simulated_percent / 100.0);
    simulated_now_ns += slept > 0 ? slept : 1;
    simulated_sleeps++;
}

static int64_t ns_of(const struct timespec *ts)
{
    return (int64_t)ts->tv_sec * SECOND + ts->tv_nsec;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
    find_the_real_ones();
    if (clock != CLOCK_MONOTONIC)
        return (int)real_syscall(SYS_clock_gettime, (long)clock, ts);
    simulated_now_ns += simulated_tick_ns;
    ts->tv_sec = simulated_now_ns / SECOND;
    ts->tv_nsec = simulated_now_ns % SECOND;
    return 0;
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    int found;
    find_the_real_ones();
    found = real_ppoll(fds, count, timeout ? &zero : NULL, mask);
    if (found == 0 && timeout && ns_of(timeout) > 0)
        sleep_for(ns_of(timeout));
    return found;
}

int epoll_wait(int epfd, struct epoll_event *events, int count, int ms)
{
    int found;
    find_the_real_ones();
    found = real_epoll_wait(epfd, events, count, ms > 0 ? 0 : ms);
    if (found == 0 && ms > 0)
        sleep_for(ms * 1000000LL);
    return found;
}

static long epoll_pwait2_(long epfd, long events, long count, const struct timespec *timeout, long mask, long size)
{
    long found = real_syscall(NR_epoll_pwait2, epfd, events, count, timeout ? &zero : NULL, mask, size);
    if (found == 0 && timeout && ns_of(timeout) > 0)
        sleep_for(ns_of(timeout));
    return found;
}

static long io_uring_enter_(long fd, long submit, long wait_for, long flags, const struct getevents_arg *arg, long size)
{
    struct getevents_arg at_once;
    const struct timespec *limit;
    long result;
    if (!((unsigned)flags & ENTER_EXT_ARG) || !arg || !arg->ts)
        return real_syscall(NR_io_uring_enter, fd, submit, wait_for, flags, arg, size);
    limit = (const struct timespec *)(uintptr_t)arg->ts;
    at_once = *arg;
    at_once.ts = (uint64_t)(uintptr_t)&zero;
    result = real_syscall(NR_io_uring_enter, fd, submit, wait_for, flags, &at_once, size);
    /* Something submitted: the kernel tells how much even where the time is over. */
    if ((result < 0 && errno == ETIME) || (result > 0 && wait_for > 0)) {
        int was = errno;
        sleep_for(ns_of(limit));
        errno = was;
    }
    return result;
}

long syscall(long number, ...)
{
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    find_the_real_ones();
    if (number == NR_epoll_pwait2)
        return epoll_pwait2_(a[0], a[1], a[2], (const struct timespec *)a[3], a[4], a[5]);
    if (number == NR_io_uring_enter)
        return io_uring_enter_(a[0], a[1], a[2], a[3], (const struct getevents_arg *)a[4], a[5]);
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
