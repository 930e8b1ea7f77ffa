"""Jobs and the right to do them.

A job is *offered* to a runner, *confirmed* by it within the offer's time, and then leased until the runner falls silent
or the deadline passes. The fence is a number that is new with every offer, the nonce a random one beside it; every
later word of the runner carries the fence and is refused when it is not the lease's own. See docs/flows/lease.md.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from clawplane.domain.host_tasks import Reach
from clawplane.domain.ids import JobId, RunnerId

OFFER_MS = 10_000
HEARTBEAT_EVERY_MS = 3_000
SILENCE_MS = 12_000
"""A runner silent for this long has lost its leases; its jobs are offered elsewhere within 15 s of its death."""
SELF_STOP_MS = 10_000
"""A runner that could reach nobody for this long ends what it runs, before it can have been replaced."""


class JobKind(StrEnum):
    """What a runner can lease."""

    BUILD = "build"
    SUBTASK = "subtask"
    SESSION = "session"
    HOST = "host"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be queued. `spec` is immutable msgpack; `caps` the capability a runner must offer, such as `workers`.

    `ready_at` orders the queue (milliseconds; earlier first) and `timeout_ms` bounds one attempt from its confirmation.
    """

    id: JobId
    kind: JobKind
    subject: str
    """The run's or the version's id."""
    caps: str
    ready_at: int
    spec: bytes
    timeout_ms: int
    max_attempts: int = 3
    silence_ms: int | None = None
    """How long a lease outlives its runner's last word, where that is longer than SILENCE_MS."""


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a capability one connected runner can take now; with a reach, of all those that it matches."""

    runner: RunnerId
    caps: str
    count: int
    reach: Reach | None = None


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A job offered to a runner."""

    job: JobId
    kind: JobKind
    subject: str
    runner: RunnerId
    attempt: int
    fence: int
    nonce: int
    spec: bytes
    timeout_ms: int


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What proves that a word belongs to a lease."""

    job: JobId
    fence: int
    nonce: int


class AttemptEnd(StrEnum):
    """How one attempt ended, for the custody timeline."""

    FINISHED = "finished"
    DECLINED = "declined"
    OFFER_EXPIRED = "offer_expired"
    RUNNER_LOST = "runner_lost"
    DEADLINE = "deadline"
    ABORTED = "aborted"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner reports of a finished attempt; measured by the runner, never told by the guest.

    reason is the sandbox's verdict: exit, signal, timeout, memory, processes, output, cpu, aborted, setup; or traffic
    when the run's traffic limit was reached.
    """

    succeeded: bool
    reason: str
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    wall_ms: int = 0
    cpu_ms: int = 0
    peak_memory: int = 0
    traffic: int = 0
    """Bytes through the proxy, both ways."""
    result: bytes = b""
    """Kind-specific msgpack: a BuildResult for a build."""


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt, fenced. `batches` = the last batch numbers that must be stored before the end counts."""

    claim: Claim
    outcome: Outcome


class LostLease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that was taken back."""

    job: JobId
    kind: JobKind
    subject: str
    runner: RunnerId
    attempt: int
    fence: int
    end: AttemptEnd
    requeued: bool
    """False when it had no attempts left."""


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A lease as it stands."""

    job: JobId
    kind: JobKind
    subject: str
    runner: RunnerId
    attempt: int
    fence: int
    nonce: int
    confirmed: bool
    cancel: str | None
    deadline_at: int | None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a job's custody timeline. Times in milliseconds."""

    job: JobId
    attempt: int
    fence: int
    runner: RunnerId
    offered_at: int
    confirmed_at: int | None
    ended_at: int
    end: AttemptEnd
    outcome: Outcome | None


class RunnerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A runner as the control plane last heard of it."""

    id: RunnerId
    name: str
    version: str
    capabilities: tuple[str, ...]
    labels: dict[str, str]
    slots: dict[str, int]
    connected: bool
    last_seen: int
    draining: bool = False
