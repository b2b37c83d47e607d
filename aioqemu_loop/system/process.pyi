from typing import Protocol, type_check_only
from weakref import WeakSet

@type_check_only
class FlushesBeforeFork(Protocol):
    def flush_before_fork(self) -> None: ...

@type_check_only
class ForgetsAfterFork(Protocol):
    def forget_after_fork(self) -> None: ...

flush_before_fork: WeakSet[FlushesBeforeFork]
forget_in_child: WeakSet[ForgetsAfterFork]

def current_mark() -> int: ...
