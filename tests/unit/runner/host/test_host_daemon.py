"""A runner with --host-tasks from its start to its end, with and without a sandbox beside it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_tasks import Command, HostSpec, TaskId, TaskReport, TaskType
from clawplane.domain.leases import JobKind
from clawplane.runner.daemon import run_runner
from clawplane.runner.host.policy import HostPolicy
from clawplane.runner.host.settings import HostSettings
from clawplane.runner.runner import Runner
from clawplane.sandbox.launch import Sandbox, SandboxUnavailable


@pytest.fixture
def no_sandbox(monkeypatch) -> None:
    async def refuse(**_: object) -> Sandbox:
        raise SandboxUnavailable("user namespaces are switched off")

    monkeypatch.setattr(Sandbox, "open", refuse)


async def started(settings, environ: dict[str, str]) -> tuple[asyncio.Task[None], Runner]:
    found: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run_runner(settings, environ=environ, serving=found.set_result))
    await asyncio.wait([task, found], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    return task, found.result()


async def test_a_host_that_cannot_isolate_does_host_tasks_only(no_sandbox, settings, plane, environ, caplog) -> None:
    host = HostSettings(slots=3, policy=HostPolicy(groups=("command", "files")))
    task, runner = await started(replace(settings, host=host), environ)
    await plane.changes.until(lambda: plane.free_slots, "the runner offers its slots")
    record = next(iter(plane.runners.values()))
    assert (plane.free_slots, record.capabilities) == ({"host": 3}, ("host", "host@command", "host@files"))
    assert "host tasks only" in caplog.text
    work = Command(command="pwd; env | grep -c _TOKEN", timeout=20_000)
    offer = plane.offer(JobKind.HOST, HostSpec(task=TaskId("t"), type=TaskType.COMMAND, work=work, created_at=0))
    report = msgspec.msgpack.decode((await plane.ended(offer)).outcome.result, type=TaskReport)
    assert report.stdout == f"{environ['HOME']}\n0\n"
    runner.drain()
    await task


async def test_without_the_flag_a_runner_offers_no_host_tasks(settings, plane, environ) -> None:
    task, runner = await started(settings, environ)
    await plane.changes.until(lambda: plane.free_slots, "the runner offers its slots")
    assert not any("host" in each for each in next(iter(plane.runners.values())).capabilities)
    assert not (settings.data / "host").exists()
    runner.drain()
    await task


async def test_what_a_runner_keeps_of_host_tasks_is_private(no_sandbox, settings, plane, environ) -> None:
    task, runner = await started(replace(settings, host=HostSettings()), environ)
    for directory in ("", "output", "spool", "scratch"):
        assert (settings.data / "host" / directory).stat().st_mode & 0o777 == 0o700
    runner.drain()
    await task


@pytest.mark.parametrize("place", ["host", "host/spool", "host/output"])
async def test_a_planted_link_in_the_runners_directory_ends_the_start_in_words(
    no_sandbox, settings, environ, tmp_path: Path, place: str
) -> None:
    planted = settings.data / place
    planted.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    planted.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument, match="own directory cannot be used"):
        await run_runner(replace(settings, host=HostSettings()), environ=environ)
    assert os.listdir(tmp_path / "elsewhere") == []
