"""Everything the soak does, while a signal comes every millisecond and interrupts what system call there is."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

import pytest

from tools.certificates import localhost_tls

from ..soak import connections, loads
from ..soak.reporting import Report
from ..soak.server import Server, listen


@pytest.fixture
def storm(any_loop):
    """counts of signals by (handled by the loop, handled by Python, which has system calls interrupted)."""
    counts = [0, 0]
    over = threading.Event()
    main_thread = threading.get_ident()

    def count(which, *_):
        counts[which] += 1

    def send():
        while not over.wait(0.001):
            signal.pthread_kill(main_thread, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: count(1))
    any_loop.add_signal_handler(signal.SIGALRM, count, 0)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    sender = threading.Thread(target=send)
    sender.start()
    yield counts
    signal.setitimer(signal.ITIMER_REAL, 0)
    over.set()
    sender.join()
    signal.signal(signal.SIGUSR1, before)
    any_loop.remove_signal_handler(signal.SIGALRM)


def test_a_signal_every_millisecond(any_loop, run, times, tmp_path: Path, storm):
    localhost_tls(tmp_path)
    report = Report()

    async def rounds(soak, load):
        for _ in range(3 * times):
            await load(soak)

    async def main():
        server = Server(report)
        addresses, listening, datagrams = await listen(server, tmp_path)
        soak = connections.Soak(report, addresses, tmp_path, 10, 7)
        await asyncio.gather(*(rounds(soak, load) for load in loads.LOADS for _ in range(2)))
        await connections.end_held(soak)
        for one in listening:
            one.close()
        datagrams.close()
        while server.connections:
            await asyncio.sleep(0.001)

    run(main())
    assert report.problems == []
    assert min(storm) > 20
