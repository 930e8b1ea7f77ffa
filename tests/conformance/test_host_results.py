"""What host_ports.HostTasks promises of handing results out once, and of letting go of what is old."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawplane.domain.batches import LogLine
from clawplane.domain.host_ports import Retention
from clawplane.domain.host_tasks import Approval, Target, TaskEvent, TaskId, TaskReport, TaskStatus
from clawplane.domain.ids import RunnerId
from clawplane.domain.leases import Want

MINUTE = 60_000
KEEP = Retention(task_ms=20 * MINUTE, result_ms=30 * MINUTE, session_ms=30 * MINUTE, grace_ms=10 * MINUTE)
DONE = TaskReport(stdout="hi\n", exit_code=0, duration=5)


async def swept(host: Any, retention: Retention = KEEP) -> tuple[list[TaskId], int, int]:
    """Sweep until nothing is left to sweep."""
    expired: list[TaskId] = []
    results = sessions = 0
    while True:
        part = await host.tasks.sweep(retention, now=host.now)
        if not (part.expired or part.results or part.sessions):
            return expired, results, sessions
        expired += part.expired
        results += part.results
        sessions += part.sessions


async def done(host: Any, **changes: Any) -> TaskId:
    new = host.command(**changes)
    await host.submit(new)
    await host.claimed()
    await host.report(new.id, DONE)
    id_: TaskId = new.id
    return id_


# fetching


async def test_a_result_is_consumed_once_with_its_record_and_its_task_is_gone_for_the_task_api(host: Any) -> None:
    task = await done(host)
    before = await host.tasks.outlook(task)
    assert (before.status, before.ready) == (TaskStatus.COMPLETED, True)
    host.pass_ms(3)
    taken = await host.tasks.take_result(task, now=host.now)
    assert taken.consumed_at == host.now
    assert taken == await host.tasks.result(task)
    assert await host.tasks.take_result(task, now=host.now) is None
    after = await host.tasks.outlook(task)
    assert (after.status, after.ready) == (None, False)
    assert await host.counts() == ({}, 0)
    reconciled = (await host.events(task))[-1]
    assert (reconciled.type, reconciled.task_status) == ("task.reconciled", "completed")
    assert reconciled.details == {"exitCode": 0, "reconciledBy": "task-result-fetch"}
    assert await host.status(task) is TaskStatus.COMPLETED


async def test_of_many_who_take_a_result_at_once_one_gets_it(host: Any) -> None:
    task = await done(host)
    taken = await asyncio.gather(*(host.tasks.take_result(task, now=host.now) for _ in range(10)))
    assert sum(each is not None for each in taken) == 1
    assert (await host.trail(task)).count("reconciled") == 1


async def test_there_is_no_result_of_what_has_not_ended_or_is_unknown(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    for id_, status in ((new.id, TaskStatus.PENDING), (TaskId("unknown"), None)):
        assert await host.tasks.take_result(id_, now=host.now) is None
        assert await host.tasks.result(id_) is None
        outlook = await host.tasks.outlook(id_)
        assert (outlook.status, outlook.ready) == (status, False)
    await host.claimed()
    assert (await host.tasks.outlook(new.id)).status is TaskStatus.RUNNING


async def test_a_result_that_was_put_back_is_there_again_as_if_nobody_had_asked(host: Any) -> None:
    task = await done(host)
    before = await host.tasks.result(task)
    await host.tasks.take_result(task, now=host.now)
    await host.tasks.put_back(task)
    assert await host.tasks.result(task) == before
    assert await host.trail(task) == ["created", "started", "completed"]
    assert await host.counts() == ({"completed": 1}, 1)
    assert (await host.tasks.outlook(task)).ready
    assert await host.tasks.take_result(task, now=host.now) is not None
    assert await host.trail(task) == ["created", "started", "completed", "reconciled"]


async def test_putting_back_what_nobody_took_changes_nothing(host: Any) -> None:
    task = await done(host)
    await host.tasks.put_back(task)
    await host.tasks.put_back(TaskId("unknown"))
    assert await host.counts() == ({"completed": 1}, 1)
    assert await host.trail(task) == ["created", "started", "completed"]


async def test_putting_back_never_removes_a_record_that_a_runner_reported(host: Any) -> None:
    task = await done(host)
    await host.tasks.take_result(task, now=host.now)
    forged = TaskEvent(seq=0, id="e", type="task.reconciled", created_at=host.now, task_id=task, source="runner")
    await host.store.task_events.append(forged)
    await host.tasks.put_back(task)
    assert [event.source for event in await host.events(task, "task.reconciled")] == ["runner"]


async def test_an_orphan_result_is_put_back_like_any_other(host: Any) -> None:
    await host.report(TaskId("gone"), DONE)
    await host.tasks.take_result(TaskId("gone"), now=host.now)
    await host.tasks.put_back(TaskId("gone"))
    assert await host.counts() == ({}, 1)
    assert await host.tasks.take_result(TaskId("gone"), now=host.now) is not None


# retention


async def test_a_result_that_nobody_fetched_expires_with_its_task_and_leaves_a_record(host: Any) -> None:
    task = await done(host, idempotency=("k", "d"))
    await host.report(TaskId("orphan"), DONE)
    host.pass_ms(30 * MINUTE - 1)
    assert await swept(host) == ([], 0, 0)
    host.pass_ms(1)
    assert await swept(host) == ([], 2, 0)
    assert (await host.tasks.find(task), await host.tasks.result(task)) == (None, None)
    assert await host.tasks.result(TaskId("orphan")) is None
    assert await host.counts() == ({}, 0)
    assert await host.trail(task) == ["created", "started", "completed", "expired"]
    assert await host.trail(TaskId("orphan")) == ["expired"]
    assert not (await host.tasks.submit(host.command(idempotency=("k", "d")), now=host.now)).replayed


async def test_a_fetched_copy_stays_for_its_grace_whenever_the_result_was_made(host: Any) -> None:
    task = await done(host)
    host.pass_ms(29 * MINUTE)
    await host.tasks.take_result(task, now=host.now)
    host.pass_ms(10 * MINUTE - 1)
    assert await swept(host) == ([], 0, 0)
    assert await host.tasks.result(task) is not None
    host.pass_ms(1)
    assert await swept(host) == ([], 1, 0)
    assert (await host.tasks.find(task), await host.tasks.result(task)) == (None, None)
    assert (await host.trail(task))[-1] == "reconciled"
    assert await host.counts() == ({}, 0)


async def test_a_waiting_task_expires_with_a_record_and_a_running_one_never_by_age(host: Any) -> None:
    running, waiting = host.command(timeout_ms=24 * 60 * MINUTE), host.command(timeout_ms=24 * 60 * MINUTE)
    for new in (running, waiting):
        await host.submit(new)
    await host.claimed()
    host.pass_ms(20 * MINUTE)
    assert await swept(host) == ([waiting.id], 0, 0)
    assert await host.tasks.find(waiting.id) is None
    assert await host.trail(waiting.id) == ["created", "expired"]
    assert await host.status(running.id) is TaskStatus.RUNNING
    assert (await host.counts(), await host.depth()) == (({"running": 1}, 0), (0, 1))
    assert (await host.report(waiting.id)).outcome == "unknown"


async def test_what_is_offered_approved_late_delayed_or_put_back_into_the_queue_has_its_whole_time(host: Any) -> None:
    offered = host.command(target=Target(runner="mac"))
    asked = host.command(approval=Approval.WAITING, target=Target(runner="none"))
    delayed = host.command(not_before=host.now + 15 * MINUTE, target=Target(runner="none"))
    lost = host.command(timeout_ms=60 * MINUTE)
    for new in (offered, asked, delayed, lost):
        await host.submit(new)
    await host.claimed()
    host.pass_ms(20 * MINUTE)
    reach = msgspec.structs.replace(host.poll().reach, runner="mac")
    await host.store.queue.offer(
        [Want(runner=RunnerId("mac"), caps="host", count=1, reach=reach)], now=host.now, offer_ms=10_000
    )
    await host.tasks.reopen(now=host.now)
    assert await swept(host) == ([], 0, 0)
    await host.tasks.approve(asked.id, given=True, by="eve", now=host.now)
    host.pass_ms(15 * MINUTE)
    assert await swept(host) == ([delayed.id], 0, 0)
    host.pass_ms(5 * MINUTE)
    assert set((await swept(host))[0]) == {asked.id, lost.id}
    await host.store.queue.expire(now=host.now, silence_ms=12_000)
    assert await swept(host) == ([offered.id], 0, 0)
    assert (await host.counts(), await host.depth()) == (({}, 0), (0, 0))


async def test_an_undone_claim_does_not_make_a_task_younger(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    host.pass_ms(19 * MINUTE)
    claimed = await host.claimed()
    await host.tasks.unclaim(new.id, claimed.fence, now=host.now)
    host.pass_ms(MINUTE)
    assert await swept(host) == ([new.id], 0, 0)


async def test_when_a_whole_conversation_is_old_nothing_of_it_is_left_in_the_queue(host: Any) -> None:
    made = [host.prompt("s") for _ in range(3)]
    for new in made:
        await host.submit(new)
    host.pass_ms(10 * MINUTE)
    made.append(host.prompt("s"))
    await host.submit(made[3])
    host.pass_ms(10 * MINUTE)
    expired, _, _ = await swept(host)
    assert set(expired) == {new.id for new in made[:3]}
    assert (await host.counts(), await host.depth()) == (({"pending": 1}, 0), (1, 0))
    assert await host.claimed_ids() == [made[3].id]


async def test_when_the_head_of_a_conversation_expires_the_next_one_is_let_in(host: Any) -> None:
    head, behind = host.prompt("s"), host.prompt("s")
    await host.submit(head)
    host.pass_ms(MINUTE)
    await host.submit(msgspec.structs.replace(behind, created_at=host.now))
    host.pass_ms(19 * MINUTE)
    assert await swept(host) == ([head.id], 0, 0)
    assert await host.claimed_ids() == [behind.id]


async def test_sessions_expire_after_their_last_touch_but_not_while_a_task_of_theirs_waits_or_runs(host: Any) -> None:
    waiting, running, idle = (host.prompt(name, timeout_ms=90 * MINUTE) for name in ("waits", "runs", "idle"))
    for new in (running, idle):
        await host.submit(new)
    assert (await host.claimed()).task.id == running.id
    await host.report(idle.id)
    await host.submit(msgspec.structs.replace(waiting, approval=Approval.WAITING))
    host.pass_ms(30 * MINUTE)
    assert (await swept(host))[2] == 0
    host.pass_ms(1)
    assert (await swept(host))[2] == 1
    assert {each.session_id for each in await host.store.agent_sessions.page(cli_type="", limit=9)} == {"waits", "runs"}
    await host.report(running.id)
    assert (await swept(host))[2] == 1


async def test_each_call_does_a_bounded_part_and_many_calls_do_all(host: Any) -> None:
    made = [host.command() for _ in range(450)]
    await asyncio.gather(*map(host.submit, made))
    await asyncio.gather(*(host.report(new.id) for new in made[:100]))
    host.pass_ms(40 * MINUTE)
    part = await host.tasks.sweep(KEEP, now=host.now)
    assert 0 < len(part.expired) < 350
    expired, results, _ = await swept(host)
    assert len(expired) + len(part.expired) == 350
    assert results + part.results == 100
    assert (await host.counts(), await host.depth()) == (({}, 0), (0, 0))
    assert await host.tasks.waits() == {}


async def test_tasks_that_wait_for_a_person_do_not_keep_older_ones_from_expiring(host: Any) -> None:
    asked = [host.command(approval=Approval.WAITING) for _ in range(250)]
    await asyncio.gather(*map(host.submit, asked))
    new = host.command()
    await host.submit(new)
    host.pass_ms(20 * MINUTE)
    assert await swept(host) == ([new.id], 0, 0)
    assert await host.counts() == ({"pending": 250}, 0)


@pytest.mark.parametrize("kind", ["expired", "fetched"])
async def test_nothing_of_a_task_but_its_trail_is_left_in_the_database(host: Any, kind: str) -> None:
    new = host.prompt("s") if kind == "expired" else host.command()
    await host.submit(new)
    await host.store.runs.append_system_log(new.id, "", [LogLine(1, "out", host.now)])
    if kind == "fetched":
        await host.claimed()
        await host.report(new.id)
        await host.tasks.take_result(new.id, now=host.now)
    host.pass_ms(40 * MINUTE)
    await swept(host)
    assert await host.store.runs.log_tail(new.id, limit=9) == []
    assert await host.store.queue.attempts(new.job) == []
    assert await host.store.queue.highest_job() == 0
    assert (await host.store.queue.depth()).ready == {}
