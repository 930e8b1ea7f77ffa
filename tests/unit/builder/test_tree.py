from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_an_unwritable_tree_can_be_removed(tmp_path: Path) -> None:
    locked = tmp_path / "tree" / "locked"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    locked.chmod(0o000)
    remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
