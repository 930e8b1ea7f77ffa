"""A whole control plane over a real store in a temporary directory, with a scripted runner where one is needed."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from clawplane.api.app import build_app
from clawplane.api.calls import Flows, HttpLimits
from clawplane.domain.access import Scope
from clawplane.domain.batches import INFO, Batch, LogLine, ShippedRow
from clawplane.domain.clock import Clock, SystemClock
from clawplane.domain.errors import Conflict
from clawplane.domain.ids import JobId, JobIds, RunnerId, new_ulid
from clawplane.domain.leases import Claim, Finish, JobKind, Offer, Outcome, RunnerRecord
from clawplane.domain.runs import HeaderItem, SubtaskSpec
from clawplane.domain.workers import BuildResult
from clawplane.flows.access import Access
from clawplane.flows.environments import Environments
from clawplane.flows.host_tasks import HostRules, HostWork
from clawplane.flows.leases import Leases
from clawplane.flows.links import Links
from clawplane.flows.packages import Packages
from clawplane.flows.pollers import Pollers
from clawplane.flows.results import Results
from clawplane.flows.runs import RunLimits, RunStarts
from clawplane.flows.sandbox_tokens import SandboxTokens
from clawplane.flows.session_places import Patience
from clawplane.flows.sessions import SessionLimits, Sessions
from clawplane.link.asked import AskedQuestion, AskedQuestions
from clawplane.link.asking import Asking, Questions
from clawplane.link.frames import Answered, Failed, ServerFrame, Told, Took
from clawplane.store import Store, open_store
from clawplane.store.sealing import KeyFileSealing

ADMIN = "scraper_api_" + "a" * 40
RUNNER = "runner-token-" + "b" * 40
PYTHON_WORKER = {
    "main.py": "import sdk\n\nprint('hello')\n",
    "requirements.txt": "requests\n",
    "input_schema.json": json.dumps(
        {
            "description": "Looks things up",
            "b": "keywords",
            "properties": [
                {"title": "Keywords", "name": "keywords", "type": "array", "editor": "stringList", "required": True},
                {"title": "Depth", "name": "depth", "type": "integer", "editor": "number", "default": 3},
            ],
        }
    ),
    "output_schema.json": json.dumps([{"name": "title", "type": "string", "description": "Title"}]),
    "README.md": "# Demo\n",
    "sdk.py": "",
    "sdk_pb2.py": "",
    "sdk_pb2_grpc.py": "",
}


def package(files: Mapping[str, str | bytes] | None = None, **changed: str | bytes) -> bytes:
    """Return a ZIP of a Worker; `changed` replaces or adds files by their stem, such as main="..."."""
    contents: dict[str, str | bytes] = dict(PYTHON_WORKER if files is None else files)
    for stem, text in changed.items():
        contents[next(name for name in contents if name.startswith(stem))] = text
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in contents.items():
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))  # the same bytes every time
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return packed.getvalue()


class JsonExporter:
    """An exporter for tests: JSON lines, or a header line and cells; the real one is a leaf of its own."""

    def formats(self) -> Sequence[str]:
        return ("csv", "json", "jsonl")

    def media_type(self, format_: str) -> str:
        return {"csv": "text/csv; charset=utf-8"}.get(format_, "application/json")

    def needs_columns(self, format_: str) -> bool:
        return format_ == "csv"

    async def export(
        self, format_: str, keys: Sequence[str] | None, rows: AsyncIterator[list[bytes]]
    ) -> AsyncIterator[bytes]:
        if keys is not None and format_ == "csv":
            yield (",".join(keys) + "\r\n").encode()
        async for batch in rows:
            for body in batch:
                row = json.loads(body)
                if format_ == "csv" and keys is not None:
                    yield (",".join(str(row.get(key, "")) for key in keys) + "\r\n").encode()
                else:
                    chosen = row if keys is None else {key: row[key] for key in keys if key in row}
                    yield json.dumps(chosen).encode() + b"\n"


@dataclass
class ScriptedRunner:
    """A runner's end without a socket: it plays what the test tells it, and notes what it was told."""

    leases: Leases
    id: RunnerId
    capabilities: tuple[str, ...] = ("workers", "builds")
    slots: dict[str, int] = field(default_factory=lambda: {"workers": 8, "builds": 2})
    offers: asyncio.Queue[Offer] = field(default_factory=asyncio.Queue)
    cancels: list[tuple[JobId, int, str]] = field(default_factory=list)
    drops: list[tuple[JobId, int, str]] = field(default_factory=list)
    closed: str | None = None
    play: Callable[[Asking], None] | None = None
    """Answers what sessions are asked; without it, questions wait in `questions`."""
    questions: asyncio.Queue[Asking] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self._side = Questions(self._asked, self._answered)
        self._asks = AskedQuestions(self._ask, _no_wait)
        self._fences: dict[JobId, int] = {}

    def record(self) -> RunnerRecord:
        return RunnerRecord(
            id=self.id,
            name="scripted",
            version="0.1.0",
            capabilities=self.capabilities,
            labels={},
            slots=self.slots,
            connected=True,
            last_seen=0,
        )

    # RunnerConnection

    def offer(self, offer: Offer, offer_ms: int) -> None:
        self._fences[offer.job] = offer.fence
        self.offers.put_nowait(offer)

    def ask(self, job: JobId, fence: int, method: str, body: bytes, *, quiet: bool = False) -> AskedQuestion:
        return self._asks.ask(job, fence, method, body, quiet=quiet)

    def over(self, job: JobId, fence: int, reason: str) -> None:
        self._asks.over(job, fence, Conflict(reason))

    def _ask(self, frame: ServerFrame) -> None:
        job, fence = getattr(frame, "job", 0), getattr(frame, "fence", 0)
        self._side.receive(frame, held=self._fences.get(job) == fence)

    def _asked(self, asking: Asking) -> None:
        if self.play is None:
            self.questions.put_nowait(asking)
        else:
            self.play(asking)

    def _answered(self) -> None:
        while (frame := self._side.next_frame()) is not None:
            if isinstance(frame, Told | Answered | Failed | Took):
                self._asks.receive(frame)

    def cancel(self, job: JobId, fence: int, reason: str) -> None:
        self.cancels.append((job, fence, reason))

    def drop(self, job: JobId, fence: int, reason: str) -> None:
        self.drops.append((job, fence, reason))
        self._fences.pop(job, None)
        self.over(job, fence, reason)

    def close(self, reason: str) -> None:
        self.closed = reason

    # what a test lets it do

    async def connect(self, held: Sequence[tuple[JobId, int]] = ()) -> list[tuple[JobId, int, int]]:
        kept = await self.leases.connected(self.record(), held, self)
        await self.leases.free(self.id, self.slots)
        return kept

    async def disconnect(self) -> None:
        self._asks.cut()
        self._side.cut()
        self._asks = AskedQuestions(self._ask, _no_wait)
        await self.leases.disconnected(self.id, self)

    async def next_offer(self) -> Offer:
        async with asyncio.timeout(30):
            return await self.offers.get()

    async def take(self) -> Offer:
        """Wait for an offer and confirm it."""
        offer = await self.next_offer()
        assert await self.leases.confirm(self.id, claim(offer))
        await self.leases.free(self.id, self.slots)
        return offer

    async def end(self, offer: Offer, *, succeeded: bool = True, **outcome: Any) -> None:
        reason = outcome.pop("reason", "exit")
        self._fences.pop(offer.job, None)
        self._side.over(offer.job, offer.fence)
        await self.leases.end(
            self.id, Finish(claim=claim(offer), outcome=Outcome(succeeded=succeeded, reason=reason, **outcome))
        )

    async def build(self) -> Offer:
        """Play one successful build."""
        offer = await self.take()
        assert offer.kind is JobKind.BUILD
        result = msgspec.msgpack.encode(BuildResult(fingerprint="f" * 64, lock="requests==2.32.0\n"))
        await self.ship(offer, 1, logs=["Resolved 1 package"])
        await self.end(offer, result=result)
        return offer

    async def ship(
        self,
        offer: Offer,
        seq: int,
        *,
        rows: Sequence[dict[str, Any]] = (),
        logs: Sequence[str] = (),
        header: Sequence[HeaderItem] | None = None,
    ) -> None:
        batch = Batch(
            job=offer.job,
            fence=offer.fence,
            seq=seq,
            rows=tuple(ShippedRow(json.dumps(row).encode()) for row in rows),
            logs=tuple(LogLine(INFO, text, 1_782_091_200_438) for text in logs),
            header=None if header is None else tuple(header),
        )
        result = await self.leases.ship(self.id, batch)
        assert not result.stale

    async def run(self, rows: Sequence[dict[str, Any]] = ({"title": "Example result"},), **outcome: Any) -> Offer:
        """Play one subtask to its end."""
        offer = await self.take()
        assert offer.kind is JobKind.SUBTASK
        await self.ship(offer, 1, rows=rows, logs=[f"SYSTEM: Subtask-[{offer.job}] - Running..."])
        await self.end(offer, **outcome)
        return offer


async def _no_wait() -> None:
    """A link without a socket always has room."""


def claim(offer: Offer) -> Claim:
    return Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)


def spec_of(offer: Offer) -> SubtaskSpec:
    return msgspec.msgpack.decode(offer.spec, type=SubtaskSpec)


@dataclass
class Plane:
    """A control plane and its ends."""

    flows: Flows
    app: ASGIApp
    store: Store
    clock: Clock
    directory: Path

    def client(self, key: str | None = ADMIN) -> httpx.AsyncClient:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://plane.test", headers=headers, timeout=10
        )

    def runner(self, **more: Any) -> ScriptedRunner:
        return ScriptedRunner(self.flows.leases, RunnerId(new_ulid(self.clock.now_ms())), **more)

    async def key(self, *scopes: Scope, owner: str | None = None) -> str:
        _, secret = await self.flows.access.create(name="test", scopes=scopes, owner=owner)
        return secret

    async def worker(self, runner: ScriptedRunner, name: str = "demo-worker", content: bytes | None = None) -> str:
        """Push a package, play its build, return the Worker's slug."""
        async with self.client() as client:
            answer = await client.post(
                "/v1/workers",
                data={"name": name, "title": "Demo Worker", "description": "Demo worker description"},
                files={"scraper_file": ("worker.zip", content or package(), "application/zip")},
            )
        assert answer.status_code == 201, answer.text
        await runner.build()
        return str(answer.json()["data"]["worker"])


async def _no_link(socket: WebSocket) -> None:
    await socket.close()


def _host_work(directory: Path, store: Store, leases: Leases, clock: Clock, ids: JobIds) -> HostWork:
    return HostWork(
        tasks=store.host_tasks,
        events=store.task_events,
        conversations=store.agent_sessions,
        outbox=store.outbox,
        pollers=Pollers(store.host_tasks, store.wakeups, clock),
        leases=leases,
        sealing=KeyFileSealing.open(directory / "sealing.key"),
        wakeups=store.wakeups,
        clock=clock,
        ids=ids,
        rules=HostRules(),
    )


@asynccontextmanager
async def plane(
    directory: Path,
    *,
    clock: Clock | None = None,
    limits: HttpLimits | None = None,
    run_limits: RunLimits | None = None,
    session_limits: SessionLimits | None = None,
    patience: Patience | None = None,
    start: bool = True,
    host: bool = False,
    wrap: Callable[[Store], Store] = lambda store: store,
    **settings: Any,
) -> AsyncIterator[Plane]:
    """Yield a running control plane with ADMIN as admin key and RUNNER as runner token; `host` with host tasks."""
    clock = clock or SystemClock()
    store = wrap(await open_store(directory, clock=clock))
    ids = JobIds()
    ids.advance_past(await store.queue.highest_job())
    access = Access(store.keys, clock, owner="owner")
    environments = Environments(store.workers, store.blobs, store.wakeups, clock)
    leases = Leases(store.queue, store.runs, environments, store.host_tasks, wakeups=store.wakeups, clock=clock)
    sessions = Sessions(
        sessions=store.sessions,
        leases=leases,
        wakeups=store.wakeups,
        clock=clock,
        ids=ids,
        limits=session_limits,
        patience=patience,
    )
    spool = directory / "spool"
    spool.mkdir(exist_ok=True)
    sandbox_tokens = SandboxTokens(store.keys, clock)
    await sandbox_tokens.prepare()
    if host:
        settings["host"] = _host_work(directory, store, leases, clock, ids)
    flows = Flows(
        packages=Packages(workers=store.workers, blobs=store.blobs, wakeups=store.wakeups, clock=clock, ids=ids),
        runs=RunStarts(
            workers=store.workers,
            runs=store.runs,
            queue=store.queue,
            leases=leases,
            wakeups=store.wakeups,
            clock=clock,
            ids=ids,
            limits=run_limits,
        ),
        sessions=sessions,
        sandbox_tokens=sandbox_tokens,
        results=Results(store.workers, store.runs, Links(store.keys, clock), JsonExporter(), store.wakeups),
        leases=leases,
        access=access,
        blobs=store.blobs,
        queue=store.queue,
        events=store.events,
        wakeups=store.wakeups,
        clock=clock,
        spool=spool,
        limits=limits or HttpLimits(),
        **settings,
    )
    await access.bootstrap(ADMIN)
    await access.admit(RUNNER, name="runner", scopes={Scope.RUNNER})
    if start:
        await leases.start()
        await sessions.start()
    if flows.host is not None:
        await flows.host.pollers.start()
    try:
        yield Plane(flows, build_app(flows, _no_link), store, clock, directory)
    finally:
        if flows.host is not None:
            await flows.host.leave()
        await sessions.close()
        await leases.close()
        await store.close()
