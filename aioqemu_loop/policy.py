"""How programs get the loop: run(), new_event_loop(), install(), and EventLoopPolicy where Python has policies."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from aioqemu_loop.loop.loop import Loop

if TYPE_CHECKING:
    from aioqemu_loop.fdmon.base import FDMon

T = TypeVar("T")


def new_event_loop(
    *,
    fdmon: str | FDMon | Callable[[], FDMon] = "auto",
    poll_max_ns: int | None = None,
    g_source: bool = False,
) -> Loop:
    """A new loop; a `loop_factory` for asyncio.Runner and everything that takes one.

    fdmon: "auto", "io_uring", "epoll", "poll", or an FDMon; poll_max_ns: longest busy polling in ns; g_source: True
    for a loop that another main loop drives. Raises ValueError, TypeError, FDMonUnavailable.
    """
    if g_source:
        raise NotImplementedError("g_source mode is not in this version")
    return Loop(fdmon, poll_max_ns)


def run(
    main: Coroutine[Any, Any, T],
    *,
    fdmon: str | FDMon | Callable[[], FDMon] = "auto",
    poll_max_ns: int | None = None,
    debug: bool | None = None,
) -> T:
    """asyncio.run on this loop."""

    def factory() -> Loop:
        return new_event_loop(fdmon=fdmon, poll_max_ns=poll_max_ns)

    if sys.version_info >= (3, 12):
        return asyncio.run(main, debug=debug, loop_factory=factory)
    if sys.version_info >= (3, 11):
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("asyncio.run() cannot be called from a running event loop")
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            return runner.run(main)
    return _run_310(main, factory, debug)


def _run_310(main: Coroutine[Any, Any, T], factory: Callable[[], Loop], debug: bool | None) -> T:
    """What asyncio.run does on 3.10, which takes no loop factory."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    loop = factory()
    try:
        asyncio.set_event_loop(loop)
        if debug is not None:
            loop.set_debug(debug)
        return loop.run_until_complete(main)
    finally:
        try:
            asyncio.runners._cancel_all_tasks(loop)  # type: ignore[attr-defined]
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _policy_base() -> Any:
    """The policy class that this Python's asyncio.new_event_loop() goes through, or None where it has none."""
    events = sys.modules["asyncio.unix_events"]
    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        base = getattr(events, name, None)
        if base is not None:
            return base
    return None


_Base = _policy_base()

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
