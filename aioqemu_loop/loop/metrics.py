"""What a loop counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metrics:
    """Counters since the loop was made.

    poll_spins: how often poll mode looked busily before a sleep; poll_hits: how often something came meanwhile, so that
    the loop did not sleep; poll_spent_ns: time spent so, in ns.
    """

    poll_spins: int
    poll_hits: int
    poll_spent_ns: int
