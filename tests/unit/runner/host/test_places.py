"""The rules of paths, without files where there need be none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clawplane.runner.host.paths import Blocked, Places, default_roots, real_path_of, within


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("x", "/h/x"),
        ("~/x", "/h/x"),
        ("~//etc", "/h/etc"),
        ("~", "/h/~"),
        ("~root/x", "/h/~root/x"),
        ("$HOME/x", "/h/$HOME/x"),
        ("/a/../b/./c", "/b/c"),
        (" \t/a ", "/a"),
    ],
)
def test_only_a_tilde_with_a_slash_means_home(text: str, meant: str) -> None:
    assert str(Places(Path("/h"), None).locate(text)) == meant


def test_a_path_with_nul_is_refused_before_anything_is_looked_up() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Places(Path("/h"), None).locate("a\0b")


def test_a_neighbour_with_the_same_beginning_is_outside() -> None:
    assert not within(Path("/home/me2"), Path("/home/me"))
    assert within(Path("/home/me"), Path("/home/me"))
    assert within(Path("/x"), Path("/"))


def test_the_default_roots_are_home_and_the_temporary_directories() -> None:
    roots = default_roots(Path("/h"), {"TMP": "/t1", "TEMP": "relative"})
    assert {Path("/h"), Path("/t1"), Path("/tmp"), Path("/var/tmp")} <= set(roots)
    assert Path("relative") not in roots


def test_a_root_that_is_a_link_admits_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    places = Places(tmp_path, [tmp_path / "root"])
    assert places.real(tmp_path / "root" / "x", writing=True) == tmp_path / "real" / "x"
    with pytest.raises(Blocked, match="Path traversal blocked"):
        places.real(tmp_path / "y", writing=False)


def test_what_is_open_tells_its_path_also_after_it_was_moved(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        (tmp_path / "a").rename(tmp_path / "b")
        assert real_path_of(descriptor) == tmp_path / "b"
        assert real_path_of(descriptor, platform="unknown") is None
    finally:
        os.close(descriptor)
