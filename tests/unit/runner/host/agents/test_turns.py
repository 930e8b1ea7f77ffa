"""What holds for every CLI: locks, help, models, lines, introductions."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys

import pytest

from clawplane.runner.host.agents import approval_hook
from clawplane.runner.host.agents.approvals import approving
from clawplane.runner.host.agents.conversation_locks import ConversationLocks
from clawplane.runner.host.agents.events import LONGEST_LINE, JsonLines
from clawplane.runner.host.agents.gemini_stream import without_introduction
from clawplane.runner.host.agents.help_probe import HelpProbe, read_help
from clawplane.runner.host.agents.models import candidates, refused
from clawplane.runner.host.agents.turn import Ended, ToolAnswer, settings_from
from clawplane.runner.host.stopping import Stop

API = "11111111-2222-4333-8444-555555555555"


def test_settings_come_from_the_environment_under_the_contracts_names(tmp_path) -> None:
    none = settings_from({}, home=tmp_path, private=tmp_path)
    assert none.programs == {"claude": "claude", "codex": "codex", "gemini": "gemini"}
    assert none.claude_projects == tmp_path / ".claude" / "projects"
    assert none.codex_sessions == tmp_path / ".codex" / "sessions"
    assert str(none.session_cache) == "/tmp/openclaw-runner-session-cache.json"
    assert str(none.live_log) == "/tmp/cc-live.log"
    assert none.session_retention_ms == 1_800_000
    said = {
        "CODEX_PATH": "/opt/codex",
        "CC_MODEL": "one",
        "CLAUDE_PROJECTS_DIR": "/p",
        "CODEX_SESSIONS_DIR": "/s",
        "RUNNER_SESSION_CACHE_FILE": "/c.json",
        "RUNNER_SESSION_RETENTION_MS": "5",
        "CC_LOG_PATH": "/l.log",
        "GEMINI_REPLY_HINT": "off",
    }
    full = settings_from(said, home=tmp_path, private=tmp_path)
    assert (full.programs["codex"], full.models["claude"], full.gemini_hint) == ("/opt/codex", "one", "off")
    assert (str(full.claude_projects), str(full.codex_sessions)) == ("/p", "/s")
    assert (str(full.session_cache), full.session_retention_ms, str(full.live_log)) == ("/c.json", 60_000, "/l.log")
    assert (
        settings_from({"CC_MODELS": "a,b", "CC_MODEL": "c"}, home=tmp_path, private=tmp_path).models["claude"] == "a,b"
    )
    broken = settings_from({"RUNNER_SESSION_RETENTION_MS": "soon"}, home=tmp_path, private=tmp_path)
    assert broken.session_retention_ms == 1_800_000


class Meeting:
    """A way to start programs that sees who runs at the same time."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def __call__(self, spawn):
        async def run(launch, heard):
            if "--help" in launch.argv:
                return await spawn(launch, heard)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await spawn(launch, heard)
            finally:
                self.now -= 1

        return run


@pytest.mark.parametrize("cli", ["claude", "codex", "gemini"])
async def test_tasks_by_api_id_and_by_provider_id_take_their_turns_one_after_the_other(runner, cli: str) -> None:
    provider = (await runner.ask(cli, session="a chat")).metadata["sessionId"]
    meeting = Meeting()
    reports = await asyncio.gather(
        *(runner.ask(cli, session=session, wrap=meeting) for session in ("a chat", provider, "a chat", provider))
    )
    assert meeting.most == 1
    assert sorted(report.stdout.split(" of ")[0] for report in reports) == ["turn 2", "turn 3", "turn 4", "turn 5"]


async def test_conversations_that_are_different_run_at_once(runner) -> None:
    await runner.ask("claude", session="warm")
    meeting = Meeting()
    await asyncio.gather(*(runner.ask("claude", session=f"chat {number}", wrap=meeting) for number in range(3)))
    assert meeting.most > 1


async def test_a_turn_that_waits_for_its_conversation_ends_when_it_is_cancelled(runner) -> None:
    house = runner.start()
    stop = Stop()
    async with house.locks.turn("claude") as held:
        await held.hold(API)
        waiting = asyncio.ensure_future(runner.ask("claude", stop=stop))
        stop.cancel()
        assert (await waiting).error == "Cancelled"
    assert runner.calls == []
    assert (await runner.ask("claude")).exit_code == 0


async def test_a_turn_whose_conversation_is_never_free_runs_out_of_time(runner) -> None:
    house = runner.start()
    async with house.locks.turn("claude") as held:
        await held.hold(API)
        await runner.ask("claude", session="warm")
        begun = runner.clock.monotonic

        class Late:
            now_ms = runner.clock.now_ms
            asked = 0

            def monotonic(self):
                self.asked += 1
                return begun() + (0 if self.asked == 1 else 90)

        runner.clock = Late()
        report = await runner.ask("claude")
    assert (report.exit_code, report.error) == (-1, "Timeout")


async def test_a_lock_goes_to_those_who_wait_in_order_and_past_one_who_left() -> None:
    locks = ConversationLocks()
    await locks.take(("c", "s"))
    order: list[int] = []

    async def wait(number: int) -> None:
        await locks.take(("c", "s"))
        order.append(number)
        locks.give(("c", "s"))

    tasks = [asyncio.ensure_future(wait(number)) for number in range(3)]
    await asyncio.wait(tasks, timeout=0)
    tasks[0].cancel()
    locks.give(("c", "s"))
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [1, 2]
    assert locks.take_free(("c", "s"))


def test_help_lists_flags_and_not_what_descriptions_mention() -> None:
    known = read_help(
        "Options:\n  --allowedTools, --allowed-tools <tools...>  Which tools\n"
        "      --skip-it\n          Not --this-one\n  -c, --config <key=value>\n"
        "                                 --mentioned, --too\n"
    )
    assert known.flags == {"--allowedTools", "--allowed-tools", "--skip-it", "-c", "--config"}


async def test_a_program_is_asked_for_its_help_once_and_again_when_it_changes(tmp_path) -> None:
    program = tmp_path / "p"
    program.write_text("1")
    asked = 0

    async def spawn(launch, heard):
        nonlocal asked
        asked += 1
        return Ended(exit_code=0, stdout=f"  --flag-{asked}  it\n")

    probe = HelpProbe(1)

    async def of():
        return await probe.of((str(program),), cwd="/", env={}, spawn=spawn)

    assert all("--flag-1" in known for known in await asyncio.gather(of(), of(), of()))
    program.write_text("22")
    assert "--flag-2" in await of()
    assert asked == 2


async def test_help_that_was_cut_short_is_asked_for_again() -> None:
    answers = [Ended(exit_code=-1, timed_out=True), Ended(exit_code=0, stdout="  --flag  it\n")]

    async def spawn(launch, heard):
        return answers.pop(0)

    probe = HelpProbe(1)
    known = [await probe.of(("/p",), cwd="/", env={}, spawn=spawn) for _ in range(3)]
    assert [each.known for each in known] == [False, True, True]


@pytest.mark.parametrize(
    ("asked", "configured", "tried"),
    [
        (None, "", [None]),
        ("", "a, b", ["a", "b"]),
        ("c", "a,b", ["c"]),
        ("default", "a", [None]),
        ("a,AUTO,a,none", "", ["a", None]),
        ("--evil,ok", "", ["ok"]),
    ],
)
def test_candidates_come_from_the_task_or_the_operator(asked, configured, tried) -> None:
    assert candidates(asked, configured) == tried


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("The model is not supported", True),
        ("model_x: invalid_parameter", True),
        ("Unknown Model", True),
        ("not supported", False),
        ("the model is busy", False),
    ],
)
def test_a_refused_model_is_known_by_its_words(said: str, wanted: bool) -> None:
    assert refused("", said) is wanted


def test_lines_are_put_together_from_any_pieces_and_text_between_them_is_kept() -> None:
    objects, texts = [], []
    lines = JsonLines(objects.append, texts.append)
    for piece in ('{"a"', ': "é"}\nplain', " text\n", '{broken\n{"b": 2}'):
        lines.feed(piece)
    lines.end()
    assert objects == [{"a": "é"}, {"b": 2}]
    assert texts == ["plain text\n", "{broken\n"]


def test_a_line_beyond_every_measure_is_dropped_and_the_next_one_is_read() -> None:
    objects: list[object] = []
    lines = JsonLines(objects.append, objects.append)
    lines.feed('{"a": "')
    for _ in range(LONGEST_LINE // (1 << 20) + 1):
        lines.feed("x" * (1 << 20))
    lines.feed('"}\n{"b": 1}\n')
    assert objects == [{"b": 1}]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("I am Gemini CLI, an interactive CLI agent. Done.", "I am your AI assistant. Done."),
        ("I'm a command-line assistant here to help!\nDone.", "I am your AI assistant. Done."),
        ("我是 Gemini CLI,一个命令行助手。好的。", "我是你的 AI 助手。好的。"),
        ("The CLI agent is fine. I am a tool.", "The CLI agent is fine. I am a tool."),
        ("I am sure.", "I am sure."),
    ],
)
def test_only_a_leading_self_description_is_replaced(said: str, left: str) -> None:
    assert without_introduction(said) == left


def hook(address: str, question: bytes, seconds: str = "20") -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-I", "-S", "-B", approval_hook.__file__, address, seconds]
    return subprocess.run(words, input=question, capture_output=True, check=False, timeout=60)


def test_a_hook_without_a_runner_blocks(tmp_path) -> None:
    done = hook(str(tmp_path / "nobody"), b"{}")
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("said", [b"", b"no json\n", b"[]\n", b'{"allowed": "yes"}\n', b'{"allowed": 1}\n'])
async def test_a_hook_blocks_on_anything_but_a_clear_yes(tmp_path, said: bytes) -> None:
    async def serve(reader, writer) -> None:
        await reader.readline()
        writer.write(said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, str(tmp_path / "s")):
        done = await asyncio.to_thread(hook, str(tmp_path / "s"), b"{}")
    assert (done.returncode, done.stdout) == (2, b"")


async def test_a_runner_that_never_answers_blocks_within_the_hooks_time(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "s"))
        deaf.listen()
        done = await asyncio.to_thread(hook, str(tmp_path / "s"), b"{}", "0.2")
    assert done.returncode == 2


@pytest.mark.parametrize("question", [b"", b"[1]", b'{"tool_name": 5}', b"\xff\xfe", b"[" * 100_000])
async def test_a_question_that_cannot_be_read_is_a_no(tmp_path, question: bytes) -> None:
    async def ask(asked) -> ToolAnswer:
        return ToolAnswer(allowed=True)

    async with approving(tmp_path / "p", ask, seconds=20) as settings:
        command = json.loads(settings.read_text())["hooks"]["PreToolUse"][0]["hooks"][0]["command"]
        done = await asyncio.to_thread(hook, command.split()[-2], question)
    assert done.returncode == 2


async def test_a_question_over_several_lines_arrives_whole(tmp_path) -> None:
    asked = []

    async def ask(question) -> ToolAnswer:
        asked.append(question)
        return ToolAnswer(allowed=True)

    question = json.dumps({"tool_name": "Write", "tool_input": {"text": "a\nb"}, "cwd": "/x"}, indent=2)
    async with approving(tmp_path / "p", ask, seconds=20) as settings:
        assert settings.stat().st_mode & 0o777 == 0o600
        assert settings.parent.stat().st_mode & 0o777 == 0o700
        said = json.loads(settings.read_text())
        hook_entry = said["hooks"]["PreToolUse"][0]["hooks"][0]
        done = await asyncio.to_thread(hook, hook_entry["command"].split()[-2], question.encode())
    assert (done.returncode, asked[0].tool, asked[0].cwd) == (0, "Write", "/x")
    assert json.loads(asked[0].detail) == {"text": "a\nb"}
    assert said["disableAllHooks"] is False
    assert hook_entry["timeout"] > 20
