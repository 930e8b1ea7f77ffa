"""A linked runner that reports what another one has, or what it never had, is refused and changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fault_parts import Parts
from host_history import check_rest, check_task, trail
from host_parts import HostParts
from played_runner import DONE, PlayedRunner

from clawplane.domain.host_tasks import TaskReport
from clawplane.domain.ids import JobId
from clawplane.domain.leases import Offer, Outcome
from clawplane.link.frames import Drop


def outcome(text: str) -> Outcome:
    """Return an end with a report."""
    report = msgspec.msgpack.encode(TaskReport(stdout=text, exit_code=0))
    return msgspec.structs.replace(DONE, result=report)


async def linked(parts: Parts) -> PlayedRunner:
    """Link a runner that does commands."""
    runner = PlayedRunner(parts.plane.url, slots=0)
    runner.slots = {"host": 1, "host@command": 1}
    runner.free = {"host": 1}
    await runner.connect()
    return runner


async def seen(host: HostParts, task: str) -> tuple[Any, ...]:
    """Return what anybody sees of a task."""
    state = await asyncio.to_thread(host.http.get, f"/tasks/{task}", params={"peek": "1"})
    records = await asyncio.to_thread(trail, host, task)
    return state.json(), [(record["type"], record["details"]) for record in records]


async def is_refused(runner: PlayedRunner, offer: Offer) -> None:
    """Say the end of a lease and hear that it is nobody's."""
    await runner.end(offer, outcome("forged"))
    assert (await runner.hears(Drop, offer.job)).fence == offer.fence


async def test_the_end_of_a_task_that_another_linked_runner_has_is_refused(parts: Parts, host: HostParts) -> None:
    await asyncio.to_thread(parts.serve)
    holder, stranger = await linked(parts), await linked(parts)
    stranger.free = {"host": 0}
    await stranger.tell_free()
    task = await asyncio.to_thread(host.submit)
    offer = await take(holder)
    before = await seen(host, task)
    assert before[0]["status"] == "running"
    for wrong in (
        {"nonce": offer.nonce + 1},
        {"nonce": 0},
        {"fence": offer.fence + 1},
        {"fence": offer.fence - 1},
        {"job": JobId(offer.job + 1)},
    ):
        await is_refused(stranger, msgspec.structs.replace(offer, **wrong))
    assert await seen(host, task) == before
    waiting = await asyncio.to_thread(host.submit)  # nobody has it yet, and its number can be guessed
    for job in range(offer.job + 1, offer.job + 4):
        await is_refused(stranger, msgspec.structs.replace(offer, job=JobId(job), nonce=7))
    assert await asyncio.to_thread(host.state, waiting) == "pending"
    await holder.finish(offer, outcome("by its holder"))
    assert (await asyncio.to_thread(host.fetch, task))["stdout"] == "by its holder"
    await asyncio.to_thread(check_task, host, task)
    holder.free = {"host": 1}
    await holder.tell_free()
    await holder.finish(await take(holder), outcome("next"))
    assert (await asyncio.to_thread(host.fetch, waiting))["stdout"] == "next"
    await asyncio.to_thread(check_rest, host)
    await holder.vanish()
    await stranger.vanish()


async def test_the_end_of_an_attempt_that_was_lost_counts_only_before_another_and_only_from_who_had_it(
    parts: Parts, host: HostParts
) -> None:
    await asyncio.to_thread(parts.serve)
    early = await linked(parts)
    task = await asyncio.to_thread(host.submit)
    lost = await take(early)
    early.holds, early.free = [], {"host": 0}
    await early.vanish()
    await early.connect()  # it was started again, and says that it holds nothing
    late = await linked(parts)
    offer = await take(late)
    assert offer.fence > lost.fence
    await is_refused(late, lost)  # that was another's
    assert await asyncio.to_thread(host.state, task) == "running"
    await late.finish(offer, outcome("of the second attempt"))
    await is_refused(early, lost)
    assert (await asyncio.to_thread(host.fetch, task))["stdout"] == "of the second attempt"
    await asyncio.to_thread(check_task, host, task, starts=(2,))
    await asyncio.to_thread(check_rest, host)
    await early.vanish()
    await late.vanish()


async def take(runner: PlayedRunner) -> Offer:
    """Wait for an offer of a host task and for its confirmation."""
    runner.free["workers"] = 0  # where the played runner counts its offers
    return await runner.take()
