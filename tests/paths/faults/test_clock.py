"""A clock that jumps by an hour, or a store that refuses for a while: the living keep their leases, the dead do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clawplane.domain.errors import StoreBusy
from clawplane.domain.ids import JobId, RunnerId, new_ulid
from clawplane.domain.leases import HEARTBEAT_EVERY_MS, OFFER_MS, Claim, JobKind, NewJob, Offer, Want
from clawplane.domain.ports import Expired
from clawplane.flows import expiry
from clawplane.flows.steady_clock import SteadyClock
from clawplane.store import Store, open_store

ALIVE, DEAD = RunnerId(new_ulid(1)), RunnerId(new_ulid(2))
HOUR = 3600.0
HOURS = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])


class TwoClocks:
    """A wall clock that can be set and a monotonic one that cannot."""

    def __init__(self) -> None:
        self.wall = 1_780_000_000_000
        self.mono = 1000.0

    def now_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def set(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.wall += round(seconds * 1000)

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.set(seconds)
        self.mono += seconds


class Here:
    """A store with two leases, of a runner that goes on to beat and of one that died, and the expiry loop over it."""

    def __init__(self, store: Store, source: TwoClocks) -> None:
        self.store = store
        self.source = source
        self.clock = SteadyClock(source)
        self.refusing = False
        self.told: asyncio.Queue[Expired] = asyncio.Queue()
        self.expiry = expiry.Expiry(self, self.clock, self.told.put)  # type: ignore[arg-type]

    async def lease(self) -> dict[RunnerId, Offer]:
        """Give each runner a confirmed job that may take two hours."""
        queue, now = self.store.queue, self.clock.now_ms()
        for number in (1, 2):
            job = NewJob(
                id=JobId(number),
                kind=JobKind.BUILD,
                subject="w@v",
                caps="builds",
                ready_at=now,
                spec=b"",
                timeout_ms=7_200_000,
            )
            await queue.submit([job])
        wants = [Want(runner=runner, caps="builds", count=1) for runner in (ALIVE, DEAD)]
        offers = {offer.runner: offer for offer in await queue.offer(wants, now=now, offer_ms=OFFER_MS)}
        for runner, offer in offers.items():
            claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
            assert await queue.confirm(claim, runner, now=now)
            await queue.heartbeat(runner, [(offer.job, offer.fence)], now=now)
        return offers

    async def after(self, seconds: int) -> list[RunnerId]:
        """Let time pass with one runner beating, and return whose leases were lost meanwhile."""
        lost: list[RunnerId] = []
        for second in range(seconds):
            self.source.pass_(1)
            if second % (HEARTBEAT_EVERY_MS // 1000) == 0 and not self.refusing:
                await self.store.queue.heartbeat(ALIVE, [], now=self.clock.now_ms())
            lost += [lease.runner for lease in (await self.look()).lost]
        return lost

    async def look(self) -> Expired:
        """Let the loop look at the time as it is now, and return what it found."""
        while not self.told.empty():
            self.told.get_nowait()
        self.expiry.not_later_than(0)
        async with asyncio.timeout(30):
            return await self.told.get()

    # The queue as the loop sees it

    async def expire(self, *, now: int, silence_ms: int) -> Expired:
        if self.refusing:
            self.told.put_nowait(Expired())
            raise StoreBusy("The database is locked by another process.")
        return await self.store.queue.expire(now=now, silence_ms=silence_ms)

    async def next_expiry(self, *, silence_ms: int) -> int | None:
        return await self.store.queue.next_expiry(silence_ms=silence_ms)


@asynccontextmanager
async def expiring(directory: Path, source: TwoClocks) -> AsyncIterator[Here]:
    """Yield a running expiry loop over the store in a directory."""
    store = await open_store(directory, clock=source)
    here = Here(store, source)
    task = asyncio.create_task(here.expiry.run())
    async with asyncio.timeout(30):
        await here.told.get()
    try:
        yield here
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


@HOURS
async def test_an_hours_jump_expires_no_live_lease_and_keeps_no_dead_one(tmp_path: Path, jump: float) -> None:
    async with expiring(tmp_path, TwoClocks()) as here:
        await here.lease()
        assert await here.after(6) == []
        here.source.set(jump)
        assert await here.after(4) == []
        assert await here.after(4) == [DEAD]
        assert await here.after(30) == []
        (left,) = await here.store.queue.leases()
        assert left.runner == ALIVE


@HOURS
async def test_jumps_there_and_back_again_change_nothing_either(tmp_path: Path, jump: float) -> None:
    async with expiring(tmp_path, TwoClocks()) as here:
        await here.lease()
        for _ in range(3):
            here.source.set(jump)
            assert DEAD not in await here.after(2)
            here.source.set(-jump)
            assert ALIVE not in await here.after(1)
        assert await here.after(6) == [DEAD]


@HOURS
async def test_a_control_plane_restarted_on_a_clock_that_was_set_keeps_the_living_only(
    tmp_path: Path, jump: float
) -> None:
    source = TwoClocks()
    async with expiring(tmp_path, source) as here:
        await here.lease()
        assert await here.after(3) == []
    source.set(jump)
    async with expiring(tmp_path, source) as here:
        assert await here.after(11) == []  # both get the time to come back
        assert await here.after(4) == [DEAD]
        assert await here.after(20) == []


async def test_a_store_that_could_note_nobody_for_a_while_takes_nobody_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_RETRY_SECONDS", 0.01)
    async with expiring(tmp_path, TwoClocks()) as here:
        await here.lease()
        assert await here.after(3) == []
        here.refusing = True
        for _ in range(6):
            here.source.pass_(HEARTBEAT_EVERY_MS / 1000)
            await here.look()
        here.refusing = False
        assert (await here.look()).lost == ()
        assert await here.after(10) == []
        assert await here.after(4) == [DEAD]
        assert await here.after(20) == []
