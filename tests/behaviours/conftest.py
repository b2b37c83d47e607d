"""What users of other fast event loops reported as bugs or asked for: a test each, on every backend.

Here are those that no other test stands for. The rest:

| behaviour | test |
|---|---|
| writing after close never raises, and is logged from the fifth time | transports/test_stream_close.py: TestClose |
| Server.close_clients, abort_clients, wait_closed | transports/test_server.py: TestServing |
| abstract Unix names, for servers and clients | transports/test_unix.py: TestPaths |
| TLS does not wait for a peer that does not answer the shutdown | transports/test_tls.py: TestTls |
| a number reused while its transport lives: that one hears it is lost | transports/test_stream_close.py: TestErrors |
| never early, whatever the uptime; the order of setting | timers/ |
| ns resolution: sleeps below a millisecond | context/test_timers.py, fdmon/test_waiting.py |
| loop.stop() finishes the batch | loop/test_scheduling.py: TestCallSoon |
| handles are asyncio.Handle and asyncio.TimerHandle | loop/test_handles.py: TestHandles |
| transports are asyncio.Transport | transports/test_stream.py: TestAsking |
| a written bytearray may be changed at once | transports/test_stream.py: TestWriting |
| no wake-up from threads is lost | loop/test_scheduling.py: TestThreadsafe |
| fork: the child has a loop of its own, the parent's is refused | loop/test_threads.py: TestFork, uring/test_fork.py |
| run inside a run: asyncio's error, and the running loop stays | loop/test_lifecycle.py: TestRunning |
| "module:factory" for servers that take an import string; pytest-asyncio | loop/test_policy.py |
| a busy connection starves nobody | transports/test_stream.py: TestReading |
| Ctrl-C on an idle loop | loop/test_signals.py: TestCtrlC |
| an unusable io_uring is found out quietly, with the reason | uring/test_denied.py |
| idle loops sleep, busy ones make few system calls | fdmon/test_syscalls.py |
"""

from __future__ import annotations

import asyncio

import pytest


class Echo(asyncio.Protocol):
    """Sends back what comes, and closes at the end."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.transport.close()  # up to 3.10 a TLS transport that the peer ended warns that it is unclosed


@pytest.fixture
def echo():
    return Echo


@pytest.fixture
def shut():
    """await shut(server, *writers): close everything and wait for it."""

    async def close(server, *writers):
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    return close
