"""What every runner is given: how long, on which CPUs, with which fixed servers and certificate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import NotMeasured
from bench.services import Services

SERVER_CPU, LOAD_CPU = 0, 1  # the first and the second that this process may use

# Entered with the pid of the process under test, around what is measured.
Watch = Callable[[int], contextlib.AbstractContextManager[object]]


def nobody(pid: int) -> contextlib.AbstractContextManager[object]:
    """The Watch of an ordinary measurement."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Plan:
    seconds: float  # that are measured with a server; inside a process a part of them is enough
    warmup: float  # seconds before, which do not count
    pinned: bool  # the process under test and the load each on a CPU of their own
    folder: Path  # for sockets and the certificate; short-lived
    services: Services

    @property
    def server_cpu(self) -> int | None:
        return SERVER_CPU if self.pinned else None

    @property
    def load_cpu(self) -> int | None:
        return LOAD_CPU if self.pinned else None

    def certificate(self) -> str:
        """A file with a key and a certificate for localhost, made at the first call."""
        path = self.folder / "both.pem"
        if not path.exists():
            try:
                from tools.certificates import localhost_tls
            except ImportError as error:
                raise NotMeasured(f"no certificate can be made: {error}") from error
            localhost_tls(self.folder)
        return str(path)
