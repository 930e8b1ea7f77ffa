"""The runner protocol: what the two ends of a link say to each other, as tagged msgpack.

A runner opens one WebSocket to `/v1/runner/link` with its token as Bearer and says Hello. From then on both sides send
frames when they have something to say; nothing is asked twice. Every word about a job carries its fence, and a word
with a stale fence is answered with Drop: kill it, send nothing more about it. See docs/flows/link.md.
"""

from __future__ import annotations

from typing import Final

import msgspec

from clawplane.domain.batches import Batch
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, Finish, Offer

PROTOCOL: Final = 1
WINDOW: Final = 64
CHUNK: Final = 64 << 10
MAX_FRAME: Final = 96 << 20
"""Bytes of one frame at the most; a single row may be up to 64 MiB."""


# Runner -> control plane


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first frame: who this is, what it can do, and which leases it still holds from before a reconnect."""

    protocol: int
    runner: RunnerId
    name: str
    version: str
    capabilities: tuple[str, ...]
    labels: dict[str, str]
    slots: dict[str, int]
    """Total slots by capability, such as {"workers": 8, "builds": 2}."""
    held: tuple[tuple[JobId, int], ...] = ()


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A sign of life with the leases held (job, fence) and the free slots by capability."""

    held: tuple[tuple[JobId, int], ...]
    free: dict[str, int]
    beat: int = 0
    """Counts up; the answer carries it, so that the runner knows since when it is surely not forgotten."""


class Free(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The free slots have changed, or what this runner cannot offer has."""

    free: dict[str, int]
    unable: dict[str, str] = {}
    """Why capabilities that were announced are not offered now, in a sentence each."""


class Confirm(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take an offer."""

    claim: Claim


class Decline(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Give an offer back, with the reason."""

    claim: Claim
    reason: str


class Ship(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A batch of rows and log lines."""

    batch: Batch


class End(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The end of an attempt; sent after its last batch was acknowledged, repeated until answered."""

    finish: Finish


class Draining(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """No more offers, please: this runner finishes what it has and leaves."""


class Told(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One piece of what a question streams, ahead of More by no more than the credit (see flow.py)."""

    job: JobId
    fence: int
    ask: int
    body: bytes


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to a question: msgpack of what domain.asks.METHODS says."""

    job: JobId
    fence: int
    ask: int
    body: bytes


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A question that cannot be answered: an error of the one tree, by its code."""

    job: JobId
    fence: int
    ask: int
    code: str
    message: str
    hint: str = ""
    details: tuple[str, ...] = ()


class Took(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The runner has taken Fed frames of a question, worth `count` credits."""

    job: JobId
    fence: int
    ask: int
    count: int


class Noted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A session's LiveState (msgpack), said unasked whenever it changed."""

    job: JobId
    fence: int
    body: bytes


# Control plane -> runner


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A question to a live session, or with job 0 to the runner; `ask` is new with each question of this link."""

    job: JobId
    fence: int
    ask: int
    method: str
    body: bytes
    quiet: bool = False
    """Nobody reads what it streams, so nothing is told."""


class Fed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Data for a question that takes some; at most WINDOW of them, of at most CHUNK bytes, ahead of Took."""

    job: JobId
    fence: int
    ask: int
    body: bytes
    last: bool = False


class More(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The caller has taken Told frames of a question, worth `count` credits."""

    job: JobId
    fence: int
    ask: int
    count: int


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nobody waits for this answer any more."""

    job: JobId
    fence: int
    ask: int


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to Hello: timing, and for each lease held how far its batches are stored. Leases absent are lost."""

    heartbeat_ms: int
    silence_ms: int
    kept: tuple[tuple[JobId, int, int], ...] = ()
    """(job, fence, stored up to batch number)"""


class Heard(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The heartbeat of this number is noted: the leases hold for `silence_ms` from when it was sent, at the least."""

    beat: int


class Offered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A job; confirm within `offer_ms` or it goes elsewhere."""

    offer: Offer
    offer_ms: int


class Confirmed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The lease is yours: start."""

    job: JobId
    fence: int


class Drop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The lease is not yours (any more): kill what runs, send nothing more about it."""

    job: JobId
    fence: int
    reason: str


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stop this job: terminate, kill, then report the end."""

    job: JobId
    fence: int
    reason: str


class Stored(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Batches up to `seq` are durable."""

    job: JobId
    fence: int
    seq: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The end is durable; forget the job."""

    job: JobId
    fence: int


class Rejected(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """This runner may not connect: say why and close."""

    reason: str


RunnerFrame = (
    Hello | Heartbeat | Free | Confirm | Decline | Ship | End | Draining | Told | Answered | Failed | Took | Noted
)
ServerFrame = (
    Welcome | Heard | Offered | Confirmed | Drop | Cancel | Stored | Ended | Rejected | Asked | Fed | More | Withdrawn
)
