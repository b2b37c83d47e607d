"""How programs get the loop: run(), new_event_loop(), install(), and EventLoopPolicy where Python has policies."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.loop.running import run_on

if TYPE_CHECKING:
    from aioqemu_loop.fdmon.base import FDMon

T = TypeVar("T")


def _start_monitor_if_wanted() -> None:
    if "AIOQEMU_MONITOR" in os.environ:
        from aioqemu_loop.monitor.automatic import start_from_environment

        start_from_environment()


def new_event_loop(
    *,
    fdmon: str | FDMon | Callable[[], FDMon] = "auto",
    poll_max_ns: int | None = None,
    g_source: bool = False,
) -> Loop:
    """A new loop; a `loop_factory` for asyncio.Runner and everything that takes one.

    fdmon: "auto", "io_uring", "epoll", "poll", "liburing", or an FDMon; poll_max_ns: longest busy polling in ns;
    g_source: True for a loop that another main loop drives: use_g_source() is called. Raises ValueError, TypeError,
    FDMonUnavailable.
    """
    _start_monitor_if_wanted()
    loop = Loop("poll" if g_source and fdmon == "auto" else fdmon, poll_max_ns)
    if g_source:
        try:
            loop.use_g_source()
        except BaseException:
            loop.close()
            raise
    return loop


def run(
    main: Coroutine[Any, Any, T],
    *,
    fdmon: str | FDMon | Callable[[], FDMon] = "auto",
    poll_max_ns: int | None = None,
    debug: bool | None = None,
    glib: bool = False,
) -> T:
    """asyncio.run on this loop. glib=True: the loop serves the sources of GLib's default main context meanwhile; raises
    ImportError where PyGObject is missing."""

    if glib:
        from aioqemu_loop import glib as glib_floor

        _start_monitor_if_wanted()
        return run_on(functools.partial(glib_floor.new_event_loop, fdmon=fdmon, poll_max_ns=poll_max_ns), main, debug)
    return run_on(functools.partial(new_event_loop, fdmon=fdmon, poll_max_ns=poll_max_ns), main, debug)


def _policy_base() -> Any:
    """The policy class that this Python's asyncio.new_event_loop() goes through, or None where it has none."""
    events = sys.modules["asyncio.unix_events"]
    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        base = getattr(events, name, None)
        if base is not None:
            return base
    return None


_Base = _policy_base()
HAS_POLICIES = _Base is not None

if _Base is not None:

    class EventLoopPolicy(_Base):  # type: ignore[misc, valid-type]
        """For asyncio.set_event_loop_policy(); every asyncio.new_event_loop() then makes this loop."""

        def __init__(self, fdmon: str | FDMon | Callable[[], FDMon] = "auto", poll_max_ns: int | None = None) -> None:
            super().__init__()
            self._fdmon = fdmon
            self._poll_max_ns = poll_max_ns

        def _loop_factory(self) -> Loop:
            return new_event_loop(fdmon=self._fdmon, poll_max_ns=self._poll_max_ns)

else:

    class EventLoopPolicy:  # type: ignore[no-redef]
        """This Python has no event loop policies."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError(
                "this Python has no event loop policies; use aioqemu_loop.run(), or pass "
                "loop_factory=aioqemu_loop.new_event_loop to asyncio.run() or asyncio.Runner"
            )


def install() -> None:
    """Make this the loop that asyncio makes by default (asyncio.set_event_loop_policy(EventLoopPolicy())).

    Warns from 3.14 on, where asyncio deprecates policies; raises RuntimeError where they are gone. Better everywhere:
    aioqemu_loop.run(), or asyncio.run(..., loop_factory=aioqemu_loop.new_event_loop).
    """
    policy = EventLoopPolicy()
    if sys.version_info >= (3, 14):
        warnings.warn(
            "aioqemu_loop.install() uses event loop policies, which asyncio removes in Python 3.16; use "
            "aioqemu_loop.run() or loop_factory=aioqemu_loop.new_event_loop",
            DeprecationWarning,
            stacklevel=2,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(policy)
        return
    asyncio.set_event_loop_policy(policy)
