from collections.abc import Callable
from typing import Any, final

from aioqemu_loop.context.g_source import GSource

@final
class LoopSource:
    def __init__(
        self,
        guest: GSource,
        main_context: Any,
        priority: int,
        on_stop: Callable[[], Any],
        *,
        raises: bool = False,
    ) -> None: ...
    def destroy(self) -> None: ...
