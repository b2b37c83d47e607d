"""For `pytest -p aioqemu_loop.pytest_plugin`, where the package is not installed; see docs/pytest.md."""

from pytest_aioqemu_loop import pytest_addoption, pytest_configure

__all__ = ["pytest_addoption", "pytest_configure"]
