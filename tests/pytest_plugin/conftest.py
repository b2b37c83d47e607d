"""Test suites that are written into a folder and run by a pytest of their own, with the plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import need_fdmon

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("hypothesispytest", "xdist", "xdist.looponfail", "timeout")
INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """suite(text, *options) runs a test module with the plugin, in this process; warnings are errors.

    folder: a process of its own, with the packages there before all others. apart: a process of its own. Plugins
    that take long to import are left out, but for those in `needs`.
    """
    for name in ("io_uring", "epoll", "poll"):
        need_fdmon(name)
    monkeypatch.delenv("AIOQEMU_FDMON", raising=False)

    def run(
        text: str,
        *options: str,
        ini: str = "",
        conftest: str = "",
        folder: Path | None = None,
        apart: bool = False,
        needs: tuple[str, ...] = (),
    ):
        pytester.makeini(("[pytest]\n" if "no:asyncio" in options else INI) + ini)
        pytester.makepyfile(test_it=text)
        if conftest:
            pytester.makeconftest(conftest)
        paths = [str(folder)] if folder else []
        monkeypatch.setenv("PYTHONPATH", ":".join([*paths, str(ROOT)]))
        arguments = ["-p", "aioqemu_loop.pytest_plugin", "-p", "no:cacheprovider", "-v", *options]
        for name in SLOW:
            if name not in needs:
                arguments += ["-p", f"no:{name}"]
        if folder is None:
            arguments += ["-W", "error"]
        if folder or apart:
            return pytester.runpytest_subprocess(*arguments, timeout=50)
        return pytester.runpytest_inprocess(*arguments)

    return run


def old_versions() -> list[Path]:
    """Folders with older pytest-asyncios, which `make` fills. None supports Pythons that came later."""
    return sorted(Path(sys.prefix).glob("pytest-asyncio-*"))
