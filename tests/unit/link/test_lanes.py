"""Order within a lane, concurrency between lanes, bounds over all."""

from __future__ import annotations

import asyncio

import pytest

from clawplane.link.lanes import Lanes


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def lanes(errors) -> Lanes:
    return Lanes(most=3, most_bytes=100, on_error=errors.append)


def step(done: list[str], name: str, gate: asyncio.Event | None = None):
    async def work() -> None:
        if gate is not None:
            await gate.wait()
        done.append(name)

    return work


async def test_one_lane_keeps_its_order_and_another_overtakes_it(lanes: Lanes) -> None:
    done: list[str] = []
    gate = asyncio.Event()
    await lanes.submit("a", 1, step(done, "a1", gate))
    await lanes.submit("a", 1, step(done, "a2"))
    await lanes.submit("b", 1, step(done, "b1"))
    await asyncio.wait_for(_until(lambda: done == ["b1"]), 5)
    gate.set()
    await lanes.finish(within=5)
    assert done == ["b1", "a1", "a2"]


async def test_submit_waits_while_too_many_are_in_flight(lanes: Lanes) -> None:
    gate = asyncio.Event()
    for name in "abc":
        await lanes.submit(name, 1, step([], name, gate))
    fourth = asyncio.create_task(lanes.submit("d", 1, step([], "d")))
    await asyncio.sleep(0)
    assert not fourth.done()
    gate.set()
    await asyncio.wait_for(fourth, 5)
    await lanes.finish(within=5)
    assert lanes.in_flight == 0


async def test_submit_waits_while_too_many_bytes_are_in_flight_but_lets_one_giant_pass_alone(lanes: Lanes) -> None:
    gate = asyncio.Event()
    await asyncio.wait_for(lanes.submit("giant", 1000, step([], "giant", gate)), 5)
    small = asyncio.create_task(lanes.submit("small", 1, step([], "small")))
    await asyncio.sleep(0)
    assert not small.done()
    gate.set()
    await asyncio.wait_for(small, 5)
    await lanes.finish(within=5)


async def test_an_error_is_handed_on_and_the_lane_goes_on(lanes: Lanes, errors: list[Exception]) -> None:
    done: list[str] = []

    async def fail() -> None:
        raise ValueError("broken")

    await lanes.submit("a", 1, fail)
    await lanes.submit("a", 1, step(done, "a2"))
    await lanes.finish(within=5)
    assert ([str(error) for error in errors], done) == (["broken"], ["a2"])


async def test_finish_abandons_what_takes_too_long(lanes: Lanes) -> None:
    await lanes.submit("a", 1, step([], "never", asyncio.Event()))
    await asyncio.wait_for(lanes.finish(within=0.01), 5)
    assert lanes.in_flight == 0


async def _until(condition) -> None:
    while not condition():
        await asyncio.sleep(0)
