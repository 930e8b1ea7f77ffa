"""The runner's side of the conversation, without sockets: what is held, what is not durable yet, what to say next.

Frames come in through `receive`, frames to send come out of `take`; the caller brings the time (seconds of a clock that
goes on while the machine sleeps). What `receive` returns is for the daemon: frames about leases it really holds, in
order. Stale ones are swallowed, and leases that a Welcome does not name any more come out as Drop.

Rules that never break:
- Nothing is sent before Welcome but Hello. What was said while there was no link is said after the next Welcome.
- A batch is kept until Stored, an end until Ended; both are sent again after a reconnect, batches behind the stored one
  only. An end is sent when no batch of its job is waiting any more.
- `heard_at` is when the last *answered* heartbeat was sent: the control plane noted it later than that, so after
  `self_stop` seconds from then the leases may be gone to others, and what runs must end (`silent`, `give_up`). Host
  tasks have leases that last longer, and run on through a cut that ends Workers.
- The end of a host task is said even when its lease is gone: nothing was done twice yet, and the first report counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from clawplane.domain.batches import Batch, LogLine, ShippedRow
from clawplane.domain.host_tasks import HOST_SELF_STOP_MS
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import HEARTBEAT_EVERY_MS, SELF_STOP_MS, SILENCE_MS, Claim, Finish, JobKind, Offer, Outcome
from clawplane.domain.runs import HeaderItem
from clawplane.link.frames import (
    PROTOCOL,
    Cancel,
    Confirm,
    Confirmed,
    Decline,
    Draining,
    Drop,
    End,
    Ended,
    Free,
    Heard,
    Heartbeat,
    Hello,
    Noted,
    RunnerFrame,
    ServerFrame,
    Ship,
    Stored,
    Welcome,
)

_SELF_STOP_SHARE: Final = SELF_STOP_MS / SILENCE_MS


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a runner is and what it offers."""

    runner: RunnerId
    name: str
    version: str
    capabilities: tuple[str, ...]
    labels: dict[str, str]
    slots: dict[str, int]


@dataclass(slots=True)
class _Held:
    """One lease, from the confirmation of its offer to the answer to its end."""

    claim: Claim
    confirmed: bool = False
    last_batch: int = 0
    unstored: deque[Batch] = field(default_factory=deque)
    finish: Finish | None = None
    note: bytes | None = None
    host: bool = False


class RunnerSide:
    """The state of one runner's link; see the theory at the top of this file."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._held: dict[JobId, _Held] = {}
        self._outbox: deque[RunnerFrame] = deque()
        self._free: dict[str, int] = dict(identity.slots)
        self._unable: dict[str, str] = {}
        self._draining = False
        self._beat = 0
        self._beats: deque[tuple[int, float]] = deque()
        self._hello_at = 0.0
        self.welcomed = False
        """True between Welcome and the loss of the link."""
        self.heartbeat = HEARTBEAT_EVERY_MS / 1000
        """Seconds between heartbeats, as the last Welcome asked."""
        self.self_stop = SELF_STOP_MS / 1000
        self.heard_at = float("-inf")

    # What the runner says

    def hello(self, now: float) -> Hello:
        """Return the first frame of a new link and forget what was queued for the old one."""
        self.unlinked()
        self._hello_at = now
        me = self._identity
        return Hello(
            protocol=PROTOCOL,
            runner=me.runner,
            name=me.name,
            version=me.version,
            capabilities=me.capabilities,
            labels=me.labels,
            slots=me.slots,
            held=self.held(),
        )

    def holds(self, job: JobId, fence: int) -> bool:
        """Tell whether a lease or an offer that was taken is held, and its work has not ended."""
        held = self._mine(job, fence)
        return held is not None and held.finish is None

    def held(self) -> tuple[tuple[JobId, int], ...]:
        """Return the leases held as (job, fence)."""
        return tuple((job, held.claim.fence) for job, held in self._held.items())

    def confirm(self, offer: Offer) -> None:
        """Take an offer; Confirmed or Drop follows."""
        claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
        self._held[offer.job] = _Held(claim, host=offer.kind is JobKind.HOST)
        self._say(Confirm(claim=claim))

    def restore(self, finish: Finish) -> None:
        """Take in the end of a host task that an earlier life of this runner could not report."""
        self._held[finish.claim.job] = _Held(finish.claim, confirmed=True, finish=finish, host=True)

    def decline(self, offer: Offer, reason: str) -> None:
        """Give an offer back; without a link it simply expires."""
        self._say(Decline(claim=Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce), reason=reason))

    def ship(
        self,
        job: JobId,
        fence: int,
        rows: Sequence[ShippedRow],
        logs: Sequence[LogLine],
        header: tuple[HeaderItem, ...] | None,
    ) -> int | None:
        """Send the next batch of a lease and return its number; None when the lease is lost."""
        held = self._mine(job, fence)
        if held is None or held.finish is not None:
            return None
        held.last_batch += 1
        batch = Batch(job=job, fence=fence, seq=held.last_batch, rows=tuple(rows), logs=tuple(logs), header=header)
        held.unstored.append(batch)
        self._say(Ship(batch=batch))
        return batch.seq

    def end(self, job: JobId, fence: int, outcome: Outcome) -> bool:
        """Report the end of a lease, after its last batch is stored; False when the lease is lost."""
        held = self._mine(job, fence)
        if held is None:
            return False
        held.finish = Finish(claim=held.claim, outcome=outcome)
        self._end_when_stored(held)
        return True

    def note(self, job: JobId, fence: int, body: bytes) -> None:
        """Say how a session stands, now and after every reconnect."""
        held = self._mine(job, fence)
        if held is not None and held.finish is None:
            held.note = body
            self._say(Noted(job=job, fence=fence, body=body))

    def free(self, free: dict[str, int], *, tell: bool = True) -> None:
        """Note how many slots are free now; heartbeats say it, and a Free at once when `tell`."""
        self._free = dict(free)
        if tell:
            self._say_free()

    def unable(self, reasons: dict[str, str], free: dict[str, int]) -> None:
        """Say which capabilities are not offered and why, now and after every reconnect, and what is free then."""
        self._unable = dict(reasons)
        self.free(free)

    def drain(self) -> None:
        """Ask for no more offers, now and after every reconnect."""
        self._draining = True
        self._say(Draining())

    def beat(self, now: float) -> None:
        """Give a sign of life."""
        self._beat += 1
        self._beats.append((self._beat, now))
        self._say(Heartbeat(held=self.held(), free=self._free, beat=self._beat))

    # What it hears

    def receive(self, frame: ServerFrame, now: float) -> list[ServerFrame]:
        """Take a frame in and return what the daemon must hear of it."""
        match frame:
            case Welcome():
                return self._welcome(frame)
            case Heard():
                self._heard(frame.beat)
                return []
            case Confirmed():
                held = self._mine(frame.job, frame.fence)
                if held is None or held.confirmed:
                    return []
                held.confirmed = True
                return [frame]
            case Stored():
                return [frame] if self._stored(frame) else []
            case Ended() | Drop():
                if self._mine(frame.job, frame.fence) is None:
                    return []
                del self._held[frame.job]
                return [frame]
            case Cancel():
                return [frame] if self._mine(frame.job, frame.fence) else []
            case _:
                return [frame]

    def unlinked(self) -> None:
        """Note that the link is gone; what is held stays."""
        self.welcomed = False
        self._outbox.clear()
        self._beats.clear()

    def take(self) -> list[RunnerFrame]:
        """Return what is to be sent now, in order, and forget it."""
        frames = list(self._outbox)
        self._outbox.clear()
        return frames

    # Silence

    def silent(self, now: float) -> bool:
        """Tell whether leases may have gone to others since the last answered word."""
        return now >= self.patience_ends

    @property
    def running(self) -> bool:
        """Tell whether any lease is held whose work has not ended."""
        return any(held.finish is None for held in self._held.values())

    @property
    def patience_ends(self) -> float:
        """Return when the first lease may have gone to others whose work has not ended; infinite when there is none."""
        left = (self._patience(held) for held in self._held.values() if held.finish is None)
        shortest = min(left, default=None)
        return float("inf") if shortest is None else self.heard_at + shortest

    def unanswered(self, now: float) -> float:
        """Return for how many seconds the oldest heartbeat of this link has waited for its answer, 0 when none does."""
        return now - self._beats[0][1] if self._beats else 0.0

    def give_up(self, now: float) -> list[ServerFrame]:
        """Forget every lease that may be gone and whose work has not ended, and return a Drop for each.

        An attempt that has ended keeps its end: nothing runs any more, and if the lease still stands the result counts.
        """
        silence = now - self.heard_at
        lost = [held for held in self._held.values() if held.finish is None and silence >= self._patience(held)]
        for held in lost:
            del self._held[held.claim.job]
        return [
            Drop(
                job=held.claim.job,
                fence=held.claim.fence,
                reason=f"nothing was heard from the control plane for {self._patience(held):g} s",
            )
            for held in lost
        ]

    # Inside

    def _patience(self, held: _Held) -> float:
        return max(self.self_stop, HOST_SELF_STOP_MS / 1000) if held.host else self.self_stop

    def _say_free(self) -> None:
        self._say(Free(free=self._free, unable=self._unable))

    def _say(self, frame: RunnerFrame) -> None:
        if self.welcomed:
            self._outbox.append(frame)

    def _mine(self, job: JobId, fence: int) -> _Held | None:
        held = self._held.get(job)
        return held if held is not None and held.claim.fence == fence else None

    def _welcome(self, frame: Welcome) -> list[ServerFrame]:
        self.welcomed = True
        self.heartbeat = frame.heartbeat_ms / 1000
        self.self_stop = frame.silence_ms * _SELF_STOP_SHARE / 1000
        self.heard_at = self._hello_at
        stored = {(job, fence): seq for job, fence, seq in frame.kept}
        heard: list[ServerFrame] = [frame]
        for job, held in list(self._held.items()):
            fence = held.claim.fence
            if (job, fence) in stored:
                heard += self._resume(held, stored[job, fence])
            elif held.host and held.finish is not None:
                held.unstored.clear()
                self._end_when_stored(held)
            elif held.confirmed:
                del self._held[job]
                heard.append(Drop(job=job, fence=fence, reason="the lease was lost while there was no link"))
            else:
                self._say(Confirm(claim=held.claim))
        if self._draining:
            self._say(Draining())
        self._say_free()
        return heard

    def _resume(self, held: _Held, stored: int) -> list[ServerFrame]:
        """Say again what the other end has not stored; an answer to Confirm that got lost is asked for again."""
        claim = held.claim
        heard: list[ServerFrame] = []
        if not held.confirmed:
            self._say(Confirm(claim=claim))
        if held.unstored and held.unstored[0].seq <= stored:
            news = Stored(job=claim.job, fence=claim.fence, seq=stored)
            self._drop_stored(held, stored)
            heard.append(news)
        for batch in held.unstored:
            self._say(Ship(batch=batch))
        if held.note is not None and held.finish is None:
            self._say(Noted(job=claim.job, fence=claim.fence, body=held.note))
        self._end_when_stored(held)
        return heard

    def _heard(self, beat: int) -> None:
        while self._beats and self._beats[0][0] <= beat:
            _, self.heard_at = self._beats.popleft()

    def _stored(self, frame: Stored) -> bool:
        held = self._mine(frame.job, frame.fence)
        if held is None or not held.unstored or held.unstored[0].seq > frame.seq:
            return False
        self._drop_stored(held, frame.seq)
        self._end_when_stored(held)
        return True

    @staticmethod
    def _drop_stored(held: _Held, seq: int) -> None:
        while held.unstored and held.unstored[0].seq <= seq:
            held.unstored.popleft()

    def _end_when_stored(self, held: _Held) -> None:
        if held.finish is not None and not held.unstored:
            self._say(End(finish=held.finish))
