/* What every C program here shares: addresses, and how a program that cannot go on ends. */

#ifndef BENCH_NET_H
#define BENCH_NET_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline void *must_have(void *memory)
{
    if (!memory)
        die("out of memory");
    return memory;
}

/* SOCK_DGRAM if the address begins with "udp:", which is then skipped. */
static inline int socket_type(const char **text)
{
    if (strncmp(*text, "udp:", 4))
        return SOCK_STREAM;
    *text += 4;
    return SOCK_DGRAM;
}

/* 127.0.0.1:8000, or the path of a Unix socket, which starts with a slash. */
static inline socklen_t parse_address(const char *text, struct sockaddr_storage *address)
{
    struct sockaddr_un *local = (struct sockaddr_un *)address;
    struct sockaddr_in *inet = (struct sockaddr_in *)address;
    const char *colon = strrchr(text, ':');
    char host[64];

    memset(address, 0, sizeof(*address));
    if (text[0] == '/') {
        local->sun_family = AF_UNIX;
        if (strlen(text) >= sizeof(local->sun_path))
            die("%s is too long for a Unix socket", text);
        strcpy(local->sun_path, text);
        return sizeof(*local);
    }
    if (!colon || (size_t)(colon - text) >= sizeof(host))
        die("%s is neither host:port nor a path", text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    inet->sin_family = AF_INET;
    inet->sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &inet->sin_addr) != 1)
        die("%s is not an IPv4 address", host);
    return sizeof(*inet);
}

/* asyncio sets this on every TCP socket, so the others must too. */
static inline void no_delay(int fd, const struct sockaddr_storage *address)
{
    int on = 1;

    if (address->ss_family == AF_INET)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* A listening socket; prints "ready ADDRESS", with the port that it really has. */
static inline int listen_on(const char *text, struct sockaddr_storage *address)
{
    socklen_t length = parse_address(text, address);
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)address, length) < 0 || listen(fd, 1024) < 0)
        die("%s: %s", text, strerror(errno));
    if (address->ss_family == AF_INET) {
        struct sockaddr_in *inet = (struct sockaddr_in *)address;
        char host[INET_ADDRSTRLEN];

        getsockname(fd, (struct sockaddr *)address, &length);
        inet_ntop(AF_INET, &inet->sin_addr, host, sizeof(host));
        printf("ready %s:%d\n", host, ntohs(inet->sin_port));
    } else {
        printf("ready %s\n", text);
    }
    fflush(stdout);
    return fd;
}

#endif
