"""AioContexts that an outside main loop drives: poll() is one iteration of it."""

from __future__ import annotations

import aioqemu_loop

from .guest import drive


class GuestContext(aioqemu_loop.AioContext):
    """`monitor`: the backend that the source is to have; rings by use_g_source(keep_io_uring=True)."""

    def __init__(self, monitor: str) -> None:
        self.use_g_source(keep_io_uring=monitor in ("io_uring", "liburing"))
        if self.fdmon != monitor:
            self.set_fdmon(monitor)
        self.source: aioqemu_loop.GSource | None = None

    def poll(self, blocking: bool = True) -> bool:
        if self.source is None:
            self.source = self.get_g_source()
        return drive(self.source, None if blocking else 0)

    def close(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            source.destroy()
        super().close()
