"""Private files, the spool, and what another user may have planted in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clawplane.domain.ids import JobId
from clawplane.domain.leases import Claim, Finish, Outcome
from clawplane.runner.host import private
from clawplane.runner.host.private import NotPrivate
from clawplane.runner.host.spool import Spool, SpooledEnds


def finish(job: int, fence: int = 1) -> Finish:
    claim = Claim(job=JobId(job), fence=fence, nonce=7)
    return Finish(claim=claim, outcome=Outcome(succeeded=True, reason="exit", exit_code=0, result=b"\xff" * 10))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_directories_and_files_are_made_private_and_stay_so(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    directory = private.open_directory(tmp_path / "open")
    private.write("file", b"1", directory=directory)
    (tmp_path / "open" / "file").chmod(0o644)
    with private.append("file", directory=directory) as file:
        file.write(b"2")
    assert private.read("file", directory=directory) == b"12"
    assert private.read("none", directory=directory) is None
    assert (mode(tmp_path / "open"), mode(tmp_path / "open" / "file")) == (0o700, 0o600)
    assert private.names(directory) == ["file"]
    os.close(directory)


def test_a_link_a_pipe_and_a_second_name_are_refused_in_a_files_place(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "second").hardlink_to(victim)
    for name in ("link", "pipe", "second"):
        for act in (
            private.read,
            private.append,
            lambda path: private.write(path, b"x"),
        ):
            with pytest.raises(NotPrivate):
                act(tmp_path / name)
    assert victim.read_text() == "mine"


def test_a_link_or_a_file_is_refused_in_a_directorys_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(NotPrivate):
            private.open_directory(tmp_path / name)


def test_what_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("planted")
    os.chown(tmp_path / "dir", 65534, 65534)
    os.chown(tmp_path / "file", 65534, 65534)
    with pytest.raises(NotPrivate, match="another user"):
        private.open_directory(tmp_path / "dir")
    with pytest.raises(NotPrivate, match="another user"):
        private.read(tmp_path / "file")
    with pytest.raises(NotPrivate, match="another user"):
        private.write(tmp_path / "file", b"")


def test_spooled_ends_outlive_their_process_in_order_and_vanish_when_acknowledged(tmp_path: Path) -> None:
    ends = SpooledEnds(Spool(tmp_path / "spool"))
    for job in (3, 1, 2):
        ends.put(finish(job))
    ends.remove(JobId(1), 1)
    ends.remove(JobId(2), 9)
    later = SpooledEnds(Spool(tmp_path / "spool"))
    assert sorted(each.claim.job for each in later.load()) == [2, 3]
    assert finish(3) in later.load()
    for job in (2, 3):
        later.remove(JobId(job), 1)
    assert os.listdir(tmp_path / "spool") == []


def test_what_was_half_written_is_removed_and_what_cannot_be_read_is_kept_for_a_person(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put("good", b"body")
    spool.put("bad", b"body")
    spool.set_aside("bad")
    (tmp_path / ".good.end.0123").write_bytes(b"half")
    (tmp_path / "link.end").symlink_to("/etc/passwd")
    assert spool.load() == {"good": b"body"}
    assert sorted(os.listdir(tmp_path)) == ["bad.unreadable", "good.end", "link.end"]
    assert mode(tmp_path / "good.end") == 0o600
    spool.close()


def test_an_end_of_an_unknown_form_is_set_aside(tmp_path: Path) -> None:
    Spool(tmp_path).put("job-1-1", b"\xc1 no msgpack")
    ends = SpooledEnds(Spool(tmp_path))
    assert ends.load() == []
    assert os.listdir(tmp_path) == ["job-1-1.unreadable"]


@pytest.mark.parametrize("name", ["", "../x", ".x", "a/b", "x" * 300, "a.b"])
def test_a_spool_takes_plain_names_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        Spool(tmp_path).put(name, b"")


def test_a_disk_that_refuses_costs_durability_and_not_the_task(tmp_path: Path, caplog) -> None:
    spool = Spool(tmp_path / "spool")
    ends = SpooledEnds(spool)
    spool.close()
    ends.put(finish(1))
    ends.remove(JobId(1), 1)
    assert "could not be spooled" in caplog.text
