"""What is remembered of runners, and which of them are there."""

from __future__ import annotations

from asyncio import Future
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple, assert_never

import msgspec

from clawplane.domain.host_tasks import Reach
from clawplane.domain.ids import POLLS, JobId, RunnerId
from clawplane.domain.leases import HEARTBEAT_EVERY_MS, SILENCE_MS, JobKind, RunnerRecord, Want
from clawplane.domain.ports import HeartbeatResult, Queue, RunnerConnection
from clawplane.domain.session_rules import caps_of

_STALLED_MS: Final = 2 * HEARTBEAT_EVERY_MS
"""A runner that has missed its heartbeat is offered nothing until it is heard again."""
_LINK_SILENCE_MS: Final = 2 * SILENCE_MS
"""A link is ended when nothing was heard on it for so long."""
_POLL_SILENCE_MS: Final = 120_000
"""A poll lasts up to a minute, and so may the pause after one that failed."""

HOST: Final = "host"
"""The capability of runners that do host tasks; which groups of them is said by `host@GROUP`."""


class RunnerLink:
    """One connected runner."""

    def __init__(self, record: RunnerRecord, connection: RunnerConnection, now: int) -> None:
        self.record = record
        self.connection = connection
        self.free: dict[str, int] = {}
        self.unanswered: dict[JobId, tuple[str, ...]] = {}
        """Offers on their way, with their capabilities: the runner cannot have counted them yet."""
        self.reserved: Counter[str] = Counter()
        """Slots for which an offer is being stored."""
        self.unable: dict[str, str] = {}
        """Why capabilities are not offered that it has announced."""
        self.draining = False
        self.heard_at = now

    def offers(self, caps: str) -> bool:
        """Tell whether this runner can be given jobs of a capability at all."""
        return caps in self.record.capabilities and not self.draining and kind_of(caps) not in self.unable

    def said_free(self, free: dict[str, int], now: int, unable: dict[str, str] | None = None) -> None:
        """Take a runner's word about its free slots, less the offers that it cannot have counted.

        `unable` says which capabilities it does not offer now and why; None leaves what it said before.
        """
        if unable is not None:
            self.unable = unable
        on_their_way = Counter(caps for offered in self.unanswered.values() for caps in offered)
        self.free = {caps: count - on_their_way[caps] for caps, count in free.items()}
        self.heard_at = now

    def wants(self, now: int) -> list[Want]:
        """Return what this runner can take; nothing while it is silent, for its link may outlive it for minutes."""
        if self.draining or now - self.heard_at > _STALLED_MS:
            return []
        offered = self.record.capabilities
        return [
            Want(runner=self.record.id, caps=caps, count=left, reach=reach_of(self.record) if caps == HOST else None)
            for caps, count in self.free.items()
            if (left := count - self.reserved[caps]) > 0 and caps in offered and kind_of(caps) not in self.unable
        ]

    def reserve(self, wants: Sequence[Want]) -> None:
        """Promise slots to an offer that is being stored."""
        for want in wants:
            self.reserved[want.caps] += want.count

    def release(self, wants: Sequence[Want]) -> None:
        """Take that promise back; what was offered counts as sent by now."""
        for want in wants:
            self.reserved[want.caps] -= want.count

    def tell(self, result: HeartbeatResult) -> None:
        """Send on what a sign of life was answered with."""
        for job, fence in result.lost:
            self.connection.drop(job, fence, "The lease was lost.")
        for job, fence, reason in result.cancels:
            self.connection.cancel(job, fence, reason)

    def sent(self, job: JobId, kind: JobKind) -> None:
        """Count an offer that was sent."""
        taken = capabilities_of(kind, self.record.id)
        for caps in taken:
            self.free[caps] = self.free.get(caps, 0) - 1
        self.unanswered[job] = taken


class Reached(NamedTuple):
    """How to ask the runner that has a job; `confirmation` is open while it was only offered."""

    connection: RunnerConnection
    fence: int
    confirmation: Future[bool] | None


def best_seat(links: Iterable[RunnerLink], caps: str, now: int) -> Want | None:
    """Return one slot for `caps`, of the runner that has most of them; None when none is free."""
    wants = [want for link in links for want in link.wants(now) if want.caps == caps]
    if not wants:
        return None
    return Want(runner=max(wants, key=lambda want: want.count).runner, caps=caps, count=1)


def reach_of(runner: RunnerRecord) -> Reach:
    """Return which host tasks a linked runner can be given."""
    groups = tuple(caps.partition("@")[2] for caps in runner.capabilities if caps.startswith(f"{HOST}@"))
    return Reach(groups=groups, runner=runner.id, name=runner.name, labels=runner.labels)


def why_not_ready(links: Collection[RunnerLink], loops: Iterable[Future[None]]) -> str | None:
    """Return None when one of the connected runners can take runs, else the reason why not in one sentence.

    `loops` are the queue's own: one that has ended has done so by a defect, and nothing is offered or expires any more.
    """
    if any(loop.done() for loop in loops):
        return "A loop of the queue has ended by a defect; restart the control plane and report its log."
    if not links:
        return "No runner is connected; start one with `clawplane runner`."
    able = [link for link in links if "workers" in link.record.capabilities]
    if not able:
        return "No connected runner offers the capability `workers`."
    if all(link.draining for link in able):
        return "Every connected runner is draining."
    return None


def why_unable(links: Collection[RunnerLink], caps: str) -> str | None:
    """Return None when a runner offers a capability, else why the first that could does not, "" when none says why."""
    if any(link.offers(caps) for link in links):
        return None
    kind, _, bound_to = caps.partition("@")
    reasons = (link.unable.get(kind, "") for link in links if bound_to in ("", link.record.id))
    return next(filter(None, reasons), "")


def kind_of(caps: str) -> str:
    """Return the capability that one bound to a runner is a part of."""
    return caps.partition("@")[0]


async def known_runners(queue: Queue, now: int) -> list[RunnerRecord]:
    """Return every runner ever heard of, newest first, and whether it is there `now`.

    Nobody sees a polling runner leave, nor one that leaves while the control plane is down: silence tells.
    """
    return [
        msgspec.structs.replace(each, connected=each.connected and now - each.last_seen <= _longest_silence(each.id))
        for each in await queue.runners()
    ]


def _longest_silence(runner: RunnerId) -> int:
    return _POLL_SILENCE_MS if runner.startswith(POLLS) else _LINK_SILENCE_MS


def record_of(runner: RunnerRecord, *, connected: bool, draining: bool, now: int) -> RunnerRecord:
    """Return what is stored of a runner that was heard of `now`."""
    return RunnerRecord(
        id=runner.id,
        name=runner.name,
        version=runner.version,
        capabilities=runner.capabilities,
        labels=runner.labels,
        slots=runner.slots,
        connected=connected,
        last_seen=now,
        draining=draining,
    )


def capabilities_of(kind: JobKind, runner: RunnerId) -> tuple[str, ...]:
    """Return the capabilities of which a job of this kind takes a slot each."""
    match kind:
        case JobKind.BUILD:
            return ("builds",)
        case JobKind.SUBTASK:
            return ("workers",)
        case JobKind.SESSION:
            return (caps_of(None), caps_of(runner))
        case JobKind.HOST:
            return (HOST,)
        case _:
            assert_never(kind)
