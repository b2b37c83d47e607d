from aioqemu_loop.system.libc cimport pollfd

# GPollFD is laid out as struct pollfd on Unix (gpoll.h says so).

cdef extern from * nogil:
    """
    /* GSourceFuncs and GSource of gmain.h, whose layout is part of GLib 2's ABI. What follows the GSource is ours. */
    typedef struct {
        int (*prepare)(void *source, int *timeout_ms);
        int (*check)(void *source);
        int (*dispatch)(void *source, void *callback, void *user_data);
        void (*finalize)(void *source);
        void *closure_callback;
        void *closure_marshal;
    } aio_source_funcs;
    typedef struct {
        void *callback_data, *callback_funcs;
        const void *source_funcs;
        unsigned int ref_count;
        void *context;
        int priority;
        unsigned int flags, source_id;
        void *poll_fds, *prev, *next, *name, *priv;
        void *owner;
    } aio_source;
    """
    ctypedef struct aio_source_funcs:
        int (*prepare)(void *source, int *timeout_ms) noexcept nogil
        int (*check)(void *source) noexcept nogil
        int (*dispatch)(void *source, void *callback, void *user_data) noexcept nogil
        void (*finalize)(void *source) noexcept nogil
    ctypedef struct aio_source:
        void *owner


cdef struct Functions:
    void *(*source_new)(aio_source_funcs *, unsigned int) noexcept nogil
    unsigned int (*source_attach)(void *, void *) noexcept nogil
    void (*source_destroy)(void *) noexcept nogil
    void (*source_unref)(void *) noexcept nogil
    void (*source_set_priority)(void *, int) noexcept nogil
    void (*source_set_can_recurse)(void *, int) noexcept nogil
    void (*source_set_name)(void *, const char *) noexcept nogil
    void (*source_add_poll)(void *, pollfd *) noexcept nogil
    void (*source_remove_poll)(void *, pollfd *) noexcept nogil
    void *(*main_context_default)() noexcept nogil
    void *(*main_context_ref)(void *) noexcept nogil
    void (*main_context_unref)(void *) noexcept nogil
    int (*main_context_acquire)(void *) noexcept nogil
    void (*main_context_release)(void *) noexcept nogil
    int (*main_context_prepare)(void *, int *) noexcept nogil
    int (*main_context_query)(void *, int, int *, pollfd *, int) noexcept nogil
    int (*main_context_check)(void *, int, pollfd *, int) noexcept nogil
    void (*main_context_dispatch)(void *) noexcept nogil


cdef Functions *functions() except NULL
cdef void *address_of(object main_context) except NULL
