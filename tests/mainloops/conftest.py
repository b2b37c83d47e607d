"""Contexts and loops that an outside main loop drives, on every backend that can be so."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import aioqemu_loop

from .guest import GUESTS, new_guest_loop
from .guest_context import GuestContext


@pytest.fixture
def guest_context(fdmon: str, no_leaks: None) -> Iterator[GuestContext]:
    context = GuestContext(fdmon)
    yield context
    context.close()


@pytest.fixture
def source(guest_context: GuestContext) -> Iterator[aioqemu_loop.GSource]:
    """The GSource of guest_context."""
    with guest_context.get_g_source() as source:
        yield source


@pytest.fixture(params=GUESTS)
def guest_loop(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[aioqemu_loop.Loop]:
    reason = aioqemu_loop.fdmons()["io_uring"]
    if "io_uring" in request.param and reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"io_uring is not usable here: {reason}")
    loop = new_guest_loop(request.param)
    yield loop
    loop.close()
