"""The faults of faults.c, in a process that it was preloaded into."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass

# errno of a plan that makes calls fall short instead of failing.
SHORT = -1
WAITS = ("ppoll", "epoll_wait", "epoll_pwait2", "io_uring_enter")


@dataclass(frozen=True)
class Plan:
    """Which call fails, how, and when.

    call: a name of faults.c; error: an errno, or SHORT; first: the first call that fails, from 1; count: how many from
    then on (-1: all); percent: so many of all instead, at random by `seed`; anybody: also calls that the interpreter
    makes, not only those of the loop's compiled modules; level: behave as Linux 5.11 (511), 5.19 (519), 6.1 (601) or
    6.6 (606).
    """

    call: str = ""
    error: int = 0
    first: int = 1
    count: int = 1
    percent: int = 0
    seed: int = 1
    anybody: bool = False
    level: int = 0

    def __str__(self) -> str:
        what = "short" if self.error == SHORT else errno.errorcode.get(self.error, "nothing")
        when = f"{self.percent}% seed {self.seed}" if self.percent else f"{self.first}+{self.count}"
        return f"{self.call} {what} {when}{' anybody' * self.anybody}{f' level {self.level}' * bool(self.level)}"


class Faults:
    """The only one of the process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_name.restype = ctypes.c_char_p
        self._numbers: dict[str, int] = {}
        while (name := self._library.fault_name(len(self._numbers))) is not None:
            self._numbers[name.decode()] = len(self._numbers)
        self._calls = (ctypes.c_int64 * len(self._numbers)).in_dll(self._library, "fault_calls")

    def _set(self, name: str, value: int, kind: type = ctypes.c_int) -> None:
        kind.in_dll(self._library, f"fault_{name}").value = value  # type: ignore[attr-defined]

    def arm(self, plan: Plan) -> None:
        """From now on. Counts begin anew."""
        self._set("call", -1)
        for i in range(len(self._numbers)):
            self._calls[i] = 0
        for name in ("seen", "done"):
            self._set(name, 0, ctypes.c_int64)
        self._set("errno", max(0, plan.error))
        self._set("short", plan.error == SHORT)
        self._set("count", plan.count)
        self._set("percent", plan.percent)
        self._set("anybody", plan.anybody)
        self._set("level", plan.level)
        self._set("first", plan.first, ctypes.c_int64)
        self._set("random", 0x9E3779B97F4A7C15 * (2 * plan.seed + 1) % 2**64, ctypes.c_uint64)
        self._set("call", self._numbers[plan.call] if plan.call else -1)

    def disarm(self) -> int:
        """Returns how many calls were made to fail."""
        self._set("call", -1)
        self._set("level", 0)
        return self.done

    @property
    def done(self) -> int:
        return int(ctypes.c_int64.in_dll(self._library, "fault_done").value)

    def calls(self) -> dict[str, int]:
        """How often the loop's compiled modules made each call since arm()."""
        return {name: self._calls[number] for name, number in self._numbers.items() if self._calls[number]}
