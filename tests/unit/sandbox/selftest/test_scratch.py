"""The directory of a selftest goes with it, however that ends, and nobody takes a living one's."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clawplane.sandbox.selftest import attack, scratch
from clawplane.sandbox.selftest.items import Attack, refused
from clawplane.sandbox.selftest.scratch import PREFIX

HOLD = """
import sys
from clawplane.sandbox.selftest import scratch
with scratch() as kept:
    (kept.path / "canary").write_text("mine")
    print(kept.path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that holds a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={"TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_holds_is_not(place: Path) -> None:
    killed, left = holder(place)
    living, held = holder(place)
    with killed, living:
        killed.kill()
        killed.wait()
        assert {left, held} <= set(place.iterdir())
        with scratch() as kept:
            assert set(place.iterdir()) == {held, kept.path}
        assert (held / "canary").read_text() == "mine"
        assert living.stdin is not None
        living.stdin.close()
        assert living.wait(10) == 0
    assert list(place.iterdir()) == []


def test_a_process_that_inherits_the_lock_keeps_the_directory(place: Path) -> None:
    with scratch() as kept:
        heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(kept.lock,))
        (place / "other").mkdir()
        kept.path.rename(place / "other" / kept.path.name)  # so that it outlives its maker
    (place / "other" / kept.path.name).rename(kept.path)
    with heir:
        with scratch():
            assert kept.path.is_dir()
        heir.communicate(b"\n")
    with scratch():
        assert not kept.path.exists()


def test_links_and_files_of_such_a_name_are_left_alone(place: Path) -> None:
    mine = place / "mine"
    mine.mkdir()
    (place / f"{PREFIX}link").symlink_to(mine)
    (place / f"{PREFIX}file").write_text("x")
    with scratch():
        pass
    assert {each.name for each in place.iterdir()} == {"mine", f"{PREFIX}link", f"{PREFIX}file"}


async def test_attacks_that_are_cancelled_leave_nothing_behind(place: Path) -> None:
    begun = asyncio.Event()

    def endless(canary: str) -> list[Attack]:
        begun.set()
        return [Attack(number=99, title="t", expected="e", judge=refused("EPERM"), code="import time; time.sleep(60)")]

    task = asyncio.create_task(attack(lambda result: None, attacks=endless))
    await begun.wait()
    assert [each.name.startswith(PREFIX) for each in place.iterdir()] == [True]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_selftest_that_is_ended_by_a_signal_leaves_nothing_behind(place: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clawplane",
        "selftest",
        "--sandbox-only",
        env={"TMPDIR": str(place), "PATH": "/usr/bin:/bin"},
    )
    async with asyncio.timeout(30):
        while not list(place.iterdir()):
            await asyncio.sleep(0)
        process.send_signal(number)
        assert await process.wait() == 128 + number
    assert list(place.iterdir()) == []
