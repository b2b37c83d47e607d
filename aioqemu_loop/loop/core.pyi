import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

from aioqemu_loop.context.aio_context import AioContext, HasFileno
from aioqemu_loop.context.handle import Handle
from aioqemu_loop.fdmon.base import FDMon

_Class = TypeVar("_Class", bound=type)

def with_own_methods(cls: _Class) -> _Class: ...

# The public methods (call_soon, add_reader, ...) are typed by BaseEventLoop's stub, the other base of Loop.
class LoopCore:
    _debug: bool
    _closed: bool
    _stopping: bool
    _thread_id: int | None
    _notes_task_births: bool
    _callback_listeners: tuple[Callable[[Any, int], None], ...]
    @property
    def context(self) -> AioContext: ...
    @property
    def fdmon(self) -> str: ...
    def __init__(self, fdmon: str | FDMon | Callable[[], FDMon] = "auto", poll_max_ns: int | None = None) -> None: ...
    def _add_reader(
        self, fd: int | HasFileno, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle: ...
    def _add_writer(
        self, fd: int | HasFileno, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle: ...
    def _add_callback(self, handle: Handle) -> None: ...
    def _make_handle(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> Handle: ...
    def _claim_fd(self, fd: int) -> None: ...
    def _ensure_fd_no_transport(self, fd: int | HasFileno) -> None: ...
    def _run_turns(self) -> None: ...
