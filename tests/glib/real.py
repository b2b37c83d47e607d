"""The real GLib: every module here imports it from this one, which skips the module where PyGObject is missing."""

from __future__ import annotations

import os

import pytest

try:
    from gi.repository import Gio, GLib
except ImportError as missing:
    if os.environ.get("CI"):
        raise
    pytest.skip(f"PyGObject is missing: {missing}", allow_module_level=True)

from aioqemu_loop import glib
from tests.mainloops import glib_loops

__all__ = ["GLib", "Gio", "glib", "glib_loops"]
