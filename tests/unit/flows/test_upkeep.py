"""What an earlier process left half done is cleared away."""

from __future__ import annotations

from pathlib import Path

from clawplane.flows.upkeep import clear_spool


async def test_uploads_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    assert await clear_spool(spool) == 0
    (spool / "upload-1").write_bytes(b"half")
    assert await clear_spool(spool) == 1
    assert list(spool.iterdir()) == []
