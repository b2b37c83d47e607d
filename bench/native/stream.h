/* A client's end of a connection: TCP, Unix or UDP, and with -DWITH_TLS a TLS session on it. */

#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include "net.h"
#include <errno.h>
#include <fcntl.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

struct stream {
    int fd;
#ifdef WITH_TLS
    SSL *tls;
#endif
};

#ifdef WITH_TLS
static inline int any_certificate(X509_STORE_CTX *chain, void *unused)
{
    (void)chain, (void)unused;
    return 1;
}

/* The certificate is not checked: what is measured is the server's work. No session is resumed. */
static inline SSL_CTX *tls_context(void)
{
    static SSL_CTX *context;

    if (!context) {
        context = must_have(SSL_CTX_new(TLS_client_method()));
        SSL_CTX_set_cert_verify_callback(context, any_certificate, NULL);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    return context;
}

/* As recv() and send() say it: -1 and EAGAIN, -1 and an error, 0 at the end. */
static inline ssize_t tls_result(SSL *tls, int result)
{
    if (result > 0)
        return result;
    int why = SSL_get_error(tls, result);
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        errno = EAGAIN;
    else if (why != SSL_ERROR_SYSCALL || !errno)
        errno = EPROTO;
    return -1;
}
#endif

/* A socket and, with TLS, a session that has not shaken hands yet. */
static inline void stream_make(struct stream *stream, int family, int type)
{
    stream->fd = socket(family, type | SOCK_CLOEXEC, 0);
    if (stream->fd < 0)
        die("socket: %s", strerror(errno));
#ifdef WITH_TLS
    stream->tls = must_have(SSL_new(tls_context()));
    SSL_set_fd(stream->tls, stream->fd);
    SSL_set_connect_state(stream->tls);
#endif
}

/* Connects and shakes hands, blocking; non-blocking from then on. */
static inline void stream_open(struct stream *stream, const char *text)
{
    struct sockaddr_storage address;
    int type = socket_type(&text);
    socklen_t length = parse_address(text, &address);

    stream_make(stream, address.ss_family, type);
    if (connect(stream->fd, (struct sockaddr *)&address, length) < 0)
        die("connect: %s", strerror(errno));
    if (type == SOCK_STREAM)
        no_delay(stream->fd, &address);
#ifdef WITH_TLS
    if (SSL_connect(stream->tls) != 1)
        die("the TLS handshake failed");
#endif
    fcntl(stream->fd, F_SETFL, O_NONBLOCK);
}

static inline ssize_t stream_send(struct stream *stream, const void *data, size_t size)
{
#ifdef WITH_TLS
    errno = 0;
    return tls_result(stream->tls, SSL_write(stream->tls, data, (int)size));
#else
    return send(stream->fd, data, size, MSG_NOSIGNAL);
#endif
}

static inline ssize_t stream_receive(struct stream *stream, void *data, size_t size)
{
#ifdef WITH_TLS
    errno = 0;
    return tls_result(stream->tls, SSL_read(stream->tls, data, (int)size));
#else
    return recv(stream->fd, data, size, 0);
#endif
}

/* Closes with a reset, so that no port is left in TIME_WAIT. */
static inline void stream_reset(struct stream *stream)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};

#ifdef WITH_TLS
    SSL_free(stream->tls);
#endif
    setsockopt(stream->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(stream->fd);
}

#endif
