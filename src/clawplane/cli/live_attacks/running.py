"""Try the attacks one after the other, and look after each whether the plane and a neighbour are as before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import httpx

from clawplane.cli.live_attacks import control, files, network, sessions
from clawplane.cli.live_attacks.items import Broken, LiveAttack, NotTried
from clawplane.cli.live_attacks.plane import LiveSession, PrivatePlane, private_plane
from clawplane.domain.errors import ClawplaneError
from clawplane.sandbox.selftest import Result
from clawplane.sandbox.selftest.report import Status

_LONGEST_SECONDS: Final = 90.0


def live_attacks() -> list[LiveAttack]:
    """Return every attack that needs a whole plane, by number."""
    found = [*files.attacks(), *sessions.attacks(), *network.attacks(), *control.attacks()]
    return sorted(found, key=lambda each: each.number)


async def attack_plane(tell: Callable[[Result], None]) -> list[Result]:
    """Start a plane and try everything on it; raises Unavailable when it cannot start."""
    results = []
    async with private_plane() as plane:
        neighbour = await _neighbour(plane)
        for each in live_attacks():
            result = await _tried(plane, neighbour, each)
            tell(result)
            results.append(result)
    return results


async def _neighbour(plane: PrivatePlane) -> LiveSession:
    """Return a session that lives beside all attacks and must notice none of them."""
    answer = await plane.http.post("/v1/sessions", json={"profile": "bare", "sleep_after": 0})
    neighbour = LiveSession(plane.http, answer.json()["id"])
    await neighbour.python("mine = 'untouched'\nopen('own', 'w').write(mine)")
    return neighbour


async def _tried(plane: PrivatePlane, neighbour: LiveSession, each: LiveAttack) -> Result:
    begun = time.monotonic()
    status: Status = "held"
    happened = ""
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            await each.attempt(plane)
            await plane.leave()
            await _as_before(plane, neighbour)
    except NotTried as reason:
        status, happened = "not tried", str(reason)
    except Broken as reason:
        status, happened = "broken", str(reason)
    except TimeoutError:
        status, happened = "broken", f"it did not end within {_LONGEST_SECONDS:.0f} s"
    except (httpx.HTTPError, ClawplaneError, LookupError, ValueError, OSError) as error:
        status, happened = "broken", f"the plane answered in no way it should: {type(error).__name__}: {error}"[:300]
    return Result(
        number=each.number,
        title=each.title,
        expected=each.expected,
        status=status,
        happened=happened,
        critical=True,
        milliseconds=round((time.monotonic() - begun) * 1000),
    )


async def _as_before(plane: PrivatePlane, neighbour: LiveSession) -> None:
    if not await plane.healthy():
        raise Broken("the control plane does not answer any more")
    if not plane.canary_holds():
        raise Broken("a file of the host was changed")
    if await neighbour.value("mine + open('own').read()") != "'untoucheduntouched'":
        raise Broken("a neighbour's session is not as it was")
