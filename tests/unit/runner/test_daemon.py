"""How a runner starts, or says why it does not."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import Conflict, InvalidArgument, InvalidToken
from clawplane.domain.ids import is_ulid
from clawplane.runner.daemon import CannotIsolate, run_runner
from clawplane.runner.identity import own, runner_id
from clawplane.runner.runner import Runner
from clawplane.sandbox.launch import Sandbox, SandboxUnavailable


@pytest.fixture
def no_sandbox(monkeypatch) -> None:
    async def refuse(**_: object) -> Sandbox:
        raise SandboxUnavailable("user namespaces are switched off")

    monkeypatch.setattr(Sandbox, "open", refuse)


async def test_without_a_working_sandbox_a_runner_refuses_to_start(no_sandbox, settings) -> None:
    with pytest.raises(CannotIsolate, match="user namespaces are switched off") as refused:
        await run_runner(settings)
    assert "--unsafe-no-sandbox" in refused.value.hint


async def test_the_unsafe_flag_starts_without_a_sandbox_loudly_and_with_one_slot(
    no_sandbox, settings, plane, caplog
) -> None:
    found: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
    with caplog.at_level(logging.WARNING):
        changed = replace(settings, unsafe_no_sandbox=True, sessions=True)
        task = asyncio.create_task(run_runner(changed, serving=found.set_result))
        runner = await found
    await plane.changes.until(lambda: plane.free_slots, "the runner offers its slots")
    assert plane.free_slots == {"workers": 1, "builds": 1}
    assert "without isolation" in plane.unable["sessions"]
    assert any("WITHOUT isolation" in record.getMessage() for record in caplog.records)
    runner.drain()
    await task


async def test_a_token_that_is_refused_ends_the_start_in_words(settings) -> None:
    with pytest.raises(InvalidToken, match="refuses this runner") as refused:
        await run_runner(replace(settings, token="another-token-entirely"))
    assert "another-token" not in str(refused.value)


async def test_an_address_that_is_none_is_refused(settings) -> None:
    with pytest.raises(InvalidArgument, match="localhost:3456"):
        await run_runner(replace(settings, url="localhost:3456"))


def test_the_token_is_in_no_repr(settings) -> None:
    assert settings.token not in repr(settings)


def test_an_id_is_made_once_and_kept(tmp_path) -> None:
    made = runner_id(tmp_path, SystemClock())
    assert is_ulid(made)
    assert runner_id(tmp_path, SystemClock()) == made


def test_a_damaged_id_is_replaced(tmp_path) -> None:
    (tmp_path / "runner-id").write_bytes(b"\xff\xff")
    assert is_ulid(runner_id(tmp_path, SystemClock()))


def test_a_directory_belongs_to_one_runner_at_a_time(tmp_path) -> None:
    with own(tmp_path), pytest.raises(Conflict, match="Another runner"), own(tmp_path):
        pass
    with own(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_told_with_a_way_out(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="cannot be used") as refused, own(tmp_path / "file" / "data"):
        pass
    assert "--data" in refused.value.hint
