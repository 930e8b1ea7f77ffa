from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawplane.sandbox import reclaim as reclaiming
from clawplane.sandbox.reclaim import reclaim

DEPTH = 3_000


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_deeper_than_recursion_and_descriptors_allow_is_taken_back_to_its_bottom(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(os.open("program", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=here))
    os.chmod("program", 0o4755, dir_fd=here)
    try:
        reclaim(str(tmp_path))
        assert os.stat("program", dir_fd=here).st_mode & 0o7777 == 0o755
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_closed_directories_are_opened_and_links_are_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "program").touch(0o755)
    (outside / "program").chmod(0o4755)
    tree = tmp_path / "tree"
    closed = tree / "closed"
    closed.mkdir(parents=True)
    (closed / "program").touch()
    (closed / "program").chmod(0o6711)
    (tree / "way-out").symlink_to(outside)
    (tree / "file-outside").symlink_to(outside / "program")
    closed.chmod(0)
    reclaim(str(tree))
    assert closed.stat().st_mode & 0o777 == 0o700
    assert (closed / "program").stat().st_mode & 0o7777 == 0o711
    assert (outside / "program").stat().st_mode & 0o7777 == 0o4755


def test_a_link_in_place_of_the_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree").symlink_to("outside")
    with pytest.raises(OSError, match="tree"):
        reclaim(str(tmp_path / "tree"))


def test_what_vanishes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "program").touch()
        (tmp_path / name / "program").chmod(0o4755)
    listed = os.listdir

    def late(directory: int) -> list[str]:
        found = sorted(listed(directory))
        if "b" in found:
            (tmp_path / "b" / "program").unlink()
            (tmp_path / "b").rmdir()
        return [*found, "never"]

    monkeypatch.setattr(reclaiming.os, "listdir", late)
    reclaim(str(tmp_path))
    assert [(tmp_path / name / "program").stat().st_mode & 0o7777 for name in ("a", "c")] == [0o755, 0o755]


def test_a_directory_that_is_moved_meanwhile_does_not_lead_the_walk_out_of_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "program"
    outside.mkdir()
    (outside / "kept").touch()
    (outside / "kept").chmod(0o4755)
    deep = tree / "x" / "y" / "z"
    deep.mkdir(parents=True)
    for directory in (tree, tree / "x", tree / "x" / "y"):
        (directory / "program").mkdir()
        (directory / "program" / "file").touch()
        (directory / "program" / "file").chmod(0o4755)
    taken = reclaiming._take_back

    def moves(directory: int) -> list[str]:
        if deep.exists() and os.fstat(directory).st_ino == deep.stat().st_ino:
            deep.rename(tree / "moved")
        return sorted(taken(directory), reverse=False)  # `program` is before x, y and z, so it is left for the way up

    monkeypatch.setattr(reclaiming, "_take_back", moves)
    reclaim(str(tree))
    assert (outside / "kept").stat().st_mode & 0o7777 == 0o4755
    for directory in (tree, tree / "x", tree / "x" / "y"):
        assert (directory / "program" / "file").stat().st_mode & 0o7777 == 0o755


def test_a_file_that_becomes_a_link_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.touch()
    outside.chmod(0o4755)
    (tree / "file").touch()
    (tree / "file").chmod(0o4755)
    changed = reclaiming._change_mode

    def swaps(name: str, directory: int, mode: int) -> None:
        (tree / "file").unlink()
        (tree / "file").symlink_to(outside)
        changed(name, directory, mode)

    monkeypatch.setattr(reclaiming, "_change_mode", swaps)
    reclaim(str(tree))
    assert outside.stat().st_mode & 0o7777 == 0o4755
