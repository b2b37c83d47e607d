"""What the monitor may use of the program's CPU time, shared by its clients."""

from __future__ import annotations

import asyncio

import aioqemu_loop
from aioqemu_loop.monitor.budget import SLICE, Budget


def test_others_come_between_the_slices_of_a_long_answer():
    """Also while the burst lasts, when nobody has to wait."""

    async def main():
        budget = Budget()
        things = list(range(SLICE * 10))
        described = 0
        seen = []

        def describe(thing):
            nonlocal described
            described += 1
            return thing * 2

        async def look():
            while described < len(things):
                seen.append(described)
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        assert await budget.map(describe, things) == [thing * 2 for thing in things]
        await looking
        assert set(seen) >= set(range(SLICE, len(things), SLICE))

    aioqemu_loop.run(main())
