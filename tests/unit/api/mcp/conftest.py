"""Make the scripted endpoint beside this file importable, and open one per test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for directory in (str(HERE), str(HERE.parents[2])):
    if directory not in sys.path:
        sys.path.insert(0, directory)

from scripted import Endpoint, endpoint  # noqa: E402 - found through the lines above


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Endpoint]:
    """Return an endpoint of its own."""
    async with endpoint(tmp_path) as opened:
        yield opened
