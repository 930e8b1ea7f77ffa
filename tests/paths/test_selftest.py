"""The half of `clawplane selftest` that attacks a whole plane: a real one, and what its report says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from clawplane.cli.live_attacks.items import Broken, LiveAttack, NotTried
from clawplane.cli.live_attacks.plane import LiveSession, PrivatePlane, private_plane
from clawplane.cli.live_attacks.running import _neighbour, _tried, live_attacks

QUICK = {1, 2, 3, 6, 33, 35, 43, 55, 61, 63, 65}
"""Numbers whose attacks are tried here; all of them take a minute and a half."""


@pytest.fixture
async def plane() -> AsyncIterator[PrivatePlane]:
    async with private_plane() as started:
        yield started


async def test_attacks_on_a_plane_fail_and_what_went_wrong_is_seen(plane: PrivatePlane) -> None:
    neighbour = await _neighbour(plane)
    for each in live_attacks():
        if each.number in QUICK:
            result = await _tried(plane, neighbour, each)
            assert result.status == "held", (each.title, result.happened)

    async def succeeds(_: PrivatePlane) -> None:
        raise Broken("it got in")

    async def cannot(_: PrivatePlane) -> None:
        raise NotTried("no such thing here")

    async def harms_the_neighbour(_: PrivatePlane) -> None:
        await neighbour.python("mine = 'touched'")

    async def harms_the_host(attacked: PrivatePlane) -> None:
        await neighbour.python("mine = 'untouched'")
        attacked.canary.write_text("touched")

    found = [
        await _verdict(plane, neighbour, attempt) for attempt in (succeeds, cannot, harms_the_neighbour, harms_the_host)
    ]
    assert found == [
        ("broken", "it got in"),
        ("not tried", "no such thing here"),
        ("broken", "a neighbour's session is not as it was"),
        ("broken", "a file of the host was changed"),
    ]


async def _verdict(
    plane: PrivatePlane, neighbour: LiveSession, attempt: Callable[[PrivatePlane], Awaitable[None]]
) -> tuple[str, str]:
    attack = LiveAttack(number=1, title="t", expected="e", attempt=attempt)
    result = await _tried(plane, neighbour, attack)
    return result.status, result.happened
