"""What host_ports.Outbox promises: callbacks are owed by the transaction that ends a task, and settled once."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from clawplane.domain.host_ports import Parcel, Retention
from clawplane.domain.host_tasks import TaskEvent, TaskReport
from clawplane.domain.ids import RunnerId
from clawplane.domain.leases import Claim, Finish, Outcome, Want


def sent(parcel: Parcel, **changes: Any) -> TaskEvent:
    values: dict[str, Any] = {"seq": 0, "id": "e", "type": "callback.sent", "created_at": 1, "task_id": parcel.task}
    return TaskEvent(**(values | changes))


async def due(host: Any) -> list[Parcel]:
    parcels: list[Parcel] = await host.store.outbox.due(now=host.now, limit=100)
    return parcels


async def ended_by_link(host: Any, new: Any, report: TaskReport) -> None:
    await host.submit(new)
    want = Want(runner=RunnerId("mac"), caps="host", count=1, reach=host.poll("mac").reach)
    (offer,) = await host.store.queue.offer([want], now=host.now, offer_ms=10_000)
    claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
    await host.store.queue.confirm(claim, offer.runner, now=host.now)
    outcome = Outcome(succeeded=report.succeeded, reason="exit", result=msgspec.msgpack.encode(report))
    await host.store.queue.finish(Finish(claim=claim, outcome=outcome), now=host.now)


async def test_the_end_of_a_linked_runner_s_agent_task_owes_its_channel_the_whole_answer(host: Any) -> None:
    new = host.prompt("s", callback_channel="7", callback_token=b"sealed", deliver_to="7")
    await ended_by_link(host, new, TaskReport(stdout="x" * 10_000, exit_code=0))
    (parcel,) = await due(host)
    assert (parcel.kind, parcel.destination, parcel.token, parcel.task) == ("chat", "7", b"sealed", new.id)
    assert parcel.body == b"x" * 10_000
    assert (parcel.attempts, parcel.sent, parcel.created_at) == (0, 0, host.now)
    assert parcel.next_at == host.now


@pytest.mark.parametrize(("delivers", "owed"), [(False, 0), (True, 1)])
async def test_what_a_poll_took_is_told_by_whoever_the_poll_said(host: Any, delivers: bool, owed: int) -> None:
    new = host.prompt("s", callback_channel="7", deliver_to="7")
    await host.submit(new)
    await host.claimed(server_delivers=delivers)
    await host.report(new.id)
    assert len(await due(host)) == owed


async def test_a_task_without_a_channel_says_that_nothing_is_sent_where_the_control_plane_would_send(host: Any) -> None:
    silent, skipped = host.prompt("s"), host.prompt("t", deliver_to="")
    for new in (silent, skipped):
        await ended_by_link(host, new, TaskReport(exit_code=0))
    assert await due(host) == []
    assert [each.task_id for each in await host.events(type_="callback.skipped")] == [skipped.id]


async def test_only_agents_with_direct_callbacks_owe_a_chat_anything(host: Any) -> None:
    for new in (host.command(deliver_to="7"), host.prompt(deliver_to="7", response_mode="other")):
        await ended_by_link(host, new, TaskReport(exit_code=0))
    assert await due(host) == []


async def test_every_end_with_an_address_owes_it_the_result_as_json(host: Any) -> None:
    new = host.command(callback_url="http://hook/", labels={"a": "b"})
    await host.submit(new)
    await host.claimed("poll:mac")
    await host.report(new.id, TaskReport(stdout="\ud83d", exit_code=0))
    (parcel,) = await due(host)
    assert (parcel.kind, parcel.destination) == ("webhook", "http://hook/")
    told = json.loads(parcel.body)
    assert (told["type"], told["task"]["id"], told["task"]["labels"]) == ("task.completed", new.id, {"a": "b"})
    assert told["task"]["runner"] == "poll:mac"
    assert told["result"] == await host.result(new.id)


async def test_cancelled_refused_and_expired_tasks_owe_their_callbacks_too(host: Any) -> None:
    new = host.prompt(callback_url="http://hook/", deliver_to="7")
    await host.submit(new)
    await host.tasks.cancel(new.id, "Cancelled by ann.", now=host.now)
    assert sorted(parcel.kind for parcel in await due(host)) == ["chat", "webhook"]
    late = host.prompt(deliver_to="7")
    await host.submit(late)
    await host.claimed(server_delivers=True)
    host.pass_ms(late.timeout_ms)
    await host.store.queue.expire(now=host.now, silence_ms=12_000)
    assert [parcel.task for parcel in await due(host)].count(late.id) == 1


async def test_a_repeated_or_conflicting_report_owes_nothing_more(host: Any) -> None:
    new = host.command(callback_url="http://hook/")
    await host.submit(new)
    for code in (0, 0, 1):
        await host.report(new.id, TaskReport(exit_code=code))
    assert len(await due(host)) == 1


async def test_a_parcel_comes_again_when_its_next_time_has_come_with_how_far_it_got(host: Any) -> None:
    new = host.command(callback_url="http://hook/")
    await host.submit(new)
    await host.report(new.id)
    (parcel,) = await due(host)
    await host.store.outbox.progress(parcel.id, sent=2, attempts=3, next_at=host.now + 3000)
    host.pass_ms(2999)
    assert await due(host) == []
    host.pass_ms(1)
    (again,) = await due(host)
    assert again == msgspec.structs.replace(parcel, sent=2, attempts=3, next_at=host.now)


async def test_parcels_are_due_oldest_first_and_limited(host: Any) -> None:
    made = []
    for _ in range(4):
        new = host.command(callback_url="http://hook/")
        await host.submit(new)
        await host.report(new.id)
        made.append(new.id)
        host.pass_ms(1)
    assert [parcel.task for parcel in await host.store.outbox.due(now=host.now, limit=3)] == made[:3]


async def test_a_parcel_is_settled_once_with_its_one_terminal_record(host: Any) -> None:
    new = host.command(callback_url="http://hook/")
    await host.submit(new)
    await host.report(new.id)
    (parcel,) = await due(host)
    assert await host.store.outbox.settle(parcel.id, sent(parcel))
    assert not await host.store.outbox.settle(parcel.id, sent(parcel, type="callback.failed"))
    assert await host.store.outbox.due(now=1 << 60, limit=1) == []
    assert [each for each in await host.trail(new.id) if each.startswith("callback")] == ["callback.sent"]
    await host.store.outbox.progress(parcel.id, sent=1, attempts=1, next_at=0)
    assert await due(host) == []


async def test_what_is_owed_outlives_its_task(host: Any) -> None:
    new = host.command(callback_url="http://hook/")
    await host.submit(new)
    await host.report(new.id)
    await host.tasks.take_result(new.id, now=host.now)
    host.pass_ms(86_400_000)
    await host.tasks.sweep(Retention(), now=host.now)
    assert await host.tasks.find(new.id) is None
    assert len(await due(host)) == 1
