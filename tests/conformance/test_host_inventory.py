"""What host_ports.HostTasks.take_stock promises: what a polling runner does not have goes by its policy, at once."""

from __future__ import annotations

from typing import Any

import pytest

from clawplane.domain.host_ports import Stock
from clawplane.domain.host_tasks import OnLoss
from clawplane.domain.ids import RunnerId
from clawplane.domain.leases import SILENCE_MS

MAC = "poll:mac"
SILENCE = 90_000


async def take(host: Any, number: int, *held: tuple[Any, int], runner: str = MAC) -> Stock:
    stock: Stock = await host.tasks.take_stock(RunnerId(runner), number, held, now=host.now)
    return stock


async def test_what_a_runner_does_not_name_waits_again_at_its_old_place_and_what_it_names_it_keeps(host: Any) -> None:
    first, second, third = [host.command(name) for name in "abc"]
    for new in (first, second, third):
        await host.submit(new)
    lost, kept = [await host.claimed(MAC, silence_ms=SILENCE) for _ in range(2)]
    assert await take(host, 1, (kept.task.id, kept.fence)) == Stock(taken=True, number=1, lost=(first.id,))
    assert await host.status(first.id) == "pending"
    assert await host.status(second.id) == "running"
    assert await host.trail(first.id) == ["created", "started", "requeued"]
    again = await host.claimed(MAC)
    assert (again.task.id, again.task.attempt) == (first.id, 2)
    assert again.fence > lost.fence


async def test_a_task_of_an_earlier_claim_is_not_had_under_a_later_one(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    early = await host.claimed(MAC, silence_ms=SILENCE)
    await take(host, 1)
    late = await host.claimed(MAC, silence_ms=SILENCE)
    assert (await take(host, 2, (new.id, early.fence))).lost == (new.id,)
    assert late.fence > early.fence


@pytest.mark.parametrize(
    ("policy", "status", "trail"),
    [
        (OnLoss.REQUEUE, "pending", ["created", "started", "requeued"]),
        (OnLoss.FAIL, "failed", ["created", "started", "failed"]),
        (OnLoss.HOLD, "running", ["created", "started", "recovery-preserved"]),
    ],
    ids=["requeue", "fail", "hold"],
)
async def test_each_task_goes_by_its_own_policy_and_is_said_to_once(
    host: Any, policy: OnLoss, status: str, trail: list[str]
) -> None:
    new = host.command(on_loss=policy)
    await host.submit(new)
    await host.claimed(MAC, silence_ms=SILENCE)
    for number in (1, 2, 3):
        await take(host, number)
    assert await host.status(new.id) == status
    assert await host.trail(new.id) == trail


async def test_an_inventory_counts_once_and_one_that_was_overtaken_takes_nothing_back(host: Any) -> None:
    assert await take(host, 7) == Stock(taken=True, number=7)
    new = host.command()
    await host.submit(new)
    await host.claimed(MAC, silence_ms=SILENCE)
    for number in (7, 6, 1):
        assert await take(host, number) == Stock(taken=False, number=7)
    assert await host.status(new.id) == "running"
    assert (await take(host, 8)).lost == (new.id,)


async def test_it_concerns_nobody_else(host: Any) -> None:
    runners = ("poll:pc", "poll:anonymous", "mac")
    tasks = [host.command() for _ in runners]
    for new in tasks:
        await host.submit(new)
    for runner in runners:
        await host.claimed(runner)
    assert await take(host, 1) == Stock(taken=True, number=1)
    assert [await host.status(new.id) for new in tasks] == ["running"] * 3
    assert await take(host, 1, runner="poll:pc") == Stock(taken=True, number=1, lost=(tasks[0].id,))


async def test_what_was_to_be_cancelled_ends_as_cancelled(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed(MAC, silence_ms=SILENCE)
    await host.tasks.cancel(new.id, "Cancelled by ann.", now=host.now)
    assert (await take(host, 1)).lost == (new.id,)
    assert (await host.tasks.find(new.id)).reason == "cancelled"
    assert (await host.result(new.id))["exitCode"] != 0


async def test_without_an_inventory_a_runner_that_is_heard_keeps_what_it_was_given(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed(MAC, silence_ms=SILENCE)
    for _ in range(5):
        host.pass_ms(SILENCE - 1000)
        await host.store.queue.heartbeat(RunnerId(MAC), [], now=host.now)
        assert not (await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)).lost
    assert await host.status(new.id) == "running"
