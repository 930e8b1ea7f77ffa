"""A runner that polls survives what its server says, does each task once, and reports each end until it is heard."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from played_task_api import TOKEN, PlayedTaskApi, codex_task, command_task, played_task_api
from receiver import Receiver, Say, in_turn, receiver

from clawplane.callbacks.ways import Ways, open_courier
from clawplane.domain.clock import SystemClock
from clawplane.domain.host_tasks import HostSpec, TaskReport
from clawplane.domain.ids import RunnerId
from clawplane.runner.host.callback_outbox import CallbackOutbox, TokenSeal
from clawplane.runner.host.doing import Voices
from clawplane.runner.host.execute import execute
from clawplane.runner.host.house import HostHouse
from clawplane.runner.host.poll_settings import PollSettings
from clawplane.runner.host.polling import Desk, Execute, Polling
from clawplane.runner.host.reporting import Reporter
from clawplane.runner.host.settings import HostSettings
from clawplane.runner.host.spool import Spool
from clawplane.runner.host.stopping import Stop
from clawplane.runner.host.task_api import TaskApi


class Pauses:
    """Pauses that are over at once, and remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.until: asyncio.Event | None = None
        """Set, pauses last until then."""

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if self.until is not None:
            await self.until.wait()
        await asyncio.sleep(0)


class Bench:
    """A polling runner's parts, on real files and sockets; its pauses take no time."""

    def __init__(self, url: str, chat: str, tmp_path: Path, house: HostHouse) -> None:
        self.url, self.chat, self.tmp_path, self.house = url, chat, tmp_path, house
        self.pauses, self.report_pauses, self.chat_pauses = Pauses(), Pauses(), Pauses()
        self.polling: Polling | None = None
        self.letters = tmp_path / "letters"

    async def _do(self, spec: HostSpec, stop: Stop, voices: Voices) -> TaskReport:
        return await execute(spec, self.house, stop=stop, voices=voices)

    @asynccontextmanager
    async def running(
        self, *, slots: int = 5, direct: bool = True, token: str = "bot-of-the-environment", do: Execute | None = None
    ) -> AsyncIterator[Polling]:
        """Run until the block ends, then leave."""
        settings = PollSettings(
            url=self.url,
            token=TOKEN,
            data=self.tmp_path,
            name="bench",
            labels={"os": "linux"},
            direct=direct,
            host=HostSettings(slots=slots),
        )
        clock = SystemClock()
        letters = Spool(self.letters)
        async with TaskApi(self.url, TOKEN) as api:
            reporter = Reporter(
                api, self.house.spool, pause=self.report_pauses, jitter=lambda s: s, monotonic=clock.monotonic
            )
            courier = open_courier(Ways(chat_api=self.chat, bot_token=token))
            outbox = CallbackOutbox(
                letters, courier, api, TokenSeal(TOKEN), clock, pause=self.chat_pauses, jitter=lambda s: s
            )
            desk = Desk(
                api=api,
                reporter=reporter,
                outbox=outbox,
                execute=do or self._do,
                groups=("command", "files", "codex"),
                clock=clock,
                jitter=lambda s: s,
                pause=self.pauses,
            )
            await reporter.start()
            await outbox.start()
            polling = Polling(settings, RunnerId("bench-1"), desk)
            running = asyncio.create_task(polling.run())
            try:
                yield polling
            finally:
                polling.leave()
                await asyncio.wait_for(running, 10)
                await outbox.close()
                await reporter.close()
                letters.close()


@pytest.fixture
async def api() -> AsyncIterator[PlayedTaskApi]:
    async with played_task_api() as played:
        yield played


@pytest.fixture
async def chat() -> AsyncIterator[Receiver]:
    async with receiver(in_turn(Say())) as played:
        yield played


@pytest.fixture
def bench(api: PlayedTaskApi, chat: Receiver, tmp_path: Path, house: HostHouse) -> Bench:
    return Bench(api.url, chat.url, tmp_path, house)


def answering(text: str, *, code: int = 0, stderr: str = "") -> Execute:
    """Stand in for an agent that answers."""

    async def do(spec: HostSpec, stop: Stop, voices: Voices) -> TaskReport:
        return TaskReport(stdout=text, stderr=stderr, exit_code=code, error=None if code == 0 else f"Exit code {code}")

    return do


async def test_no_answer_to_a_poll_ends_the_runner_or_costs_a_slot_and_it_asks_less_often(
    api: PlayedTaskApi, bench: Bench
) -> None:
    html = b"<!DOCTYPE html><html><body>Internal Server Error</body></html>"
    bad = [
        Say(500, html),
        Say(502, b""),
        Say(429, b'{"error":"Too many requests"}'),
        Say(200, html),
        Say(200, b'{"id":"t-0","type":"comm'),
        Say(200, b'{"error":"nope"}'),
        Say(200, b"[]"),
        Say(hang_up=True),
        Say(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    ]
    await api.give(*bad, command_task("t-1", "echo one"), *bad[:2], command_task("t-2", "echo two"))
    async with bench.running(slots=1):
        reports = await api.reports(2)
    assert [(each["taskId"], each["stdout"]) for each in reports] == [("t-1", "one\n"), ("t-2", "two\n")]
    waits = [each for each in bench.pauses.seconds if each >= 5]
    assert waits == [5, 10, 15, 20, 25, 30, 35, 40, 45, 5, 10]
    assert api.most_open_polls == 1


async def test_a_token_that_is_refused_is_tried_again_every_ten_seconds(api: PlayedTaskApi, bench: Bench) -> None:
    await api.give(*[Say(401, b'{"error":"Unauthorized"}')] * 3, command_task("t-1", "echo one"))
    async with bench.running():
        await api.reports(1)
    assert bench.pauses.seconds == [10.0, 10.0, 10.0]


async def test_a_null_is_followed_by_the_next_poll_at_once(api: PlayedTaskApi, bench: Bench) -> None:
    await api.give(*[Say(200, b"null")] * 5, command_task("t-1", "echo one"))
    async with bench.running():
        await api.reports(1)
    assert bench.pauses.seconds == []


async def test_the_runner_says_who_it_is_and_what_it_can_do(api: PlayedTaskApi, bench: Bench) -> None:
    await api.give(Say(200, b"null"))
    async with bench.running():
        await api.server.until(1, lambda heard: heard.target.startswith("/worker/poll"))
    assert api.queries[0] == {
        "wait": "30000",
        "runnerId": "bench-1",
        "name": "bench",
        "capabilities": "command,files,codex",
        "labels": "os=linux",
        "heartbeats": "1",
    }


async def test_with_all_slots_taken_it_waits_for_the_interval_or_a_free_slot_and_does_not_poll(
    api: PlayedTaskApi, bench: Bench, tmp_path: Path
) -> None:
    second, third = tmp_path / "second", tmp_path / "third"
    os.mkfifo(second)
    os.mkfifo(third)
    await api.give(
        *[command_task(f"t-{number}", each) for number, each in enumerate(("true", f"cat {second}", f"cat {third}"))]
    )
    bench.pauses.until = asyncio.Event()  # the interval never ends: what goes on does so for a free slot
    async with bench.running(slots=1):
        await api.server.until(2, lambda heard: heard.target.startswith("/worker/poll"))
        await asyncio.wait_for(asyncio.to_thread(second.write_text, "second"), 20)
        await asyncio.wait_for(asyncio.to_thread(third.write_text, "third"), 20)
        reports = await api.reports(3)
    assert [each["stdout"] for each in reports] == ["", "second", "third"]
    assert set(bench.pauses.seconds) == {0.5}
    assert api.most_open_polls == 1


async def test_a_report_that_gets_503_three_times_arrives_once(api: PlayedTaskApi, bench: Bench) -> None:
    api.results.extend([Say(503), Say(503, b"<html>"), Say(503)])
    await api.give(command_task("t-1", "echo kept"))
    async with bench.running() as polling:
        reports = await api.reports(4)
    assert polling
    assert [each["stdout"] for each in reports] == ["kept\n"] * 4
    assert reports[0] == reports[3]
    assert bench.report_pauses.seconds == [0.5, 1.0, 2.0]
    assert bench.house.spool.load() == {}


async def test_reports_wait_on_disk_while_the_server_is_down_and_arrive_once(
    api: PlayedTaskApi, bench: Bench, tmp_path: Path
) -> None:
    down, waits, back = tmp_path / "down", asyncio.Event(), asyncio.Event()

    class UntilBack(Pauses):
        async def __call__(self, seconds: float) -> None:
            waits.set()
            await back.wait()

    await api.give(command_task("t-1", f"until [ -e {down} ]; do sleep 0.05; done; echo done"))
    bench.report_pauses = UntilBack()
    bench.pauses.until = back
    async with bench.running() as polling:
        await api.server.until(1, lambda heard: heard.target.startswith("/worker/poll"))
        await api.server.close()
        down.touch()
        await asyncio.wait_for(waits.wait(), 20)
        assert len(bench.house.spool.load()) == 1
        await api.server.open()
        back.set()
        reports = await api.reports(1)
        assert await polling._desk.reporter.settle(10)
    assert [each["stdout"] for each in reports] == ["done\n"]
    assert len(await api.reports(1)) == 1
    assert bench.house.spool.load() == {}


@pytest.mark.parametrize("megabytes", [6, 50])
async def test_an_output_beyond_the_servers_limit_arrives_marked_as_cut(
    api: PlayedTaskApi, bench: Bench, megabytes: int
) -> None:
    await api.give(command_task("t-1", f"head -c {megabytes}000000 /dev/zero | tr '\\0' x; echo END"))
    async with bench.running():
        (report,) = await api.reports(1)
    (heard,) = [each for each in api.server.heard if each.target == "/worker/result"]
    assert len(heard.body) <= 5 << 20
    assert "bytes left out of" in report["stdout"]
    assert report["stdout"].endswith("END\n")
    assert report["exitCode"] == 0


async def test_a_report_that_is_still_too_large_is_cut_to_half(api: PlayedTaskApi, bench: Bench) -> None:
    api.results.extend([Say(413, b'{"error":"too large"}')])
    await api.give(command_task("t-1", "head -c 300000 /dev/zero | tr '\\0' x"))
    async with bench.running():
        first, second = await api.reports(2)
    assert len(first["stdout"]) == 300_000
    assert len(second["stdout"]) < 151_000
    assert "bytes left out of" in second["stdout"]


async def test_what_an_earlier_life_could_not_report_is_reported_at_the_start(api: PlayedTaskApi, bench: Bench) -> None:
    bench.house.spool.put("task-old", json.dumps({"taskId": "t-old", "stdout": "kept", "exitCode": 0}).encode())
    async with bench.running():
        reports = await api.reports(1)
    assert reports == [{"taskId": "t-old", "stdout": "kept", "exitCode": 0}]


async def test_a_type_that_the_runner_does_not_know_is_reported_as_a_failure(api: PlayedTaskApi, bench: Bench) -> None:
    await api.give(command_task("t-1", "x", type="browser"), {**command_task("t-2", "x"), "command": None})
    async with bench.running():
        reports = {each["taskId"]: each for each in await api.reports(2)}
    assert reports["t-1"]["error"] == "This runner does not know tasks of type 'browser'."
    assert reports["t-2"]["exitCode"] == 1


async def test_a_task_that_is_given_again_while_it_runs_is_done_once(
    api: PlayedTaskApi, bench: Bench, tmp_path: Path
) -> None:
    go, ran = tmp_path / "go", tmp_path / "ran"
    command = f"echo x >> {ran}; until [ -e {go} ]; do sleep 0.05; done"
    await api.give(command_task("t-1", command, claim=1), command_task("t-1", command, claim=2), Say(200, b"null"))
    async with bench.running():
        await api.server.until(3, lambda heard: heard.target.startswith("/worker/poll"))
        go.touch()
        reports = await api.reports(1)
    assert ran.read_text() == "x\n"
    assert [each["claim"] for each in reports] == [2]


async def test_leaving_ends_what_runs_reports_it_and_aborts_the_open_poll(
    api: PlayedTaskApi, bench: Bench, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    await api.give(command_task("t-1", f"echo begun; echo > {begun}; sleep 1000"), Say(200, b"null"))
    async with bench.running():
        await asyncio.wait_for(asyncio.to_thread(begun.read_text), 20)
    (report,) = await api.reports(1)
    assert (report["exitCode"], report["stdout"]) == (143, "begun\n")
    assert report["metadata"]["signal"] == "SIGTERM"


async def test_an_answer_goes_to_its_channel_behind_its_report_and_both_events_are_told(
    api: PlayedTaskApi, chat: Receiver, bench: Bench
) -> None:
    await api.give(codex_task("t-1", callbackBotToken="bot-of-the-task"))
    async with bench.running(do=answering("The answer.")):
        sent = await api.told("callback.sent")
    assert chat.heard[0].json == {"content": "The answer."}
    assert chat.heard[0].headers["authorization"] == "Bot bot-of-the-task"
    assert api.events == [("callback.dispatched", "t-1"), ("callback.sent", "t-1")]
    assert sent[0]["details"] == {"channel": "77", "attempts": 1, "status": 200}
    assert sent[0]["metadata"]["taskStatus"] == "completed"
    order = [each.target for each in api.server.heard if each.target in ("/worker/result", "/worker/event")]
    assert order == ["/worker/result", "/worker/event", "/worker/event"]


async def test_a_failure_shows_the_end_of_its_errors_in_the_chat(
    api: PlayedTaskApi, chat: Receiver, bench: Bench
) -> None:
    await api.give(codex_task("t-1"))
    async with bench.running(do=answering("", code=17, stderr="stack\nthe reason")):
        await api.told("callback.sent")
    content = chat.heard[0].json["content"]
    assert content.startswith("**❌ Codex failed** (0 s, session 11111111)")
    assert "the reason" in content


@pytest.mark.parametrize(
    ("more", "direct"),
    [
        ({"callbacks": "server"}, True),
        ({}, False),
        ({"callbackChannel": None}, True),
        ({"responseMode": "none"}, True),
    ],
)
async def test_the_runner_sends_nothing_where_the_server_does_or_nobody_shall(
    api: PlayedTaskApi, chat: Receiver, bench: Bench, more: dict[str, Any], direct: bool
) -> None:
    await api.give(codex_task("t-1", **more))
    async with bench.running(do=answering("The answer."), direct=direct):
        await api.reports(1)
    assert chat.heard == []
    assert api.events == []
    assert (api.queries[0].get("callbacks") == "server") is not direct


async def test_a_chat_that_is_down_gets_five_tries_and_then_one_failed_event(
    api: PlayedTaskApi, chat: Receiver, bench: Bench
) -> None:
    chat.player = in_turn(Say(500))
    await api.give(codex_task("t-1"))
    async with bench.running(do=answering("The answer.")):
        failed = await api.told("callback.failed")
    assert len(chat.heard) == 5
    assert [round(each) for each in bench.chat_pauses.seconds if each > 0.5] == [3, 6, 9, 12]
    assert failed[0]["details"]["attempts"] == 5
    assert api.events == [("callback.dispatched", "t-1"), ("callback.failed", "t-1")]


async def test_without_a_token_nothing_is_sent_and_it_has_failed(
    api: PlayedTaskApi, chat: Receiver, bench: Bench
) -> None:
    await api.give(codex_task("t-1"))
    async with bench.running(do=answering("The answer."), token=""):
        failed = await api.told("callback.failed")
    assert chat.heard == []
    assert failed[0]["details"]["error"] == "CALLBACK_BOT_TOKEN not set"


async def test_no_bot_token_lies_on_the_runners_disk(
    api: PlayedTaskApi, chat: Receiver, bench: Bench, tmp_path: Path
) -> None:
    on_disk: list[bytes] = []

    def play(heard: Any) -> Say:
        on_disk.extend(file.read_bytes() for file in bench.letters.iterdir())
        return Say()

    chat.player = play
    await api.give(codex_task("t-1", callbackBotToken="bot-of-the-task"))
    async with bench.running(do=answering("The answer.")) as polling:
        await api.told("callback.sent")
        assert await polling._desk.outbox.settle(10)
    assert on_disk
    assert all(b"bot-of-the-task" not in each for each in on_disk)
    assert list(bench.letters.iterdir()) == []


async def test_a_server_without_heartbeats_hears_one_and_no_more(api: PlayedTaskApi, bench: Bench) -> None:
    await api.give(command_task("t-1", "true"))
    async with bench.running():
        await api.reports(1)
        await api.server.until(1, lambda heard: heard.target == "/worker/heartbeat")
    assert [each.json["tasks"] for each in api.server.heard if each.target == "/worker/heartbeat"] == [[]]


@pytest.mark.parametrize(
    ("said", "reported"),
    [({"lost": ["t-1"]}, False), ({"lost": [], "cancel": [{"taskId": "t-1", "reason": "by you"}]}, True)],
)
async def test_a_heartbeat_ends_what_is_lost_without_a_word_and_what_is_cancelled_with_one(
    api: PlayedTaskApi, bench: Bench, said: dict[str, Any], reported: bool
) -> None:
    api.heartbeats.extend([Say(404), Say(200, json.dumps(said).encode())])
    await api.give(Say(200, b"null"), command_task("t-1", "sleep 1000", claim=7), command_task("t-2", "echo next"))
    async with bench.running(slots=1):  # the second task is begun when the first has ended
        reports = await api.reports(2 if reported else 1)
    beats = [each.json["tasks"] for each in api.server.heard if each.target == "/worker/heartbeat"]
    assert {"taskId": "t-1", "claim": 7} in beats[-1]
    assert [each["taskId"] for each in reports] == (["t-1", "t-2"] if reported else ["t-2"])
    if reported:
        assert (reports[0]["exitCode"], reports[0]["error"]) == (-1, "Cancelled")


async def test_a_report_that_is_refused_is_kept_and_does_not_hold_up_the_others(
    api: PlayedTaskApi, bench: Bench
) -> None:
    bench.house.spool.put("task-old", b"no JSON at all")
    api.results.append(Say(413))
    await api.give(command_task("t-1", "echo on"))
    async with bench.running():
        heard = await api.server.until(2, lambda each: each.target == "/worker/result")
    assert [each.body[:2] for each in heard] == [b"no", b'{"']
    assert bench.house.spool.load() == {"task-old": b"no JSON at all"}


async def test_stock_is_taken_before_the_first_poll_and_after_one_that_failed(api: PlayedTaskApi, bench: Bench) -> None:
    api.heartbeats.append(Say(200, json.dumps({"lost": [], "inventory": {"taken": True, "number": 1}}).encode()))
    waits = command_task("t-1", "read line", claim=7)
    await api.give(Say(200, b"null"), waits, Say(502), Say(200, b"null"), command_task("t-2", "true", claim=8))
    async with bench.running(do=blocked_but("t-2")):
        await api.reports(1)
    asked = [each for each in api.server.heard if each.target == "/worker/heartbeat" or "/poll" in each.target]
    names = ["poll" if "/poll" in each.target else "stock" for each in asked]
    assert names[:7] == ["stock", "poll", "poll", "poll", "stock", "poll", "poll"]
    told = [each.json for each in asked if each.target == "/worker/heartbeat"]
    assert [(each["inventory"], each["tasks"]) for each in told[:2]] == [(1, []), (1, [{"taskId": "t-1", "claim": 7}])]


def blocked_but(quick: str) -> Execute:
    """Stand in for tasks that run until they are told to end, but one."""

    async def do(spec: HostSpec, stop: Stop, voices: Voices) -> TaskReport:
        if spec.task != quick:
            await stop.wait()
        return TaskReport(exit_code=0)

    return do


async def test_nothing_is_polled_while_stock_cannot_be_taken(api: PlayedTaskApi, bench: Bench) -> None:
    api.heartbeats.extend([Say(503), Say(500), Say(200, b'{"inventory":{"taken":true,"number":1}}')])
    await api.give(command_task("t-1", "true", claim=7))
    async with bench.running():
        await api.reports(1)
    asked = [each.target for each in api.server.heard if each.target != "/worker/result"]
    assert asked[:3] == ["/worker/heartbeat"] * 3
    assert asked[3].startswith("/worker/poll")
    assert bench.pauses.seconds[:2] == [5.0, 10.0]
