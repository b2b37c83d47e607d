"""What every pytest run of an environment imports (entry point pytest11): options, and what they need if one is given.

It stands outside the package because importing that takes much longer than importing this. The plugin itself is
aioqemu_loop/testing/; its documented name is aioqemu_loop.pytest_plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aioqemu", "aioqemu_loop")
    group.addoption("--aioqemu", action="store_true", help="run async tests on aioqemu_loop")
    group.addoption("--aioqemu-fdmon", metavar="NAMES", help="repeat async tests on each: io_uring,epoll,poll,liburing")
    group.addoption("--aioqemu-leaks", action="store_true", help="fail tests that leave fds, tasks or threads behind")
    parser.addini("aioqemu", "the same as --aioqemu", type="bool", default=False)
    parser.addini("aioqemu_fdmon", "the same as --aioqemu-fdmon", default="")
    parser.addini("aioqemu_leaks", "the same as --aioqemu-leaks", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "aioqemu_leaks(check=True): with --aioqemu, whether leaks of this test are looked for"
    )
    names = config.getoption("aioqemu_fdmon") or config.getini("aioqemu_fdmon")
    leaks = config.getoption("aioqemu_leaks") or config.getini("aioqemu_leaks")
    if names or leaks or config.getoption("aioqemu") or config.getini("aioqemu"):
        from aioqemu_loop.testing import start

        start(config, names or "auto", leaks)
