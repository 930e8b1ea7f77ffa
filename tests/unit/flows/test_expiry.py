"""What time ends, and when time may not be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from clawplane.domain.clock import ManualClock
from clawplane.domain.errors import StoreBusy
from clawplane.domain.ids import JobId, RunnerId, new_ulid
from clawplane.domain.leases import OFFER_MS, AttemptEnd, Claim, JobKind, NewJob, Offer, Want
from clawplane.domain.ports import Expired
from clawplane.flows.expiry import Expiry
from clawplane.store import Store, open_store

RUNNER = RunnerId(new_ulid(0))


@asynccontextmanager
async def expiring(
    directory: Path, clock: ManualClock, *, confirmed: bool
) -> AsyncIterator[tuple[Expiry, Store, Offer, asyncio.Queue[Expired]]]:
    """Yield a running expiry loop over a store in which one job is offered, or leased."""
    store = await open_store(directory, clock=clock)
    now = clock.now_ms()
    job = NewJob(
        id=JobId(1), kind=JobKind.BUILD, subject="w@v", caps="builds", ready_at=now, spec=b"", timeout_ms=600_000
    )
    await store.queue.submit([job])
    (offer,) = await store.queue.offer([Want(runner=RUNNER, caps="builds", count=1)], now=now, offer_ms=OFFER_MS)
    if confirmed:
        claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
        assert await store.queue.confirm(claim, RUNNER, now=now)
        await store.queue.heartbeat(RUNNER, [(offer.job, offer.fence)], now=now)
    told: asyncio.Queue[Expired] = asyncio.Queue()
    expiry = Expiry(store.queue, clock, told.put)
    task = asyncio.create_task(expiry.run())
    await told.get()
    try:
        yield expiry, store, offer, told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def look(expiry: Expiry, told: asyncio.Queue[Expired]) -> Expired:
    """Let the loop look now, and return what it found."""
    expiry.not_later_than(0)
    async with asyncio.timeout(30):
        return await told.get()


async def after(seconds: float, expiry: Expiry, clock: ManualClock, told: asyncio.Queue[Expired]) -> Expired:
    """Let time pass second by second and return everything the loop has found meanwhile."""
    lost, runs = [], []
    for _ in range(round(seconds)):
        clock.advance(1)
        found = await look(expiry, told)
        lost += found.lost
        runs += found.runs
    return Expired(lost=tuple(lost), runs=tuple(runs))


async def test_an_offer_that_nobody_confirms_goes_back(tmp_path: Path) -> None:
    clock = ManualClock()
    async with expiring(tmp_path, clock, confirmed=False) as (expiry, store, _, told):
        expired = await after(11, expiry, clock, told)
        assert [lost.end for lost in expired.lost] == [AttemptEnd.OFFER_EXPIRED]
        assert (await store.queue.depth()).ready == {"builds": 1}


async def test_a_silent_runner_loses_its_leases(tmp_path: Path) -> None:
    clock = ManualClock()
    async with expiring(tmp_path, clock, confirmed=True) as (expiry, store, _, told):
        expired = await after(13, expiry, clock, told)
        assert [(lost.end, lost.requeued) for lost in expired.lost] == [(AttemptEnd.RUNNER_LOST, True)]
        assert await store.queue.leases() == []


async def test_a_start_gives_runners_time_to_speak(tmp_path: Path) -> None:
    clock = ManualClock()
    async with expiring(tmp_path, clock, confirmed=True):
        clock.advance(3600)
    store = await open_store(tmp_path, clock=clock)
    told: asyncio.Queue[Expired] = asyncio.Queue()
    expiry = Expiry(store.queue, clock, told.put)
    task = asyncio.create_task(expiry.run())
    async with asyncio.timeout(30):
        first = await told.get()
    assert [lost.end for lost in first.lost] == [AttemptEnd.DEADLINE]  # the deadline passed in any case
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()


async def test_a_start_after_a_short_stop_loses_nothing_at_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with expiring(tmp_path, clock, confirmed=True):
        clock.advance(120)
    store = await open_store(tmp_path, clock=clock)
    told: asyncio.Queue[Expired] = asyncio.Queue()
    expiry = Expiry(store.queue, clock, told.put)
    task = asyncio.create_task(expiry.run())
    async with asyncio.timeout(30):
        assert (await told.get()).lost == ()
        assert [lost.end for lost in (await after(13, expiry, clock, told)).lost] == [AttemptEnd.RUNNER_LOST]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()


async def test_a_machine_that_was_suspended_waits_for_its_runners_first(tmp_path: Path) -> None:
    clock = ManualClock()
    async with expiring(tmp_path, clock, confirmed=True) as (expiry, _, _, told):
        assert (await after(5, expiry, clock, told)).lost == ()
        clock.advance(300)
        assert (await look(expiry, told)).lost == ()
        assert [lost.end for lost in (await after(13, expiry, clock, told)).lost] == [AttemptEnd.RUNNER_LOST]


async def test_a_store_that_is_busy_for_a_moment_does_not_end_the_loop(tmp_path: Path) -> None:
    clock = ManualClock()
    store = await open_store(tmp_path, clock=clock)

    class Busy:
        calls = 0

        async def expire(self, *, now: int, silence_ms: int) -> Expired:
            Busy.calls += 1
            if Busy.calls == 1:
                raise StoreBusy("The database is locked.")
            return Expired()

        async def next_expiry(self, *, silence_ms: int) -> int | None:
            return None

    told: asyncio.Queue[Expired] = asyncio.Queue()
    task = asyncio.create_task(Expiry(Busy(), clock, told.put).run())  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await told.get()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
