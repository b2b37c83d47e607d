"""What is told to a client instead of an answer."""

from __future__ import annotations


class QMPError(Exception):
    """An error answer. `desc` is for people, `error_class` is one of QMP's few names that programs may look at."""

    def __init__(self, desc: str, error_class: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class

    def as_answer(self) -> dict[str, object]:
        return {"error": {"class": self.error_class, "desc": self.desc}}


def command_not_found(desc: str) -> QMPError:
    return QMPError(desc, "CommandNotFound")


class LimitExceeded(QMPError):
    """The input is larger or nested deeper than anything that makes sense: the connection is closed after this."""
