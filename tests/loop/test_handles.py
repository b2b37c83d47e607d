"""What call_soon and its like return."""

import asyncio
import contextvars
import functools
import re
import sys
import weakref

import pytest


def callback(*args):
    """A named callback, for texts."""


NUMBERS = re.compile(r"0x[0-9a-f]+|:\d+|when=[\d.]+")


def handles_of(loop):
    """Handles of all kinds and states, with the same source lines for every loop."""

    class Thing:
        def method(self):
            pass

        def __call__(self):
            pass

    cancelled = loop.call_soon(callback, 1)
    cancelled.cancel()
    late = loop.call_later(3600, callback)
    late.cancel()
    return [
        loop.call_soon(callback),
        loop.call_soon(callback, 1, "two", [3]),
        loop.call_soon(functools.partial(callback, 5)),
        loop.call_soon(Thing().method),
        loop.call_soon(print),
        loop.call_soon(Thing()),
        cancelled,
        late,
        loop.call_later(3600, callback, "x"),
        loop.call_at(12345.5, callback),
    ]


class TestHandles:
    @pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
    def test_repr_is_the_stdlibs(self, loop, debug, turn):
        reference = asyncio.SelectorEventLoop()
        try:
            texts = []
            for each in (loop, reference):
                each.set_debug(debug)
                texts.append([NUMBERS.sub("#", repr(handle)) for handle in handles_of(each)])
        finally:
            reference.close()
        assert texts[0] == texts[1]
        assert texts[0][0].startswith("<Handle ")

    def test_isinstance_of_asyncios_classes(self, any_loop):
        soon = any_loop.call_soon(callback)
        later = any_loop.call_later(1, callback)
        assert isinstance(soon, asyncio.Handle)
        assert not isinstance(soon, asyncio.TimerHandle)
        assert isinstance(later, asyncio.TimerHandle)
        assert isinstance(later, asyncio.Handle)

    def test_private_attributes_that_asyncio_and_debuggers_read(self, any_loop):
        context = contextvars.copy_context()
        soon = any_loop.call_soon(callback, 1, 2, context=context)
        assert (soon._callback, soon._args, soon._cancelled) == (callback, (1, 2), False)
        assert soon._context is context
        assert soon._loop is any_loop
        assert soon._source_traceback is None
        when = any_loop.time() + 100
        timer = any_loop.call_at(when, callback)
        assert (timer._when, timer._scheduled) == (when, True)
        soon.cancel()
        assert soon._cancelled
        assert soon._callback is None

    def test_a_timer_is_not_scheduled_any_more_once_it_is_due(self, any_loop, turn):
        timer = any_loop.call_later(0, callback)
        assert timer._scheduled
        turn(any_loop, 2)
        assert not timer._scheduled

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="get_context() came with 3.12")
    def test_get_context(self, any_loop):
        context = contextvars.copy_context()
        assert any_loop.call_soon(callback, context=context).get_context() is context

    def test_when_cancelled_and_cancelling_twice(self, any_loop):
        when = any_loop.time() + 5
        timer = any_loop.call_at(when, callback)
        assert timer.when() == when
        assert not timer.cancelled()
        timer.cancel()
        timer.cancel()
        assert timer.cancelled()
        assert timer.when() == when

    def test_timers_compare_by_their_time(self, any_loop):
        first, second = any_loop.call_at(1.0, callback), any_loop.call_at(2.0, callback)
        same = any_loop.call_at(1.0, callback)
        assert first < second and second > first and first <= second and second >= first
        assert not first > second and not first >= second
        assert first == same and first <= same and first >= same
        assert first != any_loop.call_at(1.0, print)
        assert hash(first) == hash(same)
        assert first != 1.0
        assert (first == object()) is False
        with pytest.raises(TypeError):
            assert first < 5
        same.cancel()
        assert first != same

    def test_handles_are_hashable_and_equal_only_to_themselves(self, any_loop):
        first, second = any_loop.call_soon(callback), any_loop.call_soon(callback)
        assert len({first, second, first}) == 2

    def test_handles_can_be_referenced_weakly(self, any_loop):
        handle = any_loop.call_soon(callback)
        assert weakref.ref(handle)() is handle


@pytest.mark.parametrize("when", [5, 5.25, True])
def test_a_timer_keeps_the_very_time_it_was_given(any_loop, when):
    timer = any_loop.call_at(when, callback)
    assert timer.when() is when
    assert f"when={when}" in repr(timer)
    timer.cancel()


def test_a_handle_that_no_loop_made_can_be_cancelled(loop) -> None:
    for made in (loop.call_soon(int), loop.call_soon_threadsafe(int), loop.call_later(1000, int)):
        handle = type(made)()
        handle.cancel()
        assert handle.cancelled()
        made.cancel()
