"""What a runner says of a host task while it runs is acted on where it concerns others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawplane.domain.batches import INFO, LogLine
from clawplane.domain.clock import ManualClock
from clawplane.domain.host_tasks import GROUPS, NewTask, Prompt, Reach, TaskId, TaskReport, TaskType
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, Want
from clawplane.flows.host_words import Listener
from clawplane.flows.questions import AnswerRules, Questions
from clawplane.store import open_store
from clawplane.store.sealing import KeyFileSealing

T0 = 1_780_000_000_000
LINKED = RunnerId("linked")


@pytest.fixture
async def here(tmp_path: Path):
    store = await open_store(tmp_path)
    yield store
    await store.close()


async def prompted(store: Any, session: str, **more: Any) -> None:
    work = Prompt(cli="codex", prompt="hi", timeout=30_000, session_id=session)
    task = NewTask(
        id=TaskId("task-1"),
        job=JobId(1),
        owner="me",
        type=TaskType.CODEX,
        work=work,
        created_at=T0,
        timeout_ms=60_000,
        session_id=session,
        **more,
    )
    await store.host_tasks.submit(task, now=T0)


def listener(store: Any) -> Listener:
    clock = ManualClock(T0)
    return Listener(
        tasks=store.host_tasks,
        conversations=store.agent_sessions,
        outbox=store.outbox,
        questions=Questions(KeyFileSealing(b"k" * 32), clock, AnswerRules(public_url="https://plane.test")),
        wakeups=store.wakeups,
        clock=clock,
    )


def words(*said: Any, source: Any = "sdk") -> list[LogLine]:
    return [LogLine(INFO, word if isinstance(word, str) else json.dumps(word), T0, source) for word in said]


async def test_the_clis_own_id_is_known_before_the_task_ends(here) -> None:
    await prompted(here, "chat")
    heard = listener(here)
    heard.said("task-1", words({"kind": "started", "session": "provider-7"}))
    await heard.close()
    assert await here.agent_sessions.key_of("codex", "provider-7") == ("chat", "provider-7")


async def test_a_tool_use_that_waits_for_a_person_is_recorded_as_a_runners_word(here) -> None:
    await prompted(here, "chat")
    heard = listener(here)
    use = {"kind": "approval", "id": "a1", "tool": "Bash", "detail": "{}", "cwd": "/", "asked_at": 1}
    heard.said("task-1", words(use))
    await heard.close()
    (event,) = await here.task_events.page(task="task-1", type_="task.approval-needed", limit=5, since=None)
    assert (event.source, event.details["tool"], event.details["id"]) == ("runner", "Bash", "a1")
    assert await here.outbox.due(now=1 << 60, limit=1) == []  # nobody is named who could be asked


async def test_the_question_of_a_tool_use_goes_to_the_channel_and_the_address_of_its_task(here) -> None:
    await prompted(here, "chat", callback_channel="77", callback_token=b"sealed", callback_url="https://hook.test/x")
    heard = listener(here)
    use = {"kind": "approval", "id": "a1", "tool": "Bash", "detail": '{"command": "ls"}', "cwd": "/", "asked_at": 1}
    heard.said("task-1", words(use, {**use, "id": "no id\n"}))
    await heard.close()
    chat, hook = sorted(await here.outbox.due(now=T0, limit=9), key=lambda each: each.kind)
    assert (chat.kind, chat.destination, chat.token) == ("chat-question", "77", b"sealed")
    assert (hook.kind, hook.destination, hook.token) == ("webhook-question", "https://hook.test/x", None)
    told = json.loads(hook.body)
    assert (told["type"], told["question"]["toolUse"]) == ("task.approval-needed", "a1")
    assert told["answerUrl"].startswith("https://plane.test/v1/host/approvals/")
    assert told["answerUrl"] in chat.body.decode()


@pytest.mark.parametrize(
    "line", ["not json", "[]", '{"kind": "text"}', '{"kind": ["started"]}', '{"kind": "started", "session": 7}', "{}"]
)
async def test_whatever_else_a_guest_prints_there_is_just_a_line(here, line: str) -> None:
    await prompted(here, "chat")
    heard = listener(here)
    heard.said("task-1", words(line))
    heard.said("task-1", words({"kind": "started", "session": "forged"}, source="stdout"))
    await heard.close()
    assert await here.agent_sessions.key_of("codex", "forged") == ("forged", None)
    assert [event.type for event in await here.task_events.page(task="task-1", type_="", limit=9, since=None)] == [
        "task.created"
    ]


async def lost_lease(here) -> Claim:
    """Let a linked runner have the task and lose it again."""
    want = Want(runner=LINKED, caps="host", count=1, reach=Reach(groups=GROUPS, runner=LINKED))
    (offer,) = await here.queue.offer([want], now=T0, offer_ms=1000)
    had = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
    assert await here.queue.confirm(had, LINKED, now=T0)
    await here.host_tasks.lose([(had.job, had.fence)], now=T0 + 1)
    return had


async def test_an_end_whose_lease_is_gone_counts_if_it_is_the_first(here) -> None:
    await prompted(here, "chat")
    had = await lost_lease(here)
    done = msgspec.msgpack.encode(TaskReport(stdout="done", exit_code=0))
    assert await here.host_tasks.late(had, LINKED, b"rubbish", now=T0 + 4) is None
    late = await here.host_tasks.late(had, LINKED, done, now=T0 + 5)
    assert (late.outcome, (await here.host_tasks.find(late.task)).status) == ("accepted", "completed")
    other = msgspec.msgpack.encode(TaskReport(stdout="other", exit_code=1))
    assert (await here.host_tasks.late(had, LINKED, other, now=T0 + 6)).outcome == "conflict"


@pytest.mark.parametrize(
    ("wrong", "runner"),
    [({}, "stranger"), ({"nonce": 1}, LINKED), ({"fence": 99}, LINKED), ({"job": 2}, LINKED)],
    ids=["runner", "nonce", "fence", "job"],
)
async def test_an_end_of_a_lease_that_its_runner_never_had_counts_for_nothing(
    here, wrong: dict[str, int], runner: str
) -> None:
    await prompted(here, "chat")
    had = await lost_lease(here)
    done = msgspec.msgpack.encode(TaskReport(stdout="forged", exit_code=0))
    claimed = msgspec.structs.replace(had, **wrong)
    assert await here.host_tasks.late(claimed, RunnerId(runner), done, now=T0 + 5) is None
    assert (await here.host_tasks.find(TaskId("task-1"))).status == "pending"
    assert [event.type for event in await here.task_events.page(task="task-1", type_="", limit=1, since=None)] == [
        "task.requeued"
    ]


async def test_an_end_of_an_offer_that_was_never_taken_counts_for_nothing(here) -> None:
    await prompted(here, "chat")
    want = Want(runner=LINKED, caps="host", count=1, reach=Reach(groups=GROUPS, runner=LINKED))
    (offer,) = await here.queue.offer([want], now=T0, offer_ms=1000)
    offered = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
    done = msgspec.msgpack.encode(TaskReport(stdout="forged", exit_code=0))
    assert await here.host_tasks.late(offered, LINKED, done, now=T0 + 1) is None
    await here.queue.decline(offered, LINKED, now=T0 + 2)
    assert await here.host_tasks.late(offered, LINKED, done, now=T0 + 3) is None
    assert (await here.host_tasks.find(TaskId("task-1"))).status == "pending"
