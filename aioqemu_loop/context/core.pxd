from libc.stdint cimport int64_t, uint32_t, uint64_t

from aioqemu_loop.context.counters cimport Counters
from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.context.poll_mode cimport PollMode
from aioqemu_loop.context.ready cimport ReadyQueue
from aioqemu_loop.context.sources cimport Flushable
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport FDMon, ReadyList, Runnable
from aioqemu_loop.fdmon.tracer cimport Tracer

cdef enum:
    # asyncio's read size, and the most that one recv() takes.
    SCRATCH_SIZE = 256 * 1024
    # What the scratch buffer has room for: 16 UDP datagrams.
    SCRATCH_ROOM = 1024 * 1024


cdef class ContextCore:
    cdef object __weakref__
    cdef readonly FDMon monitor
    cdef ReadyQueue ready
    cdef TimerHeap timers
    cdef Wakeup wakeup
    cdef ReadyList ready_list
    cdef uint32_t mark
    cdef readonly bint closed
    cdef int depth
    cdef unsigned long home
    cdef bint dispatching
    # The callback that runs is the only one of its batch, and nothing was sent before it returned.
    cdef bint alone
    cdef bint look_now
    cdef int64_t looked_ns
    cdef uint64_t clocked_ticks  # when the clock was read last
    cdef Flushable flush_first
    cdef Flushable flush_last
    cdef int flush_count
    cdef bint gathering
    cdef list settling
    cdef void *scratch_block
    cdef char *scratch
    cdef PollMode poll_mode
    cdef Counters counters
    cdef Tracer tracer
    # The loop on top, if there is one, sets these.
    cdef object on_error
    cdef object on_timed
    cdef bint timed
    cdef object clock
    cdef object on_held
    cdef object on_dispatch
    # Its debug mode, as long as its call_soon() is LoopCore's own; else NULL. Good as long as it is open.
    cdef const bint *loop_debug
    # A GSource is held: an outside main loop drives the context. stop_guest: the turn under way is the last.
    cdef bint held
    cdef bint stop_guest

    cdef int check_open(self) except -1
    cdef int check_home(self) except -1
    cdef bint is_home(self) noexcept
    cdef int enter(self) except -1
    cdef int leave(self) except -1
    cdef int settle_waiting(self) except -1
    cdef int turn(self, bint blocking) except -1
    cdef int64_t now_ns(self) except? -1
    cdef bint has_work(self) noexcept
    cdef int64_t timeout_ns(self) except? -2
    cdef bint must_look(self) except -1
    cdef int look(self, int64_t timeout_ns) except -1
    cdef int64_t spin(self, int64_t timeout_ns) except? -2
    cdef int adapt(self, int64_t block_ns) except -1
    cdef int run_guest(self) except -1
    cdef int collect(self) except -1
    cdef int run_batch(self) except -1
    cdef int run_timed(self, Runnable item) except -1
    cdef int report(self, object item, object exc) except -1
    cdef int add_flush(self, Flushable item) except -1
    cdef bint sends_at_once(self, Flushable item) noexcept
    cdef int remove_flush(self, Flushable item) except -1
    cdef int64_t flush_late(self, int64_t due_ns) except? -2
    cdef int flush_writes(self, bint gather) except -1
    cdef int submit(self) except -1
    cdef char *read_scratch(self) except NULL
    cdef int trace(self, str name, dict details) except -1
