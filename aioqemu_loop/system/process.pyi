from typing import Protocol
from weakref import WeakSet

class FlushesBeforeFork(Protocol):
    def flush_before_fork(self) -> None: ...

class ForgetsAfterFork(Protocol):
    def forget_after_fork(self) -> None: ...

flush_before_fork: WeakSet[FlushesBeforeFork]
forget_in_child: WeakSet[ForgetsAfterFork]

def current_mark() -> int: ...
