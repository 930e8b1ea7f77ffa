from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from clawplane.runner.host.agents.claude import Claude
from clawplane.runner.host.agents.conducting import program_of
from clawplane.runner.host.agents.events import Cost, Final, Started, Text
from clawplane.runner.host.agents.turn import ToolAnswer, ToolAsk
from clawplane.runner.host.stopping import Stop

API = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"


def transcripts(runner):
    return sorted(file.stem for file in (runner.home / ".claude" / "projects").glob("*/*.jsonl"))


async def test_a_new_conversation_gets_the_api_id_and_answers_with_text_cost_and_events(runner) -> None:
    report = await runner.ask("claude", "hello", channel="c1")
    assert (report.exit_code, report.error, report.stdout) == (0, None, f"turn 1 of {API}: hello")
    assert report.metadata["sessionId"] == API
    assert report.metadata["costUsd"] == 0.25
    assert [type(event) for event in runner.told] == [Started, Text, Cost, Final]
    assert ("stdout", f"turn 1 of {API}: hello\n") in runner.live
    assert set(runner.bound) == {API}
    assert runner.calls[0]["cwd"] == str(runner.home)
    (kept,) = json.loads((runner.home / "cache.json").read_text())
    assert kept == {
        "sessionId": API, "taskApiId": API, "lastActivity": runner.clock.now_ms(), "callbackChannel": "c1"
    }  # fmt: skip


async def test_the_next_turn_resumes_also_after_the_runner_was_started_anew(runner) -> None:
    await runner.ask("claude", "one")
    runner.start()
    report = await runner.ask("claude", "two")
    assert report.stdout == f"turn 2 of {API}: two"
    assert runner.calls[1]["argv"][-3:-1] == ["--resume", API]


async def test_a_conversation_under_an_id_that_is_no_uuid_is_found_again_by_its_mapping(runner) -> None:
    first = await runner.ask("claude", "one", session="chat 7")
    runner.start()
    second = await runner.ask("claude", "two", session="chat 7")
    assert second.metadata["sessionId"] == first.metadata["sessionId"]
    assert second.stdout.startswith("turn 2 of ")


async def test_what_the_control_plane_knows_of_a_conversation_is_enough_to_resume_it(runner) -> None:
    first = await runner.ask("claude", "one", session="chat 7")
    (runner.home / "cache.json").unlink()
    runner.start()
    again = await runner.ask("claude", "two", session="chat 7", provider=first.metadata["sessionId"])
    assert again.stdout.startswith("turn 2 of ")


async def test_a_short_id_is_completed_from_the_newest_transcript_that_starts_so(runner) -> None:
    await runner.ask("claude", "one", session=OTHER)
    report = await runner.ask("claude", "two", session="99999999")
    assert report.stdout == f"turn 2 of {OTHER}: two"


async def test_a_conversation_of_another_project_is_resumed_in_its_own_directory(runner, tmp_path: Path) -> None:
    project = tmp_path / "a project.d"
    project.mkdir()
    await runner.ask("claude", "one", cwd=str(project))
    report = await runner.ask("claude", "two")
    assert report.stdout == f"turn 2 of {API}: two"
    assert runner.calls[1]["cwd"] == str(project)


async def test_a_directory_that_the_operator_keeps_closed_is_not_entered_for_a_conversation(runner, tmp_path) -> None:
    (tmp_path / "closed").mkdir()
    await runner.ask("claude", "one", cwd=str(tmp_path / "closed"))
    runner.may_start_in = lambda cwd: False
    report = await runner.ask("claude", "two")
    assert (report.exit_code, report.metadata["freshSession"]) == (0, True)
    assert {call["cwd"] for call in runner.calls[1:]} == {str(runner.home)}


@pytest.mark.parametrize("text", ["--help me", "x" * 1_048_576, "é\n$(id)\n"])
async def test_a_prompt_arrives_whole_on_standard_input_and_never_as_an_argument(runner, text: str) -> None:
    report = await runner.ask("claude", text)
    assert report.exit_code == 0
    (call,) = runner.calls
    assert call["stdin"] == text
    assert all(text not in word for word in call["argv"])


async def test_an_id_in_use_where_it_was_not_seen_is_resumed_instead(runner) -> None:
    elsewhere = runner.home / "not-the-projects"
    elsewhere.mkdir()
    await runner.ask("claude", "one")
    (runner.home / "cache.json").unlink()
    runner.operator["CLAUDE_PROJECTS_DIR"] = str(elsewhere)
    runner.start()
    report = await runner.ask("claude", "two")
    assert (report.exit_code, report.stdout) == (0, f"turn 2 of {API}: two")


async def test_a_conversation_that_is_gone_is_begun_anew_and_the_answer_says_so(runner) -> None:
    await runner.ask("claude", "one")
    (transcript,) = (runner.home / ".claude" / "projects").glob("*/*.jsonl")
    transcript.unlink()
    report = await runner.ask("claude", "two")
    assert report.exit_code == 0
    assert report.stdout.startswith("[The earlier conversation could not be resumed.")
    assert report.stdout.endswith(": two")
    assert report.metadata["freshSession"] is True


async def test_a_transcript_that_claude_does_not_find_leads_to_a_new_conversation_without_an_error(runner) -> None:
    await runner.ask("claude", "one")
    (transcript,) = (runner.home / ".claude" / "projects").glob("*/*.jsonl")
    stranger = transcript.parents[1] / "-somewhere-else"
    stranger.mkdir()
    transcript.rename(stranger / transcript.name)
    report = await runner.ask("claude", "two")
    assert report.exit_code == 0, report
    assert report.stdout.endswith(": two")
    assert len(transcripts(runner)) == 2


async def test_a_failed_first_run_does_not_spoil_the_conversation(runner) -> None:
    runner.env["STUB_DO"] = "fail"
    failed = await runner.ask("claude", "one")
    assert (failed.exit_code, failed.error, failed.stderr) == (3, "Exit code 3", "it broke")
    del runner.env["STUB_DO"]
    report = await runner.ask("claude", "two")
    assert (report.exit_code, report.stdout) == (0, f"turn 1 of {API}: two")


async def test_a_run_out_of_time_keeps_its_conversation_and_what_it_said(runner) -> None:
    runner.env["STUB_DO"] = "hang"
    late = await runner.ask("claude", "one", session="chat 7", within=2.5)
    assert (late.exit_code, late.error, late.stderr, late.stdout) == (-1, "Timeout", "Timeout", "so far")
    del runner.env["STUB_DO"]
    runner.start()
    report = await runner.ask("claude", "two", session="chat 7")
    assert report.stdout == f"turn 2 of {late.metadata['sessionId']}: two"


async def test_a_program_gets_its_time_out_and_half_a_minute_more(runner) -> None:
    given = []

    def wrap(spawn):
        async def run(launch, heard):
            given.append((launch.argv[1], launch.seconds))
            return await spawn(launch, heard)

        return run

    await runner.ask("claude", timeout=7_000, wrap=wrap)
    assert ("--print", pytest.approx(37.0)) in given


async def test_a_cancelled_run_ends_with_its_tree_and_is_reported_as_such(runner) -> None:
    runner.env["STUB_DO"] = "hang"
    stop = Stop()
    turn = asyncio.ensure_future(runner.ask("claude", "one", stop=stop))
    async with asyncio.timeout(30):
        while not runner.bound:
            await asyncio.wait({turn}, timeout=0.02)
    stop.cancel()
    report = await turn
    assert (report.exit_code, report.error) == (-1, "Cancelled")
    assert report.metadata["sessionId"] == API


async def test_a_killed_cli_is_reported_with_its_signal_and_never_as_success(runner) -> None:
    runner.env["STUB_DO"] = "kill"
    report = await runner.ask("claude")
    assert (report.exit_code, report.error, report.metadata["signal"]) == (137, "Exit code 137", "SIGKILL")


async def test_a_run_that_ends_without_an_answer_is_a_failure(runner) -> None:
    runner.env["STUB_DO"] = "mute"
    report = await runner.ask("claude")
    assert (report.exit_code, report.error) == (1, "Claude Code ended without a final answer")


async def test_the_next_model_is_tried_when_one_is_refused_in_a_conversation_of_its_own(runner) -> None:
    runner.env["STUB_REFUSED"] = "first"
    report = await runner.ask("claude", "one", model="first, default")
    assert report.exit_code == 0
    assert report.stdout.startswith("turn 1 of ")
    assert ["--model" in call["argv"] for call in runner.calls] == [True, False]
    assert "The model first was refused" in report.stderr


async def test_the_operators_models_are_tried_when_the_task_names_none(runner) -> None:
    runner.operator["CC_MODELS"] = "first,second"
    runner.env["STUB_REFUSED"] = "first"
    assert (await runner.ask("claude")).metadata["model"] == "second"


async def test_the_last_refusal_is_reported_when_every_model_is_refused(runner) -> None:
    runner.env["STUB_REFUSED"] = "first,second"
    report = await runner.ask("claude", model="first,second")
    assert report.exit_code == 1
    assert report.stdout.startswith("API Error: 400")


async def test_a_budget_is_handed_on_and_its_end_is_named(runner) -> None:
    runner.env["STUB_DO"] = "budget"
    report = await runner.ask("claude", budget_usd=0.5)
    assert (report.exit_code, report.error, report.stderr) == (1, "SDK error_max_budget_usd", "Reached maximum budget")
    argv = runner.calls[0]["argv"]
    assert argv[argv.index("--max-budget-usd") + 1] == "0.5"


async def test_an_allow_list_takes_the_place_of_running_without_checks(runner) -> None:
    await runner.ask("claude", tools=("Read", "Bash(git log:*)"))
    argv = runner.calls[0]["argv"]
    assert argv[-5:] == ["--permission-mode", "dontAsk", "--allowedTools", "Read", "Bash(git log:*)"]
    assert "--dangerously-skip-permissions" not in argv


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by Claude Code")
async def test_root_runs_with_checks_because_claude_would_refuse_and_is_told_so(runner) -> None:
    runner.env["IS_SANDBOX"] = ""
    report = await runner.ask("claude")
    assert "--dangerously-skip-permissions" not in runner.calls[0]["argv"]
    assert "ordinary user" in report.stderr


async def test_an_old_version_is_run_with_what_it_understands(runner) -> None:
    runner.env["STUB_DO"] = "old"
    report = await runner.ask("claude", "one")
    assert runner.calls[0]["argv"] == ["--print", "--dangerously-skip-permissions"]
    assert report.exit_code == 0
    assert report.stdout.startswith("turn 1 of ")
    refused = await runner.ask("claude", budget_usd=1.0)
    assert (refused.exit_code, "--max-budget-usd" in refused.error) == (1, True)


async def test_a_version_that_gives_no_help_is_run_as_the_oldest_were(runner) -> None:
    runner.env["STUB_DO"] = "helpless"
    report = await runner.ask("claude")
    assert runner.calls[0]["argv"] == ["--print", "--session-id", API, "--dangerously-skip-permissions"]
    assert report.stdout == f"turn 1 of {API}: hello"


async def test_the_guard_against_nesting_is_not_handed_on(runner) -> None:
    runner.env["CLAUDECODE"] = "1"
    await runner.ask("claude")
    assert "CLAUDECODE" not in runner.calls[0]["env"]


async def test_a_missing_cli_is_reported_by_name(runner) -> None:
    (runner.bin / "claude").unlink()
    runner.operator["CLAUDE_PATH"] = "claude-of-nobody"
    report = await runner.ask("claude")
    assert report.exit_code == -1
    assert report.error.startswith("Claude Code is not installed on this runner: `claude-of-nobody` was not found")
    assert "CLAUDE_PATH" in report.error


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from 3.12 on Python asks Windows itself how it finds programs")
def test_npm_shims_are_found_as_windows_finds_programs(runner, monkeypatch, tmp_path) -> None:
    """npm lays a script for sh, `claude.cmd` and `claude.ps1` side by side; only the second is a program there."""
    for name in ("claude", "claude.cmd", "claude.ps1"):
        (tmp_path / name).touch(mode=0o755)
    house = runner.start()
    assert program_of(Claude(), house, str(tmp_path)) == str(tmp_path / "claude")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("PATHEXT", os.pathsep.join((".COM", ".EXE", ".BAT", ".cmd")))
    assert program_of(Claude(), house, str(tmp_path)) == str(tmp_path / "claude.cmd")


async def test_a_screenshot_that_the_answer_names_is_in_the_metadata(runner) -> None:
    runner.env["STUB_DO"] = "screenshot"
    assert (await runner.ask("claude")).metadata["screenshotPath"] == "/tmp/shots/page one.png"


async def test_an_answer_behind_much_structured_output_is_not_lost(runner) -> None:
    runner.env["STUB_DO"] = "large"
    report = await runner.ask("claude")
    assert (report.exit_code, report.stdout) == (0, f"turn 1 of {API}: hello")


async def test_the_live_log_is_private_and_marks_begin_and_end(runner) -> None:
    await runner.ask("claude", "the head of\nthe prompt")
    log = runner.home / "live.log"
    text = log.read_text()
    assert "start" in text.splitlines()[1]
    assert "the head of the prompt" in text
    assert f"turn 1 of {API}" in text
    assert text.rstrip().endswith("exit code 0")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_a_planted_link_at_the_live_log_is_not_followed_and_costs_no_turn(runner, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    (runner.home / "live.log").symlink_to(target)
    assert (await runner.ask("claude")).exit_code == 0
    assert target.read_text() == "before"


async def test_a_person_is_asked_about_a_tool_and_a_yes_lets_it_run(runner) -> None:
    runner.env["STUB_DO"] = "tool"
    asked: list[ToolAsk] = []

    async def ask(question: ToolAsk) -> ToolAnswer:
        asked.append(question)
        return ToolAnswer(allowed=True, reason="go on")

    report = await runner.ask("claude", approval="tools", ask=ask)
    assert report.stdout == "ran: allow"
    assert (asked[0].tool, json.loads(asked[0].detail)) == ("Bash", {"command": "rm -r build"})
    assert "--dangerously-skip-permissions" not in runner.calls[0]["argv"]
    assert list(runner.private.iterdir()) == []


async def test_a_no_blocks_a_tool_and_the_agent_hears_why(runner) -> None:
    runner.env["STUB_DO"] = "tool"

    async def ask(question: ToolAsk) -> ToolAnswer:
        return ToolAnswer(allowed=False, reason="not on a Friday")

    assert (await runner.ask("claude", approval="tools", ask=ask)).stdout == "blocked 2: not on a Friday"


async def test_no_answer_in_time_is_a_no(runner) -> None:
    runner.env["STUB_DO"] = "tool"

    async def ask(question: ToolAsk) -> ToolAnswer:
        raise TimeoutError

    report = await runner.ask("claude", approval="tools", ask=ask)
    assert report.stdout == "blocked 2: Nobody answered in time."


async def test_a_runner_that_cannot_ask_is_a_no(runner) -> None:
    runner.env["STUB_DO"] = "tool"

    async def ask(question: ToolAsk) -> ToolAnswer:
        raise RuntimeError("no link")

    report = await runner.ask("claude", approval="tools", ask=ask)
    assert report.stdout == "blocked 2: The runner could not ask."


async def test_tool_uses_cannot_be_asked_about_where_nobody_can_be_asked(runner) -> None:
    report = await runner.ask("claude", approval="tools")
    assert report.exit_code == 1
    assert report.error.startswith("approval: nobody can be asked")
    assert runner.calls == []
