"""`clawplane worker` as a real process: killed at the worst moment, it finishes what it owed when it starts again."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from played_task_api import TOKEN, PlayedTaskApi, codex_task, command_task, played_task_api
from receiver import Heard, Receiver, Say, in_turn, receiver

ANSWER = "".join(f"{number:05} words of the answer\n" for number in range(385))  # 10 010 characters

CODEX = f"""#!{sys.executable} -IS
import json, sys
if "--help" in sys.argv:
    print("  -m, --model\\n      --json\\n  -s, --sandbox\\n      --skip-git-repo-check")
    sys.exit(0)
sys.stdin.read()
print(json.dumps({{"type": "thread.started", "thread_id": "0199a213-81c0-7800-8aa1-bbab2a035a53"}}))
text = "".join(f"{{number:05}} words of the answer\\n" for number in range(385))
print(json.dumps({{"type": "item.completed", "item": {{"id": "i1", "type": "agent_message", "text": text}}}}))
print(json.dumps({{"type": "turn.completed", "usage": {{}}}}))
"""


@pytest.fixture
async def api() -> AsyncIterator[PlayedTaskApi]:
    async with played_task_api() as played:
        yield played


@pytest.fixture
async def chat() -> AsyncIterator[Receiver]:
    async with receiver(in_turn(Say())) as played:
        yield played


class Machine:
    """A host on which workers are started; each start is a process of its own."""

    def __init__(self, directory: Path, api: PlayedTaskApi, chat: Receiver) -> None:
        self.data = directory / "data"
        home, programs = directory / "home", directory / "bin"
        home.mkdir()
        programs.mkdir()
        codex = programs / "codex"
        codex.write_text(CODEX)
        codex.chmod(0o755)
        self.environ = {
            "HOME": str(home),
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "WORKER_URL": api.url,
            "WORKER_TOKEN": TOKEN,
            "WORKER_SHELL": "/bin/sh",
            "CALLBACK_API_BASE_URL": f"{chat.url}/api/v10",
            "DISCORD_BOT_TOKEN": "bot-of-the-environment",
            "RUNNER_SESSION_CACHE_FILE": str(directory / "cache.json"),
            "CC_LOG_PATH": str(directory / "live.log"),
        }

    @asynccontextmanager
    async def worker(self, name: str = "worker", **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start one; killed when the block ends, if it still runs."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "clawplane", name, "--data", str(self.data)),
            env=self.environ | environ,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        reading = asyncio.create_task(process.stderr.read())
        process.said = reading  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading


@pytest.fixture
def machine(tmp_path: Path, api: PlayedTaskApi, chat: Receiver) -> Machine:
    return Machine(tmp_path, api, chat)


async def test_a_worker_killed_between_two_chunks_sends_the_rest_when_it_starts_again(
    machine: Machine, api: PlayedTaskApi, chat: Receiver
) -> None:
    third, killed = asyncio.Event(), asyncio.Event()

    async def play(heard: Heard) -> Say:
        if heard.json["content"].startswith(chunk_of(2)) and not killed.is_set():
            third.set()
            await killed.wait()
        return Say()

    chat.player = play
    await api.give(codex_task("t-1"))
    async with machine.worker() as process:
        await asyncio.wait_for(third.wait(), 60)
        process.kill()
        await process.wait()
    killed.set()
    async with machine.worker("reconciler"):
        await api.told("callback.sent")
    sent = [heard.json["content"] for heard in chat.heard]
    once = list(dict.fromkeys(sent))  # the chunk whose answer was never seen may come twice
    assert "".join(once).strip() == ANSWER.strip()
    assert len(sent) <= len(once) + 1
    assert {heard.target for heard in chat.heard} == {"/api/v10/channels/77/messages"}
    assert {heard.headers["authorization"] for heard in chat.heard} == {"Bot bot-of-the-environment"}
    assert [type_ for type_, _ in api.events] == ["callback.dispatched", "callback.sent"]
    assert len(await api.reports(1)) == 1


def chunk_of(number: int) -> str:
    """Return how a chunk of the answer begins."""
    lines = 2000 // len(ANSWER.partition("\n")[0] + "\n")
    return f"{number * lines:05} words"


async def test_a_worker_killed_before_its_report_was_heard_reports_when_it_starts_again(
    machine: Machine, api: PlayedTaskApi
) -> None:
    await api.give(command_task("t-1", "echo kept"))
    api.results.append(Say(hang_up=True))
    async with machine.worker() as process:
        await api.reports(1)
        process.kill()
        await process.wait()
    async with machine.worker():
        reports = await api.reports(2)
    assert [each["stdout"] for each in reports] == ["kept\n", "kept\n"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_worker_and_what_it_runs_within_five_seconds_with_exit_code_0(
    machine: Machine, api: PlayedTaskApi, tmp_path: Path, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    await api.give(command_task("t-1", f"trap '' TERM; echo $$ > {begun}; while :; do sleep 1000; done"))
    async with machine.worker() as process:
        pid = int(await asyncio.wait_for(asyncio.to_thread(begun.read_text), 60))
        loop = asyncio.get_running_loop()
        at = loop.time()
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        took = loop.time() - at
    (report,) = await api.reports(1)
    assert (report["exitCode"], report["metadata"]["signal"]) == (137, "SIGKILL")
    assert not Path(f"/proc/{pid}").exists()
    assert 2.5 < took < 8  # three seconds of grace; the rest is what a busy machine takes


async def test_children_see_no_secret_of_the_worker_and_its_files_are_private(
    machine: Machine, api: PlayedTaskApi
) -> None:
    await api.give(command_task("t-1", "env; umask"))
    async with machine.worker(CLAUDECODE="1", OPENCLAW_HOOKS_TOKEN="hooks-token-hooks") as process:
        (report,) = await api.reports(1)
        process.send_signal(signal.SIGTERM)
        await process.wait()
    for secret in (TOKEN, "bot-of-the-environment", "hooks-token-hooks", "CLAUDECODE"):
        assert secret not in report["stdout"]
    assert report["stdout"].rstrip().endswith("0077")
    found = [path for path in machine.data.rglob("*") if path.exists()]
    assert found
    assert not [path for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]


@pytest.mark.parametrize("token", ["", "too-short", " " * 16, "your-secret-token-here"])
@pytest.mark.parametrize("name", ["worker", "reconciler", "task-api", "server"])
async def test_a_token_that_protects_nothing_ends_every_one_of_them_with_two_lines_and_exit_code_1(
    machine: Machine, name: str, token: str
) -> None:
    async with machine.worker(name, WORKER_TOKEN=token) as process:
        assert await asyncio.wait_for(process.wait(), 60) == 1
        lines = (await process.said).decode().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert "WORKER_TOKEN" in lines[0]
    assert token.strip() == "" or token not in lines[0]


async def test_a_second_worker_in_the_same_directory_is_refused(machine: Machine, api: PlayedTaskApi) -> None:
    await api.give(Say(200, b"null"))
    async with machine.worker():
        await api.server.until(1)
        async with machine.worker() as second:
            assert await asyncio.wait_for(second.wait(), 60) == 1
            assert b"Another runner works in" in await second.said  # type: ignore[attr-defined]
