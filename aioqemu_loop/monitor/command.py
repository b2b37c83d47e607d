"""What a command is: a function with a name and checked arguments. The commands themselves are in monitor/commands/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aioqemu_loop.monitor.errors import QMPError, command_not_found

if TYPE_CHECKING:
    from aioqemu_loop.monitor.session import Session

# (session, **arguments) -> the answer, made of what JSON has; or an awaitable of it.
Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class Argument:
    """kind: QMP's name of its type; smallest and largest: of an integer."""

    kind: str
    optional: bool = False
    smallest: int = -(1 << 63)
    largest: int = (1 << 63) - 1

    def check(self, name: str, value: object) -> None:
        wanted, right = {
            "string": ("string", isinstance(value, str)),
            "boolean": ("boolean", isinstance(value, bool)),
            "integer": ("integer", isinstance(value, int) and not isinstance(value, bool)),
        }[self.kind]
        if not right:
            raise QMPError(f"Invalid parameter type for '{name}', expected: {wanted}")
        if isinstance(value, int) and not self.smallest <= value <= self.largest:
            raise QMPError(f"Parameter '{name}' expects a value from {self.smallest} to {self.largest}")


STRING = Argument("string")
MAYBE_STRING = Argument("string", optional=True)
BOOLEAN = Argument("boolean")
MAYBE_BOOLEAN = Argument("boolean", optional=True)


def maybe_integer(smallest: int, largest: int) -> Argument:
    return Argument("integer", True, smallest, largest)


# Of what may be many: how much of it is wanted. An answer has some MiB at most.
LIMIT = maybe_integer(1, 5000)


@dataclass(frozen=True)
class Command:
    name: str
    function: Function
    arguments: dict[str, Argument]

    @property
    def summary(self) -> str:
        return " ".join((self.function.__doc__ or "").split())

    def call(self, session: Session, given: dict[str, Any]) -> Any:
        """Raises QMPError for wrong arguments, and whatever the function raises."""
        for name, argument in self.arguments.items():
            if name in given:
                argument.check(name, given[name])
            elif not argument.optional:
                raise QMPError(f"Parameter '{name}' is missing")
        for name in given:
            if name not in self.arguments:
                raise QMPError(f"Parameter '{name}' is unexpected")
        return self.function(session, **{name.replace("-", "_"): value for name, value in given.items()})


COMMANDS: dict[str, Command] = {}


def command(name: str, arguments: dict[str, Argument] | None = None) -> Callable[[F], F]:
    """Make the function a command. An argument "poll-max-ns" is passed as poll_max_ns; one that is not given is not
    passed."""

    def register(function: F) -> F:
        COMMANDS[name] = Command(name, function, arguments or {})
        return function

    return register


def find_command(name: str) -> Command:
    try:
        return COMMANDS[name]
    except KeyError:
        raise command_not_found(f"The command {name} has not been found") from None
