"""What a loop counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metrics:
    """Counters since the loop was made, and three sizes at this moment. They are always on: some additions per turn.

    turns: how often what was due was run; callbacks: how many handles, transports' events and timers were taken from
    the queue, cancelled ones too; looks: how often the fd monitor was asked; sleeps: how often it was allowed to sleep;
    waited_ns: time in which there was nothing to do, asleep or in poll mode, in ns.

    Lag, the time in which the loop did not look because callbacks ran; what becomes ready meanwhile waits so long.
    busy_max_ns: the longest, in ns; busy_histogram: 24 numbers of times: the first of those below 2 us, then of 2**i up
    to 2**(i + 1) us, the last of all above 8.4 s. (A us is 1,024 ns here.)

    Poll mode: poll_spins: how often it looked busily before a sleep; poll_hits: how often something came meanwhile, so
    that the loop did not sleep; poll_spent_ns: time spent so, in ns.

    bytes_received, bytes_sent: by transports, sock_recv, sock_recv_into and sock_sendall; connections_accepted: by
    servers; transports_opened, transports_closed: streams, datagrams and pipes (TLS is not counted beside the stream
    under it); system_calls: of the fd monitor, of transports and those sock_* to move bytes, of servers to accept.

    At this moment: handlers: fds that are watched; timers: that are set; queued: callbacks that wait to be run.
    """

    turns: int
    callbacks: int
    looks: int
    sleeps: int
    waited_ns: int
    busy_max_ns: int
    busy_histogram: tuple[int, ...]
    poll_spins: int
    poll_hits: int
    poll_spent_ns: int
    system_calls: int
    bytes_received: int
    bytes_sent: int
    connections_accepted: int
    transports_opened: int
    transports_closed: int
    handlers: int
    timers: int
    queued: int
