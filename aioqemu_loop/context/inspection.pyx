"""What a context can be asked from any thread while it runs, or hangs. Nothing here changes it."""

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.counters cimport BUSY_BUCKETS, Counters
from aioqemu_loop.context.sources cimport FdCallbacks, OwnedHandler
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport AioHandler
from aioqemu_loop.system.atomics cimport aio_load_relaxed

import heapq


def counters(AioContext context not None):
    """A dict, with the names and units of aioqemu_loop.loop.metrics.Metrics."""
    cdef Counters *count = &context.counters
    spins, hits, spent_ns = context.poll_counters()
    return {
        "turns": count.turns,
        "callbacks": context.ready.popped,
        "looks": count.looks,
        "sleeps": count.sleeps,
        "waited_ns": count.waited_ns,
        "busy_max_ns": count.busy_max_ns,
        "busy_histogram": tuple([count.busy[i] for i in range(BUSY_BUCKETS)]),
        "poll_spins": spins,
        "poll_hits": hits,
        "poll_spent_ns": spent_ns,
        "system_calls": (
            count.old_calls + context.monitor.system_calls() + count.receives + count.sends + count.accepts
        ),
        "bytes_received": count.bytes_received,
        "bytes_sent": count.bytes_sent,
        "connections_accepted": count.accepts,
        "transports_opened": count.opened,
        "transports_closed": count.ended,
        "handlers": len(context.handlers),
        "timers": len(context.timers),
        "queued": context.ready.pushed - context.ready.popped,
    }


def progress(AioContext context not None):
    """(turns, callbacks, asleep). Whoever finds the same numbers twice, and it awake both times, may take it that one callback
    holds the context, where it is run at all."""
    return context.counters.turns, context.ready.popped, aio_load_relaxed(&context.wakeup.notify_me) != 0


def handlers(AioContext context not None):
    """[(fd, poll events, handler, owner)]. The owner of a transport's or a server's fd is that; of any other fd it is the
    tuple (what is called to read, what is called to write), with None for what is not watched."""
    cdef AioHandler handler
    cdef FdCallbacks callbacks
    cdef list found = []
    for item in list(context.handlers.values()):
        handler = <AioHandler>item
        if isinstance(item, OwnedHandler):
            owner = (<OwnedHandler>item).owner()
        else:
            callbacks = <FdCallbacks?>item
            owner = (callbacks.reader, callbacks.writer)
        found.append((handler.fd, handler.events, handler, owner))
    return found


def owner_of(source):
    """The transport or server that a callback's source belongs to; None where it is a handle, or something else of ours."""
    return (<OwnedHandler>source).owner() if isinstance(source, OwnedHandler) else None


def timers(AioContext context not None, Py_ssize_t limit):
    """[(when, in ns of the monotonic clock; the TimerHandle or Timer)], the next one first, not more than `limit`."""
    cdef TimerHeap heap = context.timers
    # A tuple for each would have the collector look at the whole program, several times where there are many.
    cdef list whens = []
    cdef list items = []
    cdef Py_ssize_t i
    for i in range(heap.size):
        if heap.alive(i):
            whens.append(heap.heap[i].when_ns)
            items.append(<object>heap.items[i])
    first = heapq.nsmallest(limit, range(len(whens)), key=whens.__getitem__)
    return [(whens[i], items[i]) for i in first]


def poll_params(AioContext context not None):
    """(max_ns, grow, shrink), as given to set_poll_params()."""
    return context.poll_mode.max_ns, context.poll_mode.grow, context.poll_mode.shrink
