"""Take the earliest ready jobs out of the queue for those who want some, and number them.

A plain want is for one capability: its jobs go to the runners in turn. A want with a reach is for every capability
that the reach matches, out of one budget: host tasks may ask for a runner by name or by labels, and the earliest that
anybody present can be given is taken first, whatever it asks for.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from clawplane.domain.host_tasks import reaches
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Offer, Want
from clawplane.store.database import Transaction
from clawplane.store.leases import KINDS

_NONCE_BYTES = 8
_NONCE_SHIFT = 11  # 53 bits, which every JSON reader keeps whole


_REACHED = "host@"


class Pick(msgspec.Struct, gc=False):
    """A job that was taken out of the queue for a runner."""

    ready_at: int
    job: JobId
    attempts: int
    kind: str
    subject: str
    timeout_ms: int
    silence_ms: int | None
    spec: bytes
    caps: str
    runner: RunnerId = RunnerId("")


async def pick(tx: Transaction, wants: Sequence[Want], places: dict[JobId, int] | None = None) -> list[Pick]:
    """Take ready jobs for `wants` out of the queue; the counters are the caller's.

    `places` is filled with the index of the want with a reach that each job was taken for.
    """
    by_caps: dict[str, list[Want]] = defaultdict(list)
    reaching: list[Want] = []
    for want in wants:
        if want.count <= 0:
            continue
        if want.reach is None:
            by_caps[want.caps].append(want)
        else:
            reaching.append(want)
    picks: list[Pick] = []
    for caps, of_caps in by_caps.items():
        picks += await _pick_in_turn(tx, caps, of_caps)
    if reaching:
        picks += await _pick_by_reach(tx, reaching, {} if places is None else places)
    return picks


async def _pick_in_turn(tx: Transaction, caps: str, wants: Sequence[Want]) -> list[Pick]:
    most = sum(want.count for want in wants)
    picked = [Pick(*row) for row in await tx.fetch("pick_ready", {"caps": caps, "count": most})]
    if picked:
        last = picked[-1]
        await tx.execute("delete_ready_upto", {"caps": caps, "ready_at": last.ready_at, "job": last.job})
    for each, runner in zip(picked, _seats(wants, len(picked)), strict=False):
        each.runner = runner
    return picked


async def _pick_by_reach(tx: Transaction, wants: Sequence[Want], places: dict[JobId, int]) -> list[Pick]:
    waiting = [caps for (caps,) in await tx.fetch("waiting_caps") if caps.startswith(_REACHED)]
    matches = {
        caps: [index for index, want in enumerate(wants) if want.reach and reaches(want.reach, caps)]
        for caps in waiting
    }
    most = sum(want.count for want in wants)
    choice = Counter(index for able in matches.values() for index in able)
    candidates: list[Pick] = []
    for caps, able in matches.items():
        if able:
            candidates += [Pick(*row) for row in await tx.fetch("pick_ready", {"caps": caps, "count": most})]
    candidates.sort(key=lambda each: (each.ready_at, each.job))
    given: Counter[int] = Counter()
    picks: list[Pick] = []
    for candidate in candidates:
        able_now = [index for index in matches[candidate.caps] if given[index] < wants[index].count]
        if able_now:
            # in turn; of equals, who has the least choice: others may have what only they can do
            index = min(able_now, key=lambda each: (given[each], choice[each], each))
            given[index] += 1
            places[candidate.job] = index
            candidate.runner = wants[index].runner
            picks.append(candidate)
            if len(picks) == most:
                break
    await tx.many("delete_ready", [(each.caps, each.ready_at, each.job) for each in picks])
    return picks


async def number(tx: Transaction, picks: Sequence[Pick]) -> list[Offer]:
    """Give each pick a new fence and nonce; the fence's counter is raised in the same transaction."""
    if not picks:
        return []
    ((last_fence,),) = await tx.fetch("next_value", {"name": "fence", "step": len(picks)})
    fences = range(last_fence - len(picks) + 1, last_fence + 1)
    return [
        Offer(
            job=each.job,
            kind=KINDS[each.kind],
            subject=each.subject,
            runner=each.runner,
            attempt=each.attempts + 1,
            fence=fence,
            nonce=nonce,
            spec=each.spec,
            timeout_ms=each.timeout_ms,
        )
        for each, fence, nonce in zip(picks, fences, _nonces(len(picks)), strict=True)
    ]


def _seats(wants: Sequence[Want], enough: int) -> list[RunnerId]:
    """Return the runners in the order in which they get jobs: in turn, while they want more, for `enough` jobs."""
    left = [(want.runner, want.count) for want in wants]
    seats: list[RunnerId] = []
    while left and len(seats) < enough:
        seats += [runner for runner, _ in left]
        left = [(runner, count - 1) for runner, count in left if count > 1]
    return seats


def _nonces(count: int) -> list[int]:
    noise = os.urandom(count * _NONCE_BYTES)
    return [
        int.from_bytes(noise[at : at + _NONCE_BYTES], "big") >> _NONCE_SHIFT
        for at in range(0, len(noise), _NONCE_BYTES)
    ]
