"""What an exec changed, from two looks at the workspace."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawplane.domain.sessions import FileChange
from clawplane.runner import workspace_changes
from clawplane.runner.workspace_changes import Changes, Snapshot, changes
from clawplane.runner.workspace_files import WorkspaceFiles


@pytest.fixture
def files(tmp_path: Path) -> Iterator[WorkspaceFiles]:
    """A workspace in `tmp_path`."""
    workspace = WorkspaceFiles(tmp_path)
    yield workspace
    workspace.close()


async def test_created_changed_and_deleted_files_are_told_by_path(files: WorkspaceFiles, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("d/same", "changed", "gone"):
        (tmp_path / name).write_text("x")
    before = await files.snapshot()
    (tmp_path / "d/new").write_text("xyz")
    (tmp_path / "changed").write_text("longer")
    (tmp_path / "gone").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".outputs/ex").mkdir(parents=True)
    (tmp_path / ".outputs/ex/stdout.txt").write_text("x")
    assert changes(before, await files.snapshot()) == Changes(
        (
            FileChange(path="changed", op="changed", size=6),
            FileChange(path="d/new", op="created", size=3),
            FileChange(path="gone", op="deleted"),
        )
    )


async def test_nothing_changed_is_nothing(files: WorkspaceFiles, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert changes(await files.snapshot(), await files.snapshot()) == Changes()


async def test_a_change_cannot_be_hidden_by_setting_the_clock_back(files: WorkspaceFiles, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    found = (tmp_path / "f").stat()
    os.utime(tmp_path / "f", ns=(0, 0))
    before = await files.snapshot()
    while time.time_ns() // 20_000_000 == found.st_ctime_ns // 20_000_000:
        pass  # the kernel's clock for files has ticks of up to 10 ms
    (tmp_path / "f").write_text("two")
    os.utime(tmp_path / "f", ns=(0, 0))
    assert [each.op for each in changes(before, await files.snapshot()).files] == ["changed"]


async def test_many_changes_are_cut_with_their_number(files: WorkspaceFiles, tmp_path: Path) -> None:
    before = await files.snapshot()
    for number in range(205):
        (tmp_path / f"{number}").touch()
    found = changes(before, await files.snapshot())
    assert (len(found.files), found.note) == (200, "5 more files changed than are listed.")


async def test_a_workspace_of_too_many_files_is_said_to_be(
    files: WorkspaceFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_changes, "MAX_COMPARED", 150)
    for number in range(160):
        (tmp_path / f"{number}").touch()
    snapshot = await files.snapshot()
    assert not snapshot.complete
    assert "more than 150 files" in changes(Snapshot(), snapshot).note
