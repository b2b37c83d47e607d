"""Child watchers that a program chooses, where Python has them (up to 3.13)."""

from __future__ import annotations

import asyncio
import sys
import warnings
from unittest import mock

import pytest

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has no child watchers")


@pytest.fixture
def chosen():
    """A mock of a watcher that the program has chosen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        watcher = mock.create_autospec(asyncio.AbstractChildWatcher)
        watcher.__enter__.return_value = watcher
        asyncio.set_child_watcher(watcher)
        yield watcher
        asyncio.get_event_loop_policy()._watcher = None


@pytest.mark.filterwarnings("ignore:.*child_watcher:DeprecationWarning")
def test_a_watcher_that_is_not_active_is_entered_and_refuses_the_process(any_loop, chosen):
    chosen.is_active.return_value = False
    with pytest.raises(RuntimeError, match="not activated"):
        any_loop.run_until_complete(any_loop.subprocess_exec(asyncio.SubprocessProtocol, "true"))
    calls = [call[0] for call in chosen.mock_calls if call[0] != "attach_loop"]
    assert calls == ["__enter__", "is_active", "__exit__"]
