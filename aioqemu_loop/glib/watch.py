"""Watching one of our file descriptors in GLib, and moving it between main contexts and AioContexts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gi.repository import GLib

from aioqemu_loop.glib.guest import checked_main_context

if TYPE_CHECKING:
    from aioqemu_loop.context.aio_context import AioContext

_READING = GLib.IOCondition.IN | GLib.IOCondition.PRI


class _FdSource(GLib.Source):  # type: ignore[misc]
    """GLib's side of a Watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch: Watch | None = watch
        self.tag = self.add_unix_fd(watch.fd, watch.condition)
        self.set_name(f"aioqemu_loop watch of fd {watch.fd}")

    def prepare(self) -> tuple[bool, int]:
        if self.watch is not None and self.watch._is_over():
            self.watch.destroy()  # the transport closes its fd, whose number may soon be another file's
        return False, -1

    def check(self) -> bool:
        return self.watch is not None and bool(self.query_unix_fd(self.tag))

    def dispatch(self, callback: object, args: object) -> bool:
        watch = self.watch
        if watch is not None:
            watch._ready(self.query_unix_fd(self.tag))
        return self.watch is not None


class Watch:
    """One fd, one condition and one callback, in at most one place: attach() puts it into a GLib.MainContext,
    attach_aio_context() into an AioContext, from wherever it was; destroy() ends it.

    `channel` is what the callback gets: the fd or the transport that it was made for.
    """

    def __init__(self, channel: Any, condition: Any, callback: Callable[[Any, Any], Any]) -> None:
        if not isinstance(condition, int):  # PyGObject's versions raise different errors
            raise TypeError(f"condition must be GLib.IOCondition flags, not {condition!r}")
        self.channel = channel
        self.condition = GLib.IOCondition(condition)
        self.callback = callback
        self._transport: Any = channel if isinstance(channel, asyncio.BaseTransport) else None
        self.fd = _fd_of(channel)
        self._source: Any = None
        self._aio_context: AioContext | None = None
        self._paused = False

    def attach(self, main_context: Any = None, *, priority: int = GLib.PRIORITY_DEFAULT) -> None:
        """Watch in a GLib.MainContext (None: the default one). Raises TypeError."""
        main_context = checked_main_context(main_context)
        self._leave()
        if self._transport is not None and self.condition & _READING and self._transport.is_reading():
            self._transport.pause_reading()
            self._paused = True
        self._source = _FdSource(self)
        self._source.set_priority(priority)
        self._source.attach(main_context)

    def attach_aio_context(self, context: AioContext) -> None:
        """Watch in an AioContext, or give the transport back to its loop there, which reads on. For an fd from any
        thread. Raises ValueError where the condition is neither to read nor to write, and OSError where the monitor
        cannot watch it; it is nowhere then."""
        reading = bool(self.condition & _READING)
        writing = bool(self.condition & GLib.IOCondition.OUT)
        if not (reading or writing):
            raise ValueError(f"an AioContext does not watch for {self.condition!r} alone")
        self._leave()
        if self._transport is not None:
            self._read_on()
            return
        context.set_fd_handler(
            self.fd,
            (lambda: self._ready(self.condition & _READING)) if reading else None,
            (lambda: self._ready(GLib.IOCondition.OUT)) if writing else None,
        )
        self._aio_context = context

    def destroy(self) -> None:
        """Watch no more. A transport reads on."""
        self._leave()
        self._read_on()

    def _leave(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.watch = None
            source.destroy()
        context, self._aio_context = self._aio_context, None
        if context is not None:
            context.set_fd_handler(self.fd)

    def _read_on(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _is_over(self) -> bool:
        return self._transport is not None and bool(self._transport.is_closing())

    def _ready(self, condition: Any) -> None:
        go_on = False
        try:
            go_on = self.callback(self.channel, condition)
        finally:
            if not go_on:
                self.destroy()


def create_watch(fd_or_transport: Any, condition: Any, callback: Callable[[Any, Any], Any]) -> Watch:
    """QEMU's qio_channel_create_watch: callback(fd_or_transport, condition) while that is ready, until it returns
    something false or raises, or until the transport closes. Nothing is watched before Watch.attach(main_context).

    condition: GLib.IOCondition flags. A transport that is watched for reading is paused meanwhile, because its loop
    would read too; what it had received before the pause comes to its protocol when it reads on.
    Raises ValueError for what has no fd, TypeError for what is no condition.
    """
    return Watch(fd_or_transport, condition, callback)


def _fd_of(channel: Any) -> int:
    if isinstance(channel, asyncio.BaseTransport):
        file = channel.get_extra_info("socket") or channel.get_extra_info("pipe")
        if file is None or file.fileno() < 0:
            raise ValueError(f"{channel!r} has no file descriptor, or is closed")
        return int(file.fileno())
    fd = channel if isinstance(channel, int) else channel.fileno() if hasattr(channel, "fileno") else None
    if fd is None or fd < 0:
        raise ValueError(f"Invalid file object: {channel!r}")
    return int(fd)
