"""What the store does when the machine misbehaves: each fault has one outcome, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.access import ApiKey, Scope
from clawplane.domain.batches import LogLine
from clawplane.domain.errors import StoreBusy, StoreError, Unavailable
from clawplane.store import Store, open_store

ENTER_NAMESPACE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


def run_alone(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program in a mount namespace of its own, so that what it mounts goes with it."""
    return subprocess.run([*ENTER_NAMESPACE, *command], check=False, capture_output=True, text=True, timeout=60)


def program(text: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program and wait for its first line."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def opened(directory: Path, **options: Any) -> AsyncIterator[Store]:
    store = await open_store(directory, **options)
    try:
        yield store
    finally:
        await store.close()


def line(text: str) -> list[LogLine]:
    return [LogLine(2, text, 0, "system")]


HOLD = """
import asyncio, sys
from pathlib import Path
from clawplane.store import open_store
async def main():
    await open_store(Path(sys.argv[1]))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


async def test_a_second_server_on_the_same_directory_is_refused_and_told_which_process_has_it(tmp_path: Path) -> None:
    with running(program(HOLD, tmp_path)) as holder, pytest.raises(StoreBusy, match=rf"process {holder.pid}\b"):
        await open_store(tmp_path)
    async with opened(tmp_path):
        pass


async def test_a_second_store_in_the_same_process_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(StoreBusy, match=str(os.getpid())):
            await open_store(tmp_path)
    async with opened(tmp_path) as store:
        await store.close()


async def test_a_database_locked_by_another_process_is_busy_after_a_bounded_wait_and_works_again(
    tmp_path: Path,
) -> None:
    lock = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    print("ready", flush=True)
    sys.stdin.read()
    """
    async with opened(tmp_path, busy_seconds=0.1) as store:
        await store.keys.set_setting_once("before", "1")
        with running(program(lock, tmp_path / "clawplane.db")):
            with pytest.raises(StoreBusy, match="locked by another process"):
                await store.keys.set_setting_once("during", "1")
            assert await store.keys.setting("before") == "1"
        assert await store.keys.setting("during") is None
        assert await store.keys.set_setting_once("after", "1") == "1"


async def test_a_lock_that_is_released_in_time_is_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path, busy_seconds=30) as store:
        other = sqlite3.connect(tmp_path / "clawplane.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.keys.set_setting_once("name", "value"))
        done, _ = await asyncio.wait([writing], timeout=0.05)
        assert not done
        other.execute("ROLLBACK")
        other.close()
        assert await writing == "value"


FILL = """
import asyncio, json, os, subprocess, sys
from pathlib import Path
from clawplane.domain.batches import LogLine
from clawplane.domain.errors import StoreFull
from clawplane.store import open_store

async def chunks(size):
    for _ in range(size // 65536):
        yield os.urandom(65536)

async def main():
    disk = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", disk], check=True)
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (3 << 20))
    store = await open_store(disk / "data")
    acknowledged, refused, text = 0, [], "y" * 20000
    while len(refused) < 3:
        lines = [LogLine(2, f"{acknowledged} {text}", 0)]
        try:
            await store.runs.append_system_log("run", "", lines)
            acknowledged += 1
        except Exception as error:
            refused.append(type(error).__name__)
    try:
        await store.blobs.put("packages/large", chunks(8 << 20))
    except Exception as error:
        refused.append(type(error).__name__)
    left = [path.name for path in (disk / "data" / "blobs").rglob("*") if path.is_file()]
    readable = len(await store.runs.log_tail("run", limit=10000))
    ballast.unlink()
    after = 0
    for number in range(20):
        await store.runs.append_system_log("run", "", [LogLine(2, f"{acknowledged + number} {text}", 0)])
        after += 1
    await store.close()
    store = await open_store(disk / "data")
    lines = await store.runs.log_tail("run", limit=10000)
    numbers = [int(line.content.split()[0]) for line in lines]
    await store.close()
    print(json.dumps({
        "acknowledged": acknowledged, "refused": refused, "left": left, "readable": readable,
        "whole": numbers == list(range(acknowledged + after)),
    }))
asyncio.run(main())
"""


def test_a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_serves_again_when_there_is_space(
    tmp_path: Path,
) -> None:
    if run_alone(["mount", "-t", "tmpfs", "none", str(tmp_path)]).returncode:
        pytest.skip("this host gives no private mount namespace")
    done = run_alone(program(FILL, tmp_path))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["acknowledged"] > 10
    assert seen["refused"] == ["StoreFull"] * 4
    assert seen["left"] == []
    assert seen["readable"] == seen["acknowledged"]
    assert seen["whole"]


WRITE = """
import asyncio, sys
from pathlib import Path
from clawplane.domain.batches import LogLine
from clawplane.store import open_store

async def write(store, writer):
    number = 0
    while True:
        await store.runs.append_system_log(writer, "", [LogLine(2, str(number), 0)] * 3)
        print(writer, number, flush=True)
        number += 1

async def main():
    store = await open_store(Path(sys.argv[1]))
    print("ready", flush=True)
    await asyncio.gather(*(write(store, f"w{n}") for n in range(4)))
asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_was_acknowledged_before_a_kill_is_there_once_and_in_order(tmp_path: Path, seed: int) -> None:
    lines_before_kill = random.Random(seed).randint(1, 600)
    acknowledged: dict[str, int] = {}
    with running(program(WRITE, tmp_path)) as writer:
        assert writer.stdout is not None
        for _ in range(lines_before_kill):
            name, number = writer.stdout.readline().split()
            acknowledged[name] = int(number)
        writer.send_signal(signal.SIGKILL)
        for text in writer.stdout:
            if len(text.split()) == 2 and text.endswith("\n"):
                acknowledged[text.split()[0]] = int(text.split()[1])
    async with opened(tmp_path) as store:
        for name, number in acknowledged.items():
            found = [int(entry.content) for entry in await store.runs.log_tail(name, limit=100_000)]
            assert found == [n for n in range(len(found) // 3) for _ in range(3)]
            assert len(found) // 3 in (number + 1, number + 2)


async def test_closing_keeps_what_was_accepted_and_refuses_what_comes_later(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    writing = [asyncio.create_task(store.runs.append_system_log("s", "", line(str(n)))) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writing)
    with pytest.raises(Unavailable):
        await store.keys.set_setting_once("a", "b")
    with pytest.raises(Unavailable):
        await store.keys.setting("a")
    async with opened(tmp_path) as again:
        assert len(await again.runs.log_tail("s", limit=99)) == 50


async def test_callers_that_are_cancelled_do_not_disturb_the_others_in_their_batch(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        tasks = [asyncio.create_task(store.keys.set_setting_once(f"k{n}", str(n))) for n in range(30)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[1::2] == [str(n) for n in range(1, 30, 2)]
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert await store.keys.set_setting_once("last", "1") == "1"


async def test_a_database_of_a_newer_release_is_refused_with_the_way_out(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "clawplane.db") as connection:
        connection.execute("INSERT INTO schema_migration VALUES (99, 'future', '', 0)")
    connection.close()
    with pytest.raises(StoreError, match="99") as refusal:
        await open_store(tmp_path)
    assert "newer" in refusal.value.hint


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "clawplane.db"
    file.write_bytes(b"this is my diary, please keep it" * 100)
    with pytest.raises(StoreError, match="damaged"):
        await open_store(tmp_path)
    assert file.read_bytes() == b"this is my diary, please keep it" * 100


async def test_a_store_opens_again_with_everything_it_was_told(tmp_path: Path) -> None:
    key = ApiKey(id="k", name="n", owner="o", scopes=frozenset({Scope.READ}), digest=b"d", created_at=1)
    async with opened(tmp_path) as store:
        await store.keys.add(key)
    async with opened(tmp_path) as store:
        assert await store.keys.all() == [key]
        assert (tmp_path / "clawplane.db-wal").stat().st_size == 0 or not (tmp_path / "clawplane.db-wal").exists()
