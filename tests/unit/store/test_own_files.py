from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clawplane.domain.batches import LogLine
from clawplane.domain.errors import StoreError
from clawplane.store import open_store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_database_and_all_beside_it_are_this_user_s_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = await open_store(tmp_path / "deep" / "data")
        await store.runs.append_system_log("s", "", [LogLine(1, "x", 0)])
        await store.runs.log_tail("s", limit=1)
    finally:
        os.umask(before)
    try:
        data = tmp_path / "deep" / "data"
        assert mode(data) == 0o700
        files = [path for path in data.iterdir() if path.is_file()]
        assert {path.name for path in files} >= {"clawplane.db", "clawplane.db-wal", "clawplane.db-shm"}
        assert {mode(path) for path in files} == {0o600}
        assert {mode(path) for path in data.rglob("*") if path.is_dir()} == {0o700}
    finally:
        await store.close()


async def test_a_database_that_others_could_read_is_closed_to_them_when_it_is_opened(tmp_path: Path) -> None:
    await (await open_store(tmp_path)).close()
    (tmp_path / "clawplane.db").chmod(0o644)
    store = await open_store(tmp_path)
    try:
        assert mode(tmp_path / "clawplane.db") == 0o600
    finally:
        await store.close()


async def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(0o755)
    shared.chmod(0o755)
    await (await open_store(shared)).close()
    assert mode(shared) == 0o755


@pytest.mark.parametrize("name", ["clawplane.db", "clawplane.db.lock", "clawplane.db-wal"])
@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
async def test_what_is_planted_at_the_place_of_a_data_file_is_refused_and_its_target_left_alone(
    tmp_path: Path, name: str, kind: str
) -> None:
    data, victim = tmp_path / "data", tmp_path / "victim"
    data.mkdir()
    victim.write_bytes(b"precious")
    planted = data / name
    if kind == "link":
        planted.symlink_to(victim)
    elif kind == "directory":
        planted.mkdir()
    else:
        os.mkfifo(planted)
    with pytest.raises(StoreError, match=name):
        await open_store(data)
    assert victim.read_bytes() == b"precious"
    if kind != "directory":
        planted.unlink()
        await (await open_store(data)).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
async def test_a_database_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clawplane.db").touch(0o600)
    os.chown(tmp_path / "clawplane.db", 65534, 65534)
    with pytest.raises(StoreError, match="belongs to another user"):
        await open_store(tmp_path)
