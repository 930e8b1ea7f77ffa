"""What a guest sees of the host's files, and what becomes of its own."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.inside import trees
from clawplane.sandbox.policy import MIB, Link, Overlay, ReadOnly, Scratch, Writable


async def test_an_overlay_can_be_changed_in_every_way_and_its_source_never_changes(guests: Any) -> None:
    (guests.directory / "sub").mkdir()
    (guests.directory / "sub/old").write_text("old")
    (guests.directory / "kept").write_text("kept")
    script = """
set -e
echo more >> kept; rm -r sub; mkdir sub; echo new > sub/new; mv kept moved; ln -s moved link; chmod 600 moved
cat moved sub/new link; ls -A; ls sub
"""
    ended = await guests.run("sh", "-c", script)
    assert ended.stderr == ""
    assert ended.stdout.split() == ["keptmore", "new", "keptmore", "link", "moved", "sub", "new"]
    assert {str(each.relative_to(guests.directory)) for each in guests.directory.rglob("*")} == {
        "sub",
        "sub/old",
        "kept",
    }
    assert (guests.directory / "kept").read_text() == "kept"


async def test_an_overlay_holds_no_more_than_its_size(guests: Any) -> None:
    mounts = (Overlay(str(guests.directory), "/small", size=MIB, inodes=64),)
    ended = await guests.run("sh", "-c", "head -c 2000000 /dev/zero > /small/x; ls -l /small/x", mounts=mounts)
    assert "No space left" in ended.stderr
    assert int(ended.stdout.split()[4]) <= MIB


async def test_an_overlay_holds_no_more_files_than_allowed(guests: Any) -> None:
    mounts = (Overlay(str(guests.directory), "/small", size=MIB, inodes=64),)
    script = "cd /small; for each in $(seq 100); do touch $each || break; done; ls | wc -l"
    ended = await guests.run("sh", "-c", script, mounts=mounts)
    assert 30 < int(ended.stdout) < 64


async def test_scratch_space_is_empty_writable_and_bounded(guests: Any) -> None:
    mounts = (Scratch("/deep/er/scratch", size=MIB),)
    script = "cd /deep/er/scratch; ls -A; echo hi > file; cat file; head -c 2000000 /dev/zero > big"
    ended = await guests.run("sh", "-c", script, mounts=mounts)
    assert ended.stdout == "hi\n"
    assert "No space left" in ended.stderr


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
async def test_temporary_directories_are_bounded(guests: Any, place: str) -> None:
    ended = await guests.run("sh", "-c", f"head -c 80000000 /dev/zero > {place}/x; stat -c %s {place}/x")
    assert int(ended.stdout) <= 64 * MIB
    assert "No space left" in ended.stderr


async def test_a_read_only_directory_below_a_closed_one_is_seen_and_not_written(guests: Any, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    inner = closed / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("seen\n")
    closed.chmod(0o700)
    mounts = (ReadOnly(str(inner), "/data"),)
    ended = await guests.run("sh", "-c", "cat /data/file; echo x > /data/file; echo x > /data/new", mounts=mounts)
    assert ended.stdout == "seen\n"
    assert ended.stderr.count("Read-only file system") == 2


async def test_a_single_file_can_be_shown_below_etc(guests: Any, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\n")
    mounts = (ReadOnly(str(tmp_path / "pip.conf"), "/etc/pip.conf"),)
    ended = await guests.run("cat", "/etc/pip.conf", "/etc/hostname", mounts=mounts)
    assert ended.stdout == "[global]\nworker\n"


async def test_what_a_guest_writes_to_a_writable_directory_stays_and_is_ours(guests: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "before").write_text("1")
    script = "set -e; cd /kept; echo 2 >> before; mkdir d; echo x > d/f; chmod 4755 d/f; ln -s /etc/passwd l; chmod 0 d"
    ended = await guests.run("sh", "-c", script, mounts=(Writable(str(kept), "/kept"),))
    assert ended.verdict.succeeded, ended
    assert (kept / "before").read_text() == "12\n"
    assert (kept / "l").is_symlink()
    for each in (kept, kept / "before", kept / "d", kept / "d/f"):
        found = each.stat()
        assert found.st_uid == os.geteuid()
        assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID)


async def test_a_guest_that_nests_directories_beyond_reason_still_gets_its_verdict(guests: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    script = "import os\nos.chdir('/kept')\nfor _ in range(3000):\n  os.mkdir('d')\n  os.chdir('d')"
    ended = await guests.run(guests.python, "-c", script, mounts=(Writable(str(kept), "/kept"),))
    subprocess.run(["rm", "-rf", str(kept)], check=True)
    assert ended.verdict.succeeded, ended


async def test_a_defect_while_a_guest_is_cleared_up_ends_in_a_verdict_and_not_in_waiting(
    guests: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise RecursionError(path)

    monkeypatch.setattr("clawplane.sandbox.launch.reclaim", fail)
    ended = await guests.run("true", mounts=(Writable(str(tmp_path), "/kept"),))
    assert ended.verdict.reason == "setup"
    assert "defect" in ended.verdict.detail


async def test_a_mount_point_behind_a_link_in_the_package_is_refused(guests: Any, tmp_path: Path) -> None:
    (guests.directory / "data").symlink_to("/etc")
    (guests.directory / "up").symlink_to(tmp_path)
    for target in ("/app/data", "/app/data/x", "/app/up/x"):
        ended = await guests.run("true", mounts=(Scratch(target),))
        assert ended.verdict.reason == "setup"
        assert "through a link" in ended.verdict.detail
    assert not (tmp_path / "x").exists()


async def test_nothing_is_created_in_a_host_directory_for_a_mount_point(guests: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    ended = await guests.run("true", mounts=(Writable(str(kept), "/kept"), Scratch("/kept/missing")))
    assert ended.verdict.reason == "setup"
    assert "/kept/missing does not exist" in ended.verdict.detail
    assert list(kept.iterdir()) == []


async def test_system_trees_and_the_root_cannot_be_written(guests: Any) -> None:
    script = "for each in / /usr /usr/bin /etc /dev /run /proc /bin; do touch $each/x && echo wrote $each; done; true"
    ended = await guests.run("sh", "-c", script)
    assert ended.stdout == ""


async def test_devices_are_the_harmless_ones(guests: Any) -> None:
    script = """
ls /dev; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo x > /dev/null
echo out > /dev/stdout; echo err > /dev/stderr
python3 -c 'import pty, os; a, b = pty.openpty(); print(os.ttyname(b))'
"""
    ended = await guests.run("sh", "-c", script)
    words = ended.stdout.split()
    assert words[:12] == [
        "fd",
        "full",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "urandom",
        "zero",
    ]
    assert words[12:] == ["3", "3", "out", "/dev/pts/0"]
    assert ended.stderr == "err\n"


def test_a_copied_tree_has_the_same_files_links_and_modes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    (source / "sub/tool").write_bytes(b"x" * 3_000_000)
    (source / "sub/tool").chmod(0o755)
    (source / "link").symlink_to("sub/tool")
    os.mkfifo(source / "pipe")
    trees.copy(str(source), str(target), (os.geteuid(), os.getegid()))
    assert (target / "sub/tool").read_bytes() == b"x" * 3_000_000
    assert stat.S_IMODE((target / "sub/tool").stat().st_mode) == 0o755
    assert (target / "link").readlink() == Path("sub/tool")
    assert not (target / "pipe").exists()


async def test_a_link_of_the_policy_leads_to_a_place_inside(guests: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    mounts = (Writable(str(kept), "/kept"), Link("/kept", "/home/user"))
    ended = await guests.run("sh", "-c", "echo x > /home/user/a && cat /kept/a && rm /home/user", mounts=mounts)
    assert ended.stdout == "x\n"
    assert "Read-only" in ended.stderr or "cannot remove" in ended.stderr


async def test_a_link_gives_way_to_what_lies_below_it(guests: Any) -> None:
    mounts = (Link("/tmp", "/home/user"), ReadOnly("/usr/bin", "/home/user/tree"))
    ended = await guests.run("sh", "-c", "ls /home/user/tree/env && touch /home/user/own && ls /tmp", mounts=mounts)
    assert (ended.stdout, ended.stderr) == ("/home/user/tree/env\n", "")


async def test_a_link_of_the_policy_is_never_made_in_a_tree_of_the_host(guests: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    mounts = (Writable(str(kept), "/kept"), Link("/etc", "/kept/link"))
    ended = await guests.run("true", mounts=mounts)
    assert (ended.verdict.reason, "tree of the host" in ended.verdict.detail) == ("setup", True)
    assert not list(kept.iterdir())
