"""Make `tests/task_plane.py` importable, and give tests a server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[3])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

from task_plane import TaskPlane, task_plane  # noqa: E402 - found through the line above


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[TaskPlane]:
    """Yield a server with nothing in it."""
    async with task_plane(tmp_path) as found:
        yield found
