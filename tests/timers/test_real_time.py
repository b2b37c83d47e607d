"""The same on the real clock: delays below a millisecond, each backend's own sleep; never early by loop.time() nor by
time.monotonic(), and late by less than a clock of milliseconds would be."""

from __future__ import annotations

import asyncio
import statistics
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# One loop for all examples: what one leaves over would fail the next.
one_loop = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@one_loop
@given(delays=st.lists(st.floats(0, 0.0009), min_size=1, max_size=30), cancelled=st.sets(st.integers(0, 29)))
def test_short_delays_are_never_early_and_in_order(loop, delays, cancelled):
    fired = []

    def fire(number):
        fired.append((number, loop.time(), time.monotonic()))

    handles = [loop.call_later(delay, fire, number) for number, delay in enumerate(delays)]
    whens = [handle.when() for handle in handles]
    for number in cancelled & set(range(len(delays))):
        handles[number].cancel()
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert {number for number, *_ in fired} == set(range(len(delays))) - cancelled
    assert all(now >= whens[number] and monotonic >= whens[number] for number, now, monotonic in fired)
    assert [number for number, *_ in fired] == sorted((n for n, *_ in fired), key=lambda n: (whens[n], n))


def test_sleep_is_never_short_and_not_rounded_to_milliseconds(loop):
    late = []

    async def main():
        for i in range(200):
            delay = 0.00005 + i % 20 * 0.00004
            started = time.monotonic()
            await asyncio.sleep(delay)
            late.append(time.monotonic() - started - delay)

    loop.run_until_complete(main())
    assert min(late) >= 0
    assert statistics.median(late) < 0.0005
