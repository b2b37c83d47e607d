from libc.stdint cimport uint8_t, uint32_t, uint64_t

from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.context.ready cimport ReadyQueue
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport AioHandler, Runnable


cdef class Callback(Runnable):
    cdef readonly object callback
    cdef bint cancelled


cdef class FdCallbacks(AioHandler):
    cdef ReadyQueue ready
    cdef Runnable reader
    cdef Runnable writer
    cdef object file
    cdef uint64_t reader_mark
    cdef uint64_t writer_mark


cdef class OwnedHandler(AioHandler):
    cdef ReadyQueue ready
    cdef int revents
    cdef bint queued

    cdef int queue_run(self) except -1
    cdef object owner(self)
    cdef int fd_lost(self) except -1


cdef class BottomHalf(Callback):
    cdef ReadyQueue ready
    cdef Wakeup wakeup
    cdef bint queued
    cdef bint scheduled
    cdef bint deleted


cdef class Timer(Callback):
    cdef TimerHeap heap
    cdef Wakeup wakeup
    cdef bint armed


cdef class Flushable(Runnable):
    cdef uint8_t flush_queued
    # In how many turns, one after the other, there was but one write, and the turn of the last (its low bits); see
    # AioContext.sends_at_once().
    cdef uint8_t single_writes
    cdef uint32_t wrote_turn
    cdef Flushable flush_next

    cdef int flush(self) except -1
