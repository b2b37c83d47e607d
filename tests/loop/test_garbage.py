"""While a loop runs, the collector does not look at what is queued in it. All else it finds, as on asyncio's loop."""

from __future__ import annotations

import asyncio
import gc
import warnings
import weakref

import pytest


class Holder:
    """Holds a handle that holds it."""

    def __init__(self, loop):
        self.loop = loop
        self.handle = None

    def call(self, *args):
        pass

    def fail(self):
        raise ZeroDivisionError


def is_collected(reference) -> bool:
    gc.collect()
    return reference() is None


HOW = {
    "soon": lambda holder, call: holder.loop.call_soon(call, 1),
    "threadsafe": lambda holder, call: holder.loop.call_soon_threadsafe(call),
    "later": lambda holder, call: holder.loop.call_later(0, call, 1),
    "at": lambda holder, call: holder.loop.call_at(holder.loop.time(), call),
}


@pytest.mark.parametrize("how", HOW)
def test_a_cycle_through_a_handle_that_has_run(any_loop, how) -> None:
    async def main():
        holder = Holder(any_loop)
        holder.handle = HOW[how](holder, holder.call)
        await asyncio.sleep(0.001)
        return weakref.ref(holder)

    reference = any_loop.run_until_complete(main())
    assert is_collected(reference)


@pytest.mark.parametrize("how", HOW)
def test_a_cycle_through_a_handle_that_failed(any_loop, errors, how) -> None:
    async def main():
        holder = Holder(any_loop)
        holder.handle = HOW[how](holder, holder.fail)
        await asyncio.sleep(0.001)
        return weakref.ref(holder)

    reference = any_loop.run_until_complete(main())
    assert len(errors) == 1
    errors.clear()
    assert is_collected(reference)


@pytest.mark.parametrize("when", ["soon", "far"])
def test_a_cycle_through_a_handle_that_was_cancelled(any_loop, when) -> None:
    """The callback is let go of, but not the context it was to run in."""

    async def main():
        holder = Holder(any_loop)
        holder.handle = any_loop.call_soon(holder.call) if when == "soon" else any_loop.call_later(1000, holder.call)
        holder.handle.cancel()
        kept = weakref.ref(holder)
        assert gc.is_tracked(holder.handle) or when == "soon"
        await asyncio.sleep(0.001)
        if when == "far":  # until most of the heap is dead
            for _ in range(300):
                any_loop.call_later(1000, int).cancel()
        return kept

    reference = any_loop.run_until_complete(main())
    assert is_collected(reference)


@pytest.mark.parametrize("before, known", [(10, False), (2000, True)])
def test_what_a_short_run_costs_does_not_grow_with_the_timers_that_are_set(loop, before, known) -> None:
    """All that the collector does not know is looked for when a run ends."""
    for _ in range(before):
        loop.call_later(1000, int)

    async def main():
        return gc.is_tracked(loop.call_later(1000, int))

    assert loop.run_until_complete(main()) is known


def test_what_is_queued_stays_alive(any_loop) -> None:
    called = []

    async def main():
        def note(value):
            called.append(value)

        any_loop.call_soon(note, [1])
        any_loop.call_later(0.002, note, [2])
        gc.collect()
        await asyncio.sleep(0.01)

    any_loop.run_until_complete(main())
    assert called == [[1], [2]]


@pytest.mark.parametrize("end", ["stop", "exit"])
def test_a_loop_that_was_dropped_with_work_left(any_factory, no_leaks, end) -> None:
    """loop -> queue -> handle -> object -> handle, loop: garbage once nobody runs it, although it was never closed."""

    def use() -> list[weakref.ref]:
        loop = any_factory()
        holders = [Holder(loop) for _ in range(4)]

        def leave():
            for i, holder in enumerate(holders):
                holder.handle = loop.call_later(1000, holder.call) if i % 2 else loop.call_soon(holder.call)
            loop.call_soon(holders[0].call, loop)  # a handle that nobody holds
            if end == "exit":
                raise SystemExit
            loop.stop()

        loop.call_soon(leave)
        try:
            loop.run_forever()
        except SystemExit:
            for holder in holders:  # left in the queue, as the timers are
                loop.call_soon(holder.call)
        return [weakref.ref(holder) for holder in holders]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        references = use()
        gc.collect()
        assert [reference() for reference in references] == [None] * 4


def test_a_handle_that_the_exception_handler_keeps(any_loop) -> None:
    kept = []
    any_loop.set_exception_handler(lambda loop, details: kept.append(details["handle"]))

    async def main():
        holder = Holder(any_loop)

        def fail():
            raise ZeroDivisionError(holder)

        any_loop.call_soon(fail)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return weakref.ref(holder)

    reference = any_loop.run_until_complete(main())
    assert reference() is not None
    (handle,) = kept
    assert gc.is_tracked(handle)
    kept.clear()
    del handle
    assert is_collected(reference)


def test_debug_mode_switched_on_while_handles_wait(any_loop) -> None:
    async def main():
        handle = any_loop.call_soon(int)
        timer = any_loop.call_later(1000, int)
        any_loop.set_debug(True)
        handle.cancel()
        timer.cancel()
        any_loop.set_debug(False)
        return repr(handle)

    assert "int" in any_loop.run_until_complete(main())  # the text from before it was cancelled
