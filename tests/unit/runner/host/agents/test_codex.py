from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from clawplane.domain.clock import ManualClock
from clawplane.runner.host.agents.events import Cost, Final, Started, Text, ToolResult, ToolUse

API = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def runner(runner):
    """Codex files its sessions by day, so the clock stands at today."""
    runner.clock = ManualClock(int(datetime.now(UTC).timestamp() * 1000))
    return runner


async def test_a_new_conversation_tells_its_id_and_only_the_last_message_is_the_answer(runner) -> None:
    report = await runner.ask("codex", "hello")
    thread = report.metadata["sessionId"]
    assert (report.exit_code, report.stdout) == (0, f"turn 1 of {thread}: hello")
    assert report.metadata["usage"] == {"inputTokens": 7, "outputTokens": 9}
    assert [type(event) for event in runner.told] == [
        Started, ToolUse, ToolResult, Text, Text, Cost, Final
    ]  # fmt: skip
    assert runner.bound[0] == thread
    (call,) = runner.calls
    assert call["argv"] == ["exec", "--json", "--skip-git-repo-check", "--sandbox", "workspace-write", "-"]
    assert call["stdin"] == "hello"


async def test_the_next_turn_resumes_by_the_providers_id_without_the_flags_that_resume_rejects(runner) -> None:
    first = await runner.ask("codex", "one")
    runner.start()
    second = await runner.ask("codex", "two", model="o-model")
    thread = first.metadata["sessionId"]
    assert second.stdout == f"turn 2 of {thread}: two"
    sandbox = 'sandbox_mode="workspace-write"'
    wanted = ["exec", "resume", "--json", "--skip-git-repo-check", "-c", sandbox, "-m", "o-model", thread, "-"]
    assert runner.calls[1]["argv"] == wanted


async def test_a_session_file_whose_id_starts_with_the_api_id_is_resumed_in_its_directory(runner, tmp_path) -> None:
    (tmp_path / "project").mkdir()
    first = await runner.ask("codex", "one", session="elsewhere", cwd=str(tmp_path / "project"))
    report = await runner.ask("codex", "two", session=first.metadata["sessionId"][:8])
    assert report.stdout.startswith("turn 2 of ")
    assert runner.calls[1]["cwd"] == str(tmp_path / "project")


async def test_a_conversation_that_is_gone_is_begun_anew_and_the_answer_says_so(runner) -> None:
    report = await runner.ask("codex", "one", provider=str(uuid.uuid4()))
    assert report.exit_code == 0
    assert report.stdout.startswith("[The earlier conversation could not be resumed.")
    assert report.metadata["freshSession"] is True
    assert (await runner.ask("codex", "two")).stdout.startswith("turn 2 of ")


async def test_a_version_that_quietly_begins_anew_is_noticed(runner) -> None:
    runner.env["STUB_DO"] = "anew"
    report = await runner.ask("codex", "one", provider=str(uuid.uuid4()))
    assert report.stdout.startswith("[The earlier conversation could not be resumed.")


async def test_an_old_version_gets_the_peers_flags_and_its_id_is_read_from_stderr(runner) -> None:
    runner.env["STUB_DO"] = "old"
    first = await runner.ask("codex", "one")
    thread = first.metadata["sessionId"]
    assert runner.calls[0]["argv"] == ["exec", "--skip-git-repo-check", "--full-auto", "-"]
    assert (first.stdout, runner.bound[0]) == (f"turn 1 of {thread}: one", thread)
    assert (await runner.ask("codex", "two")).stdout == f"turn 2 of {thread}: two"


async def test_a_failed_turn_says_what_the_provider_said_and_keeps_its_conversation(runner) -> None:
    runner.env["STUB_DO"] = "fail"
    failed = await runner.ask("codex", "one")
    assert (failed.exit_code, failed.error, failed.stdout) == (1, "Exit code 1", "the provider said no")
    assert "the provider said no" in failed.stderr
    del runner.env["STUB_DO"]
    assert (await runner.ask("codex", "two")).stdout == f"turn 2 of {failed.metadata['sessionId']}: two"


async def test_a_killed_cli_is_no_success(runner) -> None:
    runner.env["STUB_DO"] = "kill"
    report = await runner.ask("codex")
    assert (report.exit_code, report.metadata["signal"]) == (137, "SIGKILL")


async def test_a_prompt_that_looks_like_a_flag_arrives_on_standard_input(runner) -> None:
    text = "--json " + "y" * 1_048_576
    await runner.ask("codex", text)
    assert runner.calls[0]["stdin"] == text


@pytest.mark.parametrize(
    ("more", "field"),
    [({"budget_usd": 1.0}, "budget_usd"), ({"tools": ("x",)}, "tools"), ({"approval": "tools"}, "approval")],
)
async def test_what_codex_cannot_do_is_refused_with_the_field_and_a_way_out(runner, more, field) -> None:
    report = await runner.ask("codex", **more)
    assert report.exit_code == 1
    assert report.error.startswith(f"{field}: ")
    assert runner.calls == []
