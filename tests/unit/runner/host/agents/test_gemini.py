from __future__ import annotations

import pytest

from clawplane.runner.host.agents.events import Cost, Final, Notice, Started, Text, ToolResult, ToolUse

API = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"


async def test_a_new_conversation_gets_the_api_id_and_the_labelled_prompt_on_standard_input(runner) -> None:
    report = await runner.ask("gemini", "hello")
    assert (report.exit_code, report.stdout, report.metadata["sessionId"]) == (0, f"turn 1 of {API}", API)
    assert [type(event) for event in runner.told] == [Started, Text, Text, Cost, Final]
    (call,) = runner.calls
    assert call["argv"][:4] == ["--session-id", API, "-m", "gemini-2.5-flash"]
    assert call["argv"][-2:] == ["-p", "[Your reply]"]
    assert call["stdin"].startswith("[Instructions]\n")
    assert call["stdin"].endswith("[User message]\nhello")


async def test_two_chats_that_take_turns_keep_their_own_conversations(runner) -> None:
    for number in (1, 2, 3):
        for session in (API, OTHER, "a chat"):
            report = await runner.ask("gemini", session=session, resume_latest=True)
            assert report.stdout.startswith(f"turn {number} of ")
            assert report.metadata["sessionId"] == session or session == "a chat"


async def test_a_version_that_knows_no_ids_is_resumed_by_index(runner) -> None:
    await runner.ask("gemini", session=OTHER)
    await runner.ask("gemini")
    await runner.ask("gemini", session="33333333-2222-4333-8444-555555555555")
    runner.env["STUB_DO"] = "no ids"
    report = await runner.ask("gemini")
    assert report.stdout == f"turn 2 of {API}"
    assert runner.calls[-1]["argv"][:2] == ["--resume", "2"]


async def test_latest_is_taken_for_a_chat_that_asks_for_it_when_nobody_else_has_it(runner) -> None:
    await runner.ask("gemini", session=OTHER)
    (runner.home / "cache.json").unlink()
    runner.start()
    report = await runner.ask("gemini", session="a chat", resume_latest=True)
    assert report.stdout == f"turn 2 of {OTHER}"
    assert runner.calls[-1]["argv"][:2] == ["--resume", "latest"]


async def test_latest_is_not_taken_when_it_is_another_chats(runner) -> None:
    await runner.ask("gemini", session=OTHER)
    report = await runner.ask("gemini", session="a chat", resume_latest=True)
    assert report.stdout.startswith("turn 1 of ")


async def test_a_conversation_that_is_gone_is_begun_anew_and_the_answer_says_so(runner) -> None:
    report = await runner.ask("gemini", provider=OTHER)
    assert report.exit_code == 0
    assert report.stdout.startswith("[The earlier conversation could not be resumed. This is the beginning")


async def test_when_resuming_by_id_fails_the_latest_that_is_nobodys_goes_on_and_the_answer_says_so(runner) -> None:
    await runner.ask("gemini", session=OTHER)
    (runner.home / "cache.json").unlink()
    runner.start()
    report = await runner.ask("gemini", session="a chat", provider=API, resume_latest=True)
    assert "goes on with the latest one" in report.stdout
    assert report.stdout.endswith(f"turn 2 of {OTHER}")


async def test_a_conversation_is_resumed_in_the_directory_it_was_begun_in(runner, tmp_path) -> None:
    (tmp_path / "project").mkdir()
    await runner.ask("gemini", cwd=str(tmp_path / "project"))
    report = await runner.ask("gemini")
    assert report.stdout == f"turn 2 of {API}"
    assert runner.calls[-1]["cwd"] == str(tmp_path / "project")


async def test_an_old_version_answers_with_one_json_object_and_tells_its_id(runner) -> None:
    runner.env["STUB_DO"] = "old"
    report = await runner.ask("gemini")
    assert runner.calls[0]["argv"] == ["-m", "gemini-2.5-flash", "-o", "json", "--sandbox=false", "-p", "[Your reply]"]
    assert report.stdout == f"turn 1 of {report.metadata['sessionId']}"
    assert (await runner.ask("gemini")).stdout == f"turn 2 of {report.metadata['sessionId']}"


async def test_the_hint_can_be_replaced_or_switched_off(runner) -> None:
    runner.operator["GEMINI_REPLY_HINT"] = "Be brief."
    await runner.ask("gemini", "hello")
    runner.operator["GEMINI_REPLY_HINT"] = "off"
    runner.start()
    await runner.ask("gemini", "hello")
    assert runner.calls[0]["stdin"] == "[Instructions]\nBe brief.\n\n[User message]\nhello"
    assert (runner.calls[1]["stdin"], runner.calls[1]["argv"][-2:]) == ("hello", ["-p", ""])


async def test_a_leading_self_description_is_replaced(runner) -> None:
    runner.env["STUB_DO"] = "introduce"
    assert (await runner.ask("gemini")).stdout == f"I am your AI assistant. turn 1 of {API}"


async def test_no_model_flag_is_given_when_the_task_wants_the_clis_own_choice(runner) -> None:
    await runner.ask("gemini", model="auto")
    assert "-m" not in runner.calls[0]["argv"]


async def test_tools_are_allowed_by_name_or_all_at_once(runner) -> None:
    await runner.ask("gemini", tools=("read_file", "glob"))
    await runner.ask("gemini", tools=("*",))
    assert "--allowed-tools=read_file,glob" in runner.calls[0]["argv"]
    assert "yolo" in runner.calls[1]["argv"]


async def test_the_tools_it_uses_and_what_they_gave_are_told_while_it_runs(runner) -> None:
    runner.env["STUB_DO"] = "tools"
    report = await runner.ask("gemini")
    assert [event for event in runner.told if isinstance(event, ToolUse | ToolResult | Notice)] == [
        ToolUse(id="r-1", tool="read_file", detail='{"path": "a"}'),
        ToolResult(id="r-1", ok=True, detail="the text"),
        ToolUse(id="g-2", tool="glob", detail="{}"),
        ToolResult(id="g-2", ok=False, detail="no such"),
        Notice(text="loop detected"),
    ]
    assert (report.exit_code, report.stdout) == (0, f"I look.\n\nturn 1 of {API}")


async def test_a_cli_that_may_not_sign_in_says_so(runner) -> None:
    runner.env["STUB_DO"] = "signed out"
    report = await runner.ask("gemini")
    assert report.exit_code == 41
    assert report.stderr.startswith("Gemini CLI could not sign in")
    assert report.stderr.endswith("Invalid auth method selected.")


@pytest.mark.parametrize(("more", "field"), [({"budget_usd": 1.0}, "budget_usd"), ({"approval": "tools"}, "approval")])
async def test_what_gemini_cannot_do_is_refused_with_the_field_and_a_way_out(runner, more, field) -> None:
    report = await runner.ask("gemini", **more)
    assert report.error.startswith(f"{field}: ")
    assert runner.calls == []
