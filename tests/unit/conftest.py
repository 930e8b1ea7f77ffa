"""A control plane in memory, spoken to over a real server: what tests of the link and the runner run against."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from clawplane.domain.batches import Batch
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, Finish, JobKind, Offer, RunnerRecord
from clawplane.domain.ports import AppendResult, FinishResult, RunnerConnection
from clawplane.domain.sessions import LiveState
from clawplane.link.frames import MAX_FRAME
from clawplane.link.server import LinkLimits, link_endpoint

TESTS = str(Path(__file__).parents[1])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

from listening import Server  # noqa: E402 - found through the lines above

TOKEN = "runner-token-of-the-tests"
TIME_LIMIT = 60.0


class Changes:
    """Wait for something to become true, looked at after every change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def note(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        try:
            async with asyncio.timeout(TIME_LIMIT):
                while not condition():
                    self._event.clear()
                    await self._event.wait()
        except TimeoutError:
            raise AssertionError(f"never came true within {TIME_LIMIT} s: {what or condition}") from None


class FakeControlPlane:
    """Offers jobs, believes fences, stores batches once, and remembers everything it was told.

    Faults are functions that tests put in: `before` is awaited with the name of each word before it takes effect.
    """

    def __init__(self) -> None:
        self.changes = Changes()
        self.said: list[tuple[str, object]] = []
        self.runners: dict[RunnerId, RunnerRecord] = {}
        self.connection: RunnerConnection | None = None
        self.connections = 0
        self.unable: dict[str, str] = {}
        self.of_others: set[RunnerId] = set()
        """Runner ids that belong to other keys."""
        self.revoked = False
        self.free_slots: dict[str, int] = {}
        self.leases: dict[JobId, Claim] = {}
        self.confirmed: set[JobId] = set()
        self.stored: dict[JobId, int] = defaultdict(int)
        self.batches: dict[JobId, list[Batch]] = defaultdict(list)
        self.ends: dict[JobId, Finish] = {}
        self.held: tuple[tuple[JobId, int], ...] = ()
        self.declined: list[tuple[Claim, str]] = []
        self.blobs: dict[str, bytes] = {}
        self.downloads: list[str] = []
        self.is_draining = False
        self.states: dict[JobId, list[LiveState]] = {}
        self.before_download: Callable[[], Awaitable[object]] | None = None
        self.before: Callable[[str], object] | None = None
        self._fences = itertools.count(1)
        self._jobs = itertools.count(1)

    # what tests do

    def put_blob(self, content: bytes) -> tuple[str, str]:
        """Keep a blob and return its key and SHA-256."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[f"packages/{digest}"] = content
        return f"packages/{digest}", digest

    def offer(self, kind: JobKind, spec: object, *, job: int | None = None, timeout_ms: int = 60_000) -> Offer:
        """Offer a job to the connected runner."""
        assert self.connection is not None
        offer = Offer(
            job=JobId(job or next(self._jobs)),
            kind=kind,
            subject="subject",
            runner=next(iter(self.runners)),
            attempt=1,
            fence=next(self._fences),
            nonce=7,
            spec=spec if isinstance(spec, bytes) else msgspec.msgpack.encode(spec),
            timeout_ms=timeout_ms,
        )
        self.leases[offer.job] = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
        self.confirmed.discard(offer.job)
        self.connection.offer(offer, 10_000)
        return offer

    def take_back(self, offer: Offer) -> None:
        """Let a lease be over; the runner is not told."""
        self.leases.pop(offer.job, None)

    def rows(self, job: JobId) -> list[bytes]:
        """Return the rows stored for a job, in order."""
        return [row.body for batch in self.batches[job] for row in batch.rows]

    def lines(self, job: JobId, *sources: str) -> list[str]:
        """Return the log entries stored for a job, in order; of the given sources, or all."""
        logs = [line for batch in self.batches[job] for line in batch.logs]
        return [line.content for line in logs if not sources or line.source in sources]

    async def ended(self, offer: Offer) -> Finish:
        """Wait for the end of a job."""
        await self.changes.until(lambda: offer.job in self.ends, f"the end of job {offer.job}")
        return self.ends[offer.job]

    # Dispatch

    async def connected(
        self, runner: RunnerRecord, held: Sequence[tuple[JobId, int]], connection: RunnerConnection
    ) -> list[tuple[JobId, int, int]]:
        await self._note("connected", (runner, tuple(held)))
        if self.connection is not None:
            self.connection.close("the same runner has connected again")
        self.runners[runner.id] = runner
        self.connection = connection
        self.connections += 1
        self.changes.note()
        return [(job, fence, self.stored[job]) for job, fence in held if self._is_lease(job, fence)]

    async def heartbeat(self, runner: RunnerId, held: Sequence[tuple[JobId, int]], free: dict[str, int]) -> None:
        await self._note("heartbeat", tuple(held))
        self.held = tuple(held)
        self.changes.note()

    async def free(self, runner: RunnerId, free: dict[str, int], unable: dict[str, str] | None = None) -> None:
        await self._note("free", free)
        self.free_slots = free
        self.unable = self.unable if unable is None else unable
        self.changes.note()

    async def confirm(self, runner: RunnerId, claim: Claim) -> bool:
        await self._note("confirm", claim)
        if self.leases.get(claim.job) != claim:
            return False
        self.confirmed.add(claim.job)
        self.changes.note()
        return True

    async def decline(self, runner: RunnerId, claim: Claim, reason: str) -> None:
        await self._note("decline", claim)
        self.declined.append((claim, reason))
        self.changes.note()

    async def ship(self, runner: RunnerId, batch: Batch) -> AppendResult:
        await self._note("ship", batch)
        if not self._is_lease(batch.job, batch.fence):
            return AppendResult(stored_up_to=0, stale=True)
        if batch.seq == self.stored[batch.job] + 1:
            self.stored[batch.job] = batch.seq
            self.batches[batch.job].append(batch)
        self.changes.note()
        return AppendResult(stored_up_to=self.stored[batch.job])

    async def end(self, runner: RunnerId, finish: Finish) -> FinishResult:
        await self._note("end", finish)
        claim = finish.claim
        if self.ends.get(claim.job) == finish:
            return FinishResult(accepted=False, repeated=True)
        if self.leases.get(claim.job) != claim or claim.job not in self.confirmed:
            return FinishResult(accepted=False)
        del self.leases[claim.job]
        self.ends[claim.job] = finish
        self.changes.note()
        return FinishResult(accepted=True)

    async def noted(self, runner: RunnerId, job: JobId, fence: int, state: LiveState) -> None:
        await self._note("noted", state)
        if self._is_lease(job, fence):
            self.states.setdefault(job, []).append(state)
        self.changes.note()

    async def draining(self, runner: RunnerId) -> None:
        await self._note("draining", None)
        self.is_draining = True
        self.changes.note()

    async def disconnected(self, runner: RunnerId, connection: RunnerConnection) -> None:
        if self.connection is connection:
            self.connection = None
        self.said.append(("disconnected", runner))
        self.changes.note()

    def _is_lease(self, job: JobId, fence: int) -> bool:
        claim = self.leases.get(job)
        return claim is not None and claim.fence == fence

    async def _note(self, word: str, value: object) -> None:
        self.said.append((word, value))
        self.changes.note()
        if self.before is not None:
            result = self.before(word)
            if asyncio.iscoroutine(result):
                await result


class Serving:
    """A fake control plane behind a real HTTP server that can be stopped and started again on its port."""

    def __init__(self, plane: FakeControlPlane, limits: LinkLimits) -> None:
        self.plane = plane
        self._limits = limits
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None
        with socket.create_server(("127.0.0.1", 0)) as found:
            self._port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        async def authenticate(token: str) -> str | None:
            return "key" if token == TOKEN and not self.plane.revoked else None

        async def belongs(key: str, runner: RunnerId) -> bool:
            return runner not in self.plane.of_others

        async def blob(request: Request) -> Response:
            key = request.path_params["key"]
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return PlainTextResponse("no", 401)
            self.plane.downloads.append(key)
            self.plane.changes.note()
            if self.plane.before_download is not None:
                await self.plane.before_download()
            if key not in self.plane.blobs:
                return Response(b'{"code":404,"message":"There is no such blob."}', 404)
            return Response(self.plane.blobs[key])

        endpoint = link_endpoint(self.plane, authenticate, belongs, limits=self._limits)
        app = Starlette(
            routes=[WebSocketRoute("/v1/runner/link", endpoint), Route("/v1/runner/blobs/{key:path}", blob)]
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            ws_max_size=MAX_FRAME,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
            lifespan="off",
        )
        listener = socket.create_server(("127.0.0.1", self._port))
        self._server = Server(config)
        self._task = asyncio.create_task(self._server._serve([listener]))  # without taking over the signals

    async def stop(self) -> None:
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = None


@pytest.fixture
def limits() -> LinkLimits:
    """The link's server limits; modules override it."""
    return LinkLimits(close_within=1.0)


@pytest.fixture
async def plane() -> FakeControlPlane:
    """A control plane in memory."""
    return FakeControlPlane()


@pytest.fixture
async def server(plane: FakeControlPlane, limits: LinkLimits) -> AsyncIterator[Serving]:
    """The control plane behind a real server on loopback."""
    serving = Serving(plane, limits)
    await serving.start()
    yield serving
    await serving.stop()
