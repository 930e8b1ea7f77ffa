"""Turn frames into bytes and back; whatever comes from the other end is checked before anybody acts on it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from clawplane.domain.batches import Batch
from clawplane.domain.leases import Claim, Outcome
from clawplane.link.flow import MAX_ANSWER, MAX_TOLD
from clawplane.link.frames import (
    MAX_FRAME,
    WINDOW,
    Answered,
    Confirm,
    Decline,
    End,
    Failed,
    Free,
    Heartbeat,
    Hello,
    Noted,
    RunnerFrame,
    ServerFrame,
    Ship,
    Told,
    Took,
)

MAX_SMALL_FRAME: Final = 1 << 20
"""Bytes of a frame that carries neither rows nor a result."""

_MAX_JOB: Final = 1 << 53
_MAX_INT: Final = 1 << 63
_MAX_MEASURE: Final = 1 << 53
"""Milliseconds and bytes; many of them are added up in one column."""

_MAX_SLOTS: Final = 1 << 13
_MAX_CAPABILITIES: Final = 64
_MOST: Final[Mapping[type, int]] = MappingProxyType({Told: MAX_TOLD, Answered: MAX_ANSWER})


class LinkError(Exception):
    """What the other end said is no part of the conversation; `reason` is safe to send back."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Codec:
    """Encode own frames, decode the other end's. Holds msgspec's compiled codecs; one per process is enough."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._from_runner: msgspec.msgpack.Decoder[RunnerFrame] = msgspec.msgpack.Decoder(RunnerFrame)
        self._from_server: msgspec.msgpack.Decoder[ServerFrame] = msgspec.msgpack.Decoder(ServerFrame)

    def encode(self, frame: RunnerFrame | ServerFrame) -> bytes:
        """Return the frame as msgpack."""
        return self._encoder.encode(frame)

    def from_runner(self, data: bytes) -> RunnerFrame:
        """Return what a runner said; raises LinkError and nothing else."""
        if len(data) > MAX_FRAME:
            raise LinkError(f"a frame of {len(data)} bytes is longer than {MAX_FRAME}")
        try:
            frame = self._from_runner.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MemoryError, OverflowError) as error:
            raise LinkError(f"a frame cannot be read: {str(error)[:200]}") from None
        if len(data) > MAX_SMALL_FRAME and not isinstance(frame, Ship | End):
            most = _MOST.get(type(frame), 0) + MAX_SMALL_FRAME
            if len(data) > most:
                raise LinkError(f"a {type(frame).__name__} of {len(data)} bytes is longer than {most}")
        _check(frame)
        return frame

    def from_server(self, data: bytes) -> ServerFrame:
        """Return what the control plane said; raises LinkError and nothing else."""
        try:
            return self._from_server.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MemoryError, OverflowError) as error:
            raise LinkError(f"a frame cannot be read: {str(error)[:200]}") from None


def _check(frame: RunnerFrame) -> None:
    """Refuse numbers that no database column holds and that no control plane ever handed out."""
    if isinstance(frame, Ship):
        _check_batch(frame.batch)
    elif isinstance(frame, End):
        _check_claim(frame.finish.claim)
        _check_outcome(frame.finish.outcome)
    elif isinstance(frame, Confirm | Decline):
        _check_claim(frame.claim)
    elif isinstance(frame, Hello | Heartbeat):
        for job, fence in frame.held:
            _check_lease(job, fence)
    elif isinstance(frame, Told | Answered | Failed | Took):
        _check_ask(frame)
    elif isinstance(frame, Noted):
        _check_lease(frame.job, frame.fence)
    if isinstance(frame, Heartbeat | Free):
        _check_slots(frame.free)
    elif isinstance(frame, Hello):
        _check_slots(frame.slots)
        if len(frame.capabilities) > _MAX_CAPABILITIES:
            raise LinkError("a number of capabilities is out of range")


def _check_ask(frame: Told | Answered | Failed | Took) -> None:
    if not (0 <= frame.job < _MAX_JOB and 0 <= frame.fence < _MAX_INT and 0 < frame.ask < _MAX_INT):
        raise LinkError("the number of a question is out of range")
    if isinstance(frame, Told) and len(frame.body) > MAX_TOLD:
        raise LinkError(f"an event of {len(frame.body)} bytes is longer than {MAX_TOLD}")
    if isinstance(frame, Took) and not 0 < frame.count <= WINDOW:
        raise LinkError("a number of frames taken is out of range")


def _check_slots(slots: Mapping[str, int]) -> None:
    """Refuse counts that nobody means: the queue makes a seat for every free slot."""
    if len(slots) > _MAX_CAPABILITIES or not all(-_MAX_SLOTS < count < _MAX_SLOTS for count in slots.values()):
        raise LinkError("a number of slots is out of range")


def _check_outcome(outcome: Outcome) -> None:
    measures = (outcome.wall_ms, outcome.cpu_ms, outcome.peak_memory, outcome.traffic)
    codes = (outcome.exit_code or 0, outcome.signal or 0)
    if not all(0 <= measure < _MAX_MEASURE for measure in measures) or not all(abs(code) < 1 << 31 for code in codes):
        raise LinkError("a number of an outcome is out of range")


def _check_batch(batch: Batch) -> None:
    _check_lease(batch.job, batch.fence)
    if not 1 <= batch.seq < _MAX_INT:
        raise LinkError(f"batch number {batch.seq} is out of range")
    for line in batch.logs:
        if not (1 <= line.type <= 4 and 0 <= line.at < _MAX_INT):
            raise LinkError("a log line's type or time is out of range")


def _check_claim(claim: Claim) -> None:
    _check_lease(claim.job, claim.fence)
    if not 0 <= claim.nonce < _MAX_INT:
        raise LinkError("a nonce is out of range")


def _check_lease(job: int, fence: int) -> None:
    if not (0 < job < _MAX_JOB and 0 <= fence < _MAX_INT):
        raise LinkError("a job or fence number is out of range")
