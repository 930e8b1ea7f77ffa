"""How many sandboxes are made ahead, and for whom."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from clawplane.domain.sessions import SessionOptions
from clawplane.runner.sessions.supply import fitting_size

GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "size"), [(0, 4), (GIB, 4), (8 * GIB, 22), (16 * GIB, 45), (64 * GIB, 64), (1024 * GIB, 64)]
)
def test_as_many_are_kept_as_a_fortieth_of_the_memory_holds_within_bounds(memory: int, size: int) -> None:
    assert fitting_size(memory) == size


async def test_a_ready_sandbox_that_has_died_is_thrown_away_and_the_next_one_taken(open_house: Any, begin: Any) -> None:
    house = await open_house(session_pool=2)
    async with asyncio.timeout(30):
        await house.pool.full()
    dead, left = house.pool._waiting["bare"]
    os.kill(dead.residence.resident.pid, signal.SIGKILL)
    await dead.residence.resident.wait()
    stay = await begin(house)
    assert house._lives[stay.spec.session].residence is left.residence
    async with asyncio.timeout(30):
        await house.pool.full()
    assert len(house.pool._waiting["bare"]) == 2


async def test_no_more_are_kept_than_sessions_may_live(open_house: Any) -> None:
    house = await open_house(session_pool=8, session_slots=1)
    async with asyncio.timeout(30):
        await house.pool.full()
        await house.sites.full()
    assert [len(each._waiting["bare"]) for each in (house.pool, house.sites)] == [1, 1]


async def test_a_session_with_a_workspace_is_given_no_ready_sandbox(open_house: Any) -> None:
    house = await open_house(session_pool=1)
    async with asyncio.timeout(30):
        await house.pool.full()
    assert house.pool.take(SessionOptions(profile="bare", workspace="mine")) is None
    assert len(house.pool._waiting["bare"]) == 1
