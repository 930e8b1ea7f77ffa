"""What host_ports promises of conversations: one task at a time, in order, whichever id names the conversation."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawplane.domain.host_ports import Retention
from clawplane.domain.host_tasks import Approval, HostSpec, OnLoss, TaskReport, TaskStatus
from clawplane.domain.ids import RunnerId
from clawplane.domain.leases import Want

MINUTE = 60_000
FULL = "01234567-89ab-cdef-0123-456789abcdef"
PROVIDER = "fedcba98-7654-3210-fedc-ba9876543210"


def said(session: str) -> TaskReport:
    return TaskReport(stdout="x", exit_code=0, metadata={"sessionId": session})


async def submitted(host: Any, *sessions: str, cli: str = "claude", **changes: Any) -> list[Any]:
    made = [host.prompt(session, cli, **changes) for session in sessions]
    for new in made:
        await host.submit(new)
    return [new.id for new in made]


# order


async def test_tasks_of_one_conversation_run_one_after_the_other_in_the_order_of_submission(host: Any) -> None:
    made = await submitted(host, "s", "s", "s")
    for id_ in made:
        assert await host.claimed_ids() == [id_]
        await host.report(id_)
    assert await host.claimed_ids() == []


async def test_others_overtake_those_that_wait_behind_their_conversation(host: Any) -> None:
    first, behind, other = await submitted(host, "s", "s", "t")
    command = host.command()
    await host.submit(command)
    assert await host.claimed_ids() == [first, other, command.id]
    await host.report(first)
    assert await host.claimed_ids() == [behind]


async def test_one_id_under_two_clis_names_two_conversations(host: Any) -> None:
    claude, codex = host.prompt("s"), host.prompt("s", "codex")
    for new in (claude, codex):
        await host.submit(new)
    assert await host.claimed_ids() == [claude.id, codex.id]


async def test_priority_does_not_change_the_order_within_a_conversation(host: Any) -> None:
    (low,) = await submitted(host, "s")
    (high,) = await submitted(host, "s", priority=9)
    assert await host.claimed_ids() == [low]
    await host.report(low)
    assert await host.claimed_ids() == [high]


@pytest.mark.parametrize("how", ["cancel", "refuse", "late report", "unclaim and cancel", "deadline", "fail on loss"])
async def test_the_next_of_a_conversation_is_let_in_however_the_one_before_it_ends(host: Any, how: str) -> None:
    approval = Approval.WAITING if how == "refuse" else Approval.NOT_NEEDED
    head = host.prompt("s", approval=approval, on_loss=OnLoss.FAIL if how == "fail on loss" else OnLoss.REQUEUE)
    await host.submit(head)
    (behind,) = await submitted(host, "s")
    if how == "cancel":
        await host.tasks.cancel(head.id, "no", now=host.now)
    elif how == "refuse":
        await host.tasks.approve(head.id, given=False, by="eve", now=host.now)
    elif how == "late report":
        await host.claimed()
        await host.tasks.reopen(now=host.now)
        await host.report(head.id)
    elif how == "unclaim and cancel":
        claimed = await host.claimed()
        await host.tasks.cancel(head.id, "no", now=host.now)
        await host.tasks.unclaim(head.id, claimed.fence, now=host.now)
    elif how == "deadline":
        await host.claimed()
        host.pass_ms(head.timeout_ms)
        await host.store.queue.expire(now=host.now, silence_ms=12_000)
    else:
        await host.claimed()
        await host.tasks.reopen(now=host.now)
    assert await host.claimed_ids() == [behind]


async def test_when_several_of_a_conversation_end_at_once_none_of_them_is_handed_out_again(host: Any) -> None:
    made = await submitted(host, "s", "s", "s", "s", "s")
    await asyncio.gather(*(host.report(made[number]) for number in (3, 0, 1)))
    assert await host.claimed_ids() == [made[2]]
    jobs = [(await host.tasks.find(id_)).job for id_ in made]
    await host.report(made[2])
    await host.store.queue.cancel(jobs, "no")
    assert await host.claimed_ids() == []
    assert await host.depth() == (0, 0)


async def test_a_requeued_head_stays_the_head(host: Any) -> None:
    head, behind = await submitted(host, "s", "s")
    await host.claimed()
    await host.tasks.reopen(now=host.now)
    assert await host.claimed_ids() == [head]
    assert await host.status(behind) is TaskStatus.PENDING


async def test_one_that_is_cancelled_behind_the_head_is_skipped(host: Any) -> None:
    head, gone, last = await submitted(host, "s", "s", "s")
    await host.tasks.cancel(gone, "no", now=host.now)
    assert await host.claimed_ids() == [head]
    await host.report(head)
    assert await host.claimed_ids() == [last]


async def test_one_that_is_approved_behind_the_head_waits_for_its_turn(host: Any) -> None:
    head, asked = host.prompt("s"), host.prompt("s", approval=Approval.WAITING)
    for new in (head, asked):
        await host.submit(new)
    await host.tasks.approve(asked.id, given=True, by="eve", now=host.now)
    assert await host.claimed_ids() == [head.id]
    await host.report(head.id)
    assert await host.claimed_ids() == [asked.id]


async def test_one_whose_turn_comes_before_its_yes_or_its_time_holds_the_conversation_until_then(host: Any) -> None:
    head = host.prompt("s")
    asked = host.prompt("s", approval=Approval.WAITING, not_before=host.now + 5000)
    last = host.prompt("s")
    for new in (head, asked, last):
        await host.submit(new)
    await host.report(head.id)
    assert await host.claimed_ids() == []
    await host.tasks.approve(asked.id, given=True, by="eve", now=host.now)
    assert await host.claimed_ids() == []
    host.pass_ms(5000)
    assert await host.claimed_ids() == [asked.id]
    await host.report(asked.id)
    assert await host.claimed_ids() == [last.id]


async def test_at_no_moment_two_tasks_of_one_conversation_run_however_many_claim_and_report(host: Any) -> None:
    made = await submitted(host, *[f"s{number % 5}" for number in range(60)])
    running: dict[str, str] = {}
    ended: dict[str, list[str]] = {}

    async def work(runner: str) -> None:
        while (claimed := await host.claim(runner)) is not None or running:
            if claimed is None:
                await asyncio.sleep(0)
                continue
            task = claimed.task
            assert task.session_id not in running
            running[task.session_id] = task.id
            await asyncio.sleep(0)
            ended.setdefault(task.session_id, []).append(task.id)
            del running[task.session_id]
            await host.report(task.id)

    await asyncio.gather(*(work(f"poll:{number}") for number in range(7)))
    assert ended == {f"s{number}": made[number::5] for number in range(5)}


# names of a conversation


async def test_the_provider_s_id_names_the_same_conversation_as_soon_as_it_was_reported(host: Any) -> None:
    (first,) = await submitted(host, FULL)
    await host.claimed()
    await host.report(first, said(PROVIDER))
    by_api, by_provider = await submitted(host, FULL, PROVIDER)
    assert await host.claimed_ids() == [by_api]
    assert (await host.tasks.find(by_provider)).session_key == f"claude-cli:{FULL}"
    assert await host.store.agent_sessions.key_of("claude", PROVIDER) == (FULL, PROVIDER)
    assert await host.store.agent_sessions.key_of("codex", PROVIDER) == (PROVIDER, None)


async def test_an_id_that_is_bound_while_the_task_runs_counts_at_once(host: Any) -> None:
    await submitted(host, FULL)
    await host.claimed()
    await host.store.agent_sessions.bind("claude", FULL, PROVIDER, now=host.now)
    await submitted(host, PROVIDER)
    assert await host.claimed_ids() == []


@pytest.mark.parametrize("of", [FULL, PROVIDER])
async def test_a_prefix_of_a_known_id_names_its_conversation(host: Any, of: str) -> None:
    await submitted(host, FULL)
    await host.claimed()
    await host.store.agent_sessions.bind("claude", FULL, PROVIDER, now=host.now)
    (task,) = await submitted(host, of[:8])
    assert (await host.tasks.find(task)).session_key == f"claude-cli:{FULL}"
    assert (await host.tasks.find(task)).session_id == of[:8]
    assert await host.claimed_ids() == []


async def test_a_prefix_of_two_conversations_is_a_name_of_its_own(host: Any) -> None:
    await submitted(host, FULL, FULL[:-1] + "0")
    (task,) = await submitted(host, FULL[:8])
    assert (await host.tasks.find(task)).session_key == f"claude-cli:{FULL[:8]}"
    assert len(await host.claimed_ids()) == 3


@pytest.mark.parametrize(("known", "new"), [("chat-10", "chat-1"), (FULL, "012"), (FULL, "0123_"), (FULL, "\uffff")])
async def test_a_chat_s_own_name_is_no_prefix_of_another_s(host: Any, known: str, new: str) -> None:
    await submitted(host, known, new)
    assert len(await host.claimed_ids()) == 2


async def test_two_conversations_that_turn_out_to_be_one_are_one_from_then_on(host: Any) -> None:
    one, two = await submitted(host, "api-1", "api-2")
    assert len(await host.claimed_ids()) == 2
    await host.report(one, said(PROVIDER))
    await host.report(two, said(PROVIDER))
    first, second, third = await submitted(host, "api-1", "api-2", PROVIDER)
    for id_ in (first, second, third):
        assert await host.claimed_ids() == [id_]
        await host.report(id_, said(PROVIDER))


async def test_who_waits_behind_the_first_task_is_told_the_provider_s_id_when_its_turn_comes(host: Any) -> None:
    first, second = await submitted(host, FULL, FULL)
    await host.claimed()
    await host.report(first, said(PROVIDER))
    want = Want(runner=RunnerId("mac"), caps="host", count=1, reach=host.poll("mac").reach)
    (offer,) = await host.store.queue.offer([want], now=host.now, offer_ms=10_000)
    spec = msgspec.msgpack.decode(offer.spec, type=HostSpec)
    assert (spec.task, spec.provider_session, spec.session_key) == (second, PROVIDER, f"claude-cli:{FULL}")


async def test_bindings_of_a_running_conversation_are_kept_however_old_and_others_are_dropped(host: Any) -> None:
    running, ended = await submitted(host, "runs-on", "ended", timeout_ms=100 * 86_400_000)
    assert len(await host.claimed_ids()) == 2
    for name in ("runs-on", "ended"):
        await host.store.agent_sessions.bind("claude", name, f"provider-of-{name}", now=host.now)
    await host.report(ended)
    host.pass_ms(31 * 86_400_000)
    await host.tasks.sweep(Retention(), now=host.now)
    assert (await host.store.agent_sessions.key_of("claude", "provider-of-runs-on"))[0] == "runs-on"
    assert (await host.store.agent_sessions.key_of("claude", "provider-of-ended"))[0] == "provider-of-ended"
    assert await host.status(running) is TaskStatus.RUNNING


# rows


async def test_a_session_s_row_counts_submissions_and_remembers_channel_type_and_touches(host: Any) -> None:
    await submitted(host, "s", callback_channel="7")
    made = host.now
    host.pass_ms(5)
    await submitted(host, "s", cli="codex")
    (row,) = await host.store.agent_sessions.page(cli_type="", limit=9)
    assert (row.cli_type, row.callback_channel, row.task_count) == ("codex", "7", 2)
    assert (row.created_at, row.last_activity) == (made, made + 5)
    await submitted(host, "s", callback_channel="8")
    assert (await host.store.agent_sessions.page(cli_type="", limit=9))[0].callback_channel == "8"


async def test_a_reported_provider_id_is_a_row_of_its_own_without_tasks(host: Any) -> None:
    (task,) = await submitted(host, "s", cli="codex", callback_channel="7")
    await host.claimed()
    host.pass_ms(5)
    await host.report(task, said(" p "))
    rows = {row.session_id: row for row in await host.store.agent_sessions.page(cli_type="codex", limit=9)}
    assert set(rows) == {"s", "p"}
    assert (rows["p"].task_count, rows["p"].callback_channel, rows["p"].created_at) == (0, "7", host.now)
    assert (rows["s"].task_count, rows["s"].last_activity) == (1, host.now - 5)


@pytest.mark.parametrize("metadata", [{"sessionId": 7}, {"sessionId": " "}, {"sessionId": "x" * 600}, {}])
async def test_what_is_no_session_id_makes_no_row(host: Any, metadata: dict[str, Any]) -> None:
    (task,) = await submitted(host, "s")
    await host.report(task, TaskReport(exit_code=0, metadata=metadata))
    assert len(await host.store.agent_sessions.page(cli_type="", limit=9)) == 1


async def test_commands_and_files_make_no_sessions(host: Any) -> None:
    for new in (host.command(), host.read()):
        await host.submit(new)
    assert await host.store.agent_sessions.page(cli_type="", limit=9) == []


async def test_a_replayed_submission_is_not_counted_again(host: Any) -> None:
    for _ in range(3):
        await host.tasks.submit(host.prompt("s", idempotency=("k", "d")), now=host.now)
    (row,) = await host.store.agent_sessions.page(cli_type="", limit=9)
    assert row.task_count == 1


async def test_sessions_are_listed_by_last_activity_and_counted_by_type(host: Any) -> None:
    stats = host.store.agent_sessions.stats
    assert await stats() == {"active": 0, "oldestLastActivity": None, "newestLastActivity": None, "byType": []}
    start = host.now
    for name, cli in (("a", "claude"), ("b", "codex"), ("c", "claude")):
        await submitted(host, name, cli=cli)
        host.pass_ms(10)
    await submitted(host, "a")
    assert [row.session_id for row in await host.store.agent_sessions.page(cli_type="", limit=2)] == ["a", "c"]
    assert [row.session_id for row in await host.store.agent_sessions.page(cli_type="codex", limit=9)] == ["b"]
    assert await stats() == {
        "active": 3,
        "oldestLastActivity": start + 10,
        "newestLastActivity": start + 30,
        "byType": [{"cliType": "claude", "count": 2}, {"cliType": "codex", "count": 1}],
    }
