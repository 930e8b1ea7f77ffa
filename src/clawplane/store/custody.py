"""Read attempts back: who had a job, when, and how it ended."""

from __future__ import annotations

import msgspec

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Attempt, AttemptEnd, Outcome
from clawplane.store.database import Row

_decode = msgspec.msgpack.Decoder(Outcome).decode


def attempt_of(row: Row) -> Attempt:
    """Return one entry of a custody timeline."""
    job, attempt, fence, runner, offered_at, confirmed_at, ended_at, ended, outcome = row
    return Attempt(
        job=JobId(job),
        attempt=attempt,
        fence=fence,
        runner=RunnerId(runner),
        offered_at=offered_at,
        confirmed_at=confirmed_at,
        ended_at=ended_at,
        end=AttemptEnd(ended),
        outcome=None if outcome is None else _decode(outcome),
    )
