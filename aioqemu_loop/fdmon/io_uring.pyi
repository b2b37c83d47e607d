from aioqemu_loop.fdmon.base import FDMon
from aioqemu_loop.uring.ring import Ring

class IOUringFDMon(FDMon):
    @property
    def ring(self) -> Ring: ...
    @property
    def overflowed(self) -> bool: ...
