from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawplane.builder import removal
from clawplane.builder.tree import UnusableTree, measure, names_in, read_regular, remove, seal


def test_hard_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a", tmp_path / "b")
    found = measure(tmp_path)
    assert (found.size, found.entries) == (1000, 2)


def test_sealing_touches_nothing_behind_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").symlink_to(outside)
    (tree / "directory").symlink_to(tmp_path)
    assert seal(tree).entries == 2
    assert outside.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("walk", [seal, measure])
def test_a_link_in_place_of_the_tree_itself_is_refused_and_not_followed(
    tmp_path: Path, walk: Callable[[Path], object]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "secret").write_text("x")
    (outside / "secret").chmod(0o600)
    os.mkfifo(outside / "pipe")
    (tmp_path / "tree").symlink_to(outside)
    with pytest.raises(UnusableTree, match="no directory"):
        walk(tmp_path / "tree")
    assert outside.stat().st_mode & 0o777 == 0o700
    assert (outside / "secret").stat().st_mode & 0o777 == 0o600
    assert (outside / "pipe").exists()


def test_a_link_in_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "lock").symlink_to("secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("lock", "pipe", "absent"):
        with pytest.raises(UnusableTree):
            read_regular(tmp_path / name, 100)
    assert read_regular(tmp_path / "secret", 3) == b"sec"


def test_a_link_on_the_way_to_a_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "site").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("real")
    assert names_in(tmp_path, "real", "site", maximum=10) == []
    with pytest.raises(UnusableTree):
        names_in(tmp_path, "lib", "site", maximum=10)


def test_a_tree_nested_beyond_reason_is_refused_and_can_be_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    descriptor = os.open(tree, os.O_RDONLY)
    for _ in range(3_000):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    with pytest.raises(UnusableTree, match="nested more than"):
        seal(tree)
    remove(tree)
    assert not tree.exists()


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory that no disk slows down."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        yield Path(directory)


def test_a_tree_of_a_hundred_thousand_levels_is_removed_without_recursion(in_memory: Path) -> None:
    tree = in_memory / "tree"
    tree.mkdir()
    descriptor = os.open(tree, os.O_RDONLY)
    for _ in range(100_000):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    remove(tree)
    assert not tree.exists()


def test_links_in_a_tree_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "link").symlink_to(outside)
    (tree / "file").symlink_to(outside / "kept")
    remove(tree)
    assert not tree.exists()
    assert (outside / "kept").read_text() == "x"
    (tmp_path / "link").symlink_to(outside)
    remove(tmp_path / "link")
    assert outside.is_dir()


def test_a_directory_that_is_moved_away_meanwhile_does_not_lead_the_removal_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "tree" / "a" / "b"
    inner.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "a").mkdir(parents=True)
    cleared = removal._clear

    def moves(directory: int) -> list[str]:
        if inner.exists() and os.fstat(directory).st_ino == inner.stat().st_ino:
            inner.rename(elsewhere / "b")
        return cleared(directory)

    monkeypatch.setattr(removal, "_clear", moves)
    remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert sorted(each.name for each in elsewhere.iterdir()) == ["a", "b"]


def test_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    remove(tmp_path / "never")


def test_an_unwritable_tree_can_be_removed(tmp_path: Path) -> None:
    locked = tmp_path / "tree" / "locked"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    locked.chmod(0o000)
    remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
