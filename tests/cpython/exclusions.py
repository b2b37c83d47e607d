"""The one table of what is left out of CPython's own tests, and why.

A test may stand here only if it mocks or reads the private parts of the stdlib's own loop classes, or if it would say
the same thing twice. Whatever else fails is a bug of ours. test_cpython.py fails for an entry that matches no test.
"""

from __future__ import annotations

import dataclasses
import sys


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Tests of one file, as a pattern over "Class.test".

    It matches wherever there is such a test; `since` and `before` say between which Pythons there certainly is one.
    """

    file: str
    pattern: str
    reason: str
    since: tuple[int, ...] = (3, 10)
    before: tuple[int, ...] = (4,)

    @property
    def expected(self) -> bool:
        return self.since <= sys.version_info[:2] < self.before


SAME = "the same tests once more: the stdlib's loop takes its selector from the class, ours its monitor from the runner"
SELECTOR = "reads or replaces loop._selector"
RUN_ONCE = "calls or replaces loop._run_once, one turn of the stdlib's loop"
QUEUES = "reads loop._ready or loop._scheduled, the stdlib loop's own queues"
OWN_TRANSPORT = "tests a transport class of the stdlib's by itself, over a mocked loop and a mocked file"
SOCKET_MOCK = "puts a mock in the place of the socket module inside asyncio; there is no file descriptor to watch"
SOCKET_MOCK_GIVEN = "gives loop._make_socket_transport a mock of a socket; there is no file descriptor to watch"
SIGNAL_MOCK = "puts a mock in the place of the signal module inside asyncio.unix_events"
SIGNAL_PRIVATE = "reads loop._signal_handlers or calls loop._handle_signal"
ACCEPT = "calls loop._accept_connection with a mock of a socket"
SENDFILE_PRIVATE = "calls loop._sock_sendfile_native_impl and reads loop._selector"

WHOLE_FILES = {
    "selector_events": "tests BaseSelectorEventLoop and its transports by themselves, over mocks",
    "proactor_events": "tests the loop of Windows and its transports by themselves, over mocks",
    "windows_events": "Windows only",
    "windows_utils": "Windows only",
}


def _entries(file: str, prefix: str, reason: str, names: str, **versions: tuple[int, ...]) -> list[LeftOut]:
    return [LeftOut(file, f"{prefix}{name}", reason, **versions) for name in names.split()]


LEFT_OUT = [
    *_entries("events", "", SAME, "SelectEventLoopTests.* PollEventLoopTests.*"),
    *_entries("sendfile", "", SAME, "SelectEventLoopTests.* PollEventLoopTests.*"),
    *_entries("sock_lowlevel", "", SAME, "SelectEventLoopTests.* PollEventLoopTests.*"),
    LeftOut("events", "EPollEventLoopTests.test_internal_fds", "counts the selector loop's own socket pair"),
    LeftOut("events", "EPollEventLoopTests.test_timeout_rounding", RUN_ONCE),
    LeftOut("tasks", "*.test_log_destroyed_pending_task", RUN_ONCE),
    *_entries("tasks", "CoroutineGatherTests.test_", QUEUES, "duplicate_coroutines"),
    *_entries(
        "tasks",
        "*GatherTests.test_",
        QUEUES,
        "one_exception result_exception_success return_exceptions success",
    ),
    *_entries("tasks", "FutureGatherTests.test_", QUEUES, "one_cancellation"),
    *_entries("base_events", "BaseEventLoopTests.test_", QUEUES, "_add_callback* call_soon call_later"),
    *_entries(
        "base_events",
        "BaseEventLoopTests.test_",
        RUN_ONCE,
        "_run_once* set_exc_handler_broken set_exc_handler_custom",
    ),
    LeftOut("base_events", "BaseEventLoopTests.test_custom_run_forever_integration", RUN_ONCE, since=(3, 13)),
    *_entries(
        "base_events",
        "BaseEventLoopTests.test_",
        SELECTOR,
        "run_forever_pre_stopped single_selecter_event_callback_after_stopping",
    ),
    LeftOut(
        "base_events",
        "BaseEventLoopTests.test_not_implemented",
        "says what BaseEventLoop, which is no complete loop, cannot do",
    ),
    *_entries(
        "base_events",
        "BaseLoopSockSendfileTests.test_",
        "says that BaseSelectorEventLoop has no os.sendfile",
        "_sock_sendfile_native_failure sock_sendfile_no_fallback",
    ),
    *_entries("base_events", "BaseEventLoopWithSelectorTests.test_", ACCEPT, "accept_connection_*"),
    LeftOut("base_events", "BaseEventLoopWithSelectorTests.test_create_server_soreuseport_only_defined", SOCKET_MOCK),
    *_entries(
        "unix_events",
        "SelectorEventLoopSignalTests.test_",
        SIGNAL_MOCK,
        "add_signal_handler_install_error add_signal_handler_install_error3 add_signal_handler_setup_error"
        " remove_signal_handler remove_signal_handler_error remove_signal_handler_error2",
    ),
    *_entries(
        "unix_events",
        "SelectorEventLoopSignalTests.test_",
        SIGNAL_PRIVATE,
        "add_signal_handler add_signal_handler_install_error2 check_signal close close_on_finalizing handle_signal_*"
        " remove_signal_handler_2",
    ),
    LeftOut("unix_events", "SelectorEventLoopUnixSocketTests.test_create_unix_server_bind_error", SOCKET_MOCK),
    *_entries(
        "unix_events",
        "SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_",
        SENDFILE_PRIVATE,
        "blocking_error cancel1 cancel2 exception os_error_first_call os_error_next_call",
    ),
    LeftOut(
        "unix_events",
        "SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_not_available",
        "takes the os module away from asyncio.unix_events",
    ),
    LeftOut("sslproto", "SslProtoHandshakeTests.test_connection_lost_when_busy", SOCKET_MOCK_GIVEN, since=(3, 14)),
    LeftOut(
        "ssl",
        "TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
        "puts a wrapper in the place of transport._sock and reads transport._read_ready_cb",
        since=(3, 14),
    ),
    *_entries(
        "subprocess",
        "",
        "reads loop._watcher, the stdlib loop's own way to learn that a child has ended",
        "SubprocessThreadedWatcherTests.test_pid_not_reaped_before_exit_published"
        " Subprocess*WatcherTests.test_watcher_implementation",
        since=(3, 14),
    ),
    *_entries("unix_events", "", OWN_TRANSPORT, "UnixReadPipeTransportTests.* UnixWritePipeTransportTests.*"),
]


def left_out(file: str) -> list[LeftOut]:
    """What is left out of one file."""
    return [entry for entry in LEFT_OUT if entry.file == file]


def as_markdown() -> str:
    """The table for the docs."""
    lines = ["| file | tests | reason |", "|---|---|---|"]
    lines += [f"| test_{file} | all | {reason} |" for file, reason in WHOLE_FILES.items()]
    for entry in LEFT_OUT:
        versions = f" ({entry.since[0]}.{entry.since[1]} on)" if entry.since > (3, 10) else ""
        versions += f" (before {entry.before[0]}.{entry.before[1]})" if entry.before < (4,) else ""
        lines.append(f"| test_{entry.file} | `{entry.pattern}`{versions} | {entry.reason} |")
    return "\n".join(lines) + "\n"
