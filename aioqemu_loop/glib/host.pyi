from typing import Any, final

from typing_extensions import Self

from aioqemu_loop.glib.loop_source import LoopSource

@final
class MainContextHost:
    def __new__(cls, main_context: Any) -> Self: ...
    def iterate(self, loop_source: LoopSource) -> None: ...
    def release(self) -> None: ...
