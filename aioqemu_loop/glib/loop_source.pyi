from collections.abc import Callable
from typing import Any, final

from typing_extensions import Self

from aioqemu_loop.context.g_source import GSource

@final
class LoopSource:
    def __new__(
        cls,
        guest: GSource,
        main_context: Any,
        priority: int,
        on_stop: Callable[[], Any],
        *,
        raises: bool = False,
    ) -> Self: ...
    def destroy(self) -> None: ...
