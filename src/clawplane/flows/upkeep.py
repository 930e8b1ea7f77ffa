"""Clear away what an earlier process left half done."""

from __future__ import annotations

import asyncio
from pathlib import Path


async def clear_spool(directory: Path) -> int:
    """Make the spool directory and remove the uploads that a killed process left there; returns how many."""
    return await asyncio.to_thread(_clear, directory)


def _clear(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    left = [path for path in directory.iterdir() if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)
