from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from clawplane.domain.batches import LogLine
from clawplane.domain.errors import ClawplaneError, StoreBusy, StoreError, StoreFull
from clawplane.store import open_store, sqlite
from clawplane.store.faults import disk_error, store_error


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_BUSY, StoreBusy),
        (sqlite3.SQLITE_LOCKED, StoreBusy),
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_IOERR, StoreError),
        (sqlite3.SQLITE_CORRUPT, StoreError),
        (sqlite3.SQLITE_READONLY, StoreError),
    ],
)
def test_what_sqlite_says_of_the_file_is_told_in_our_words(
    code: int, expected: type[ClawplaneError], tmp_path: Path
) -> None:
    error = sqlite3.OperationalError("words of the library")
    error.sqlite_errorcode = code | 0x100  # extended codes carry the plain one in their low byte
    told = store_error(error, tmp_path / "x.db")
    assert type(told) is expected
    assert str(tmp_path) in told.message


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, StoreFull), (errno.EACCES, StoreError)])
def test_what_the_file_system_says_is_told_in_our_words(number: int, expected: type[ClawplaneError]) -> None:
    assert type(disk_error(OSError(number, os.strerror(number)), Path("x"))) is expected


async def test_the_log_is_cut_when_the_store_is_closed_and_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.runs.append_system_log("s", "", [LogLine(2, "x" * 3_000_000, 0)])
    assert (tmp_path / "clawplane.db-wal").stat().st_size > 3_000_000
    await store.close()
    assert not (tmp_path / "clawplane.db-wal").exists()
    assert (tmp_path / "clawplane.db").stat().st_size > 3_000_000


async def test_the_log_is_cut_when_nobody_has_written_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    rested = threading.Event()
    rest = sqlite._Writer.rest

    def rest_and_tell(writer: sqlite._Writer) -> None:
        rest(writer)
        rested.set()

    monkeypatch.setattr(sqlite._Writer, "rest", rest_and_tell)
    store = await open_store(tmp_path, idle_seconds=0.01)
    await store.runs.append_system_log("s", "", [LogLine(2, "x" * 3_000_000, 0)])
    while not await asyncio.to_thread(rested.wait, 30) or (tmp_path / "clawplane.db-wal").stat().st_size:
        rested.clear()
    await store.close()


async def test_a_new_data_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    await store.close()


async def test_every_commit_is_synced_to_the_disk(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    writer = store._database._writer._connection  # type: ignore[attr-defined]
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.close()


async def test_the_data_directory_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match="data"):
        await open_store(tmp_path / "data")
