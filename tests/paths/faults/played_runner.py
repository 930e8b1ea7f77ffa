"""A runner that says exactly what a test tells it, in real frames over a real link, and besides only beats.

It keeps no conversation of its own: what it holds, repeats or forgets is the test's choice, so it can stop at any
point of the protocol, come back as a runner would, or lie like a stale one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from fault_parts import TOKEN, Parts
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from clawplane.domain.batches import Batch, ShippedRow
from clawplane.domain.clock import SystemClock
from clawplane.domain.ids import JobId, RunnerId, new_ulid
from clawplane.domain.leases import Claim, Finish, JobKind, Offer, Outcome
from clawplane.domain.workers import BuildResult
from clawplane.link.codec import Codec
from clawplane.link.connection import link_url
from clawplane.link.frames import (
    MAX_FRAME,
    PROTOCOL,
    Confirm,
    Confirmed,
    Drop,
    End,
    Ended,
    Free,
    Heard,
    Heartbeat,
    Hello,
    Offered,
    RunnerFrame,
    ServerFrame,
    Ship,
    Stored,
    Welcome,
)

F = TypeVar("F", bound=ServerFrame)
DONE = Outcome(succeeded=True, reason="exit", exit_code=0)
BEAT_SECONDS = 3.0
PATIENCE = 30.0


class PlayedRunner:
    """One runner's end of the link."""

    def __init__(self, url: str, *, slots: int = 1, builds: int = 0) -> None:
        self.id = RunnerId(new_ulid(SystemClock().now_ms()))
        self.slots = {"workers": slots, "builds": builds}
        self.free = dict(self.slots)
        self.holds: list[tuple[JobId, int]] = []
        """What heartbeats and the next Hello name."""
        self._url = link_url(url)
        self._codec = Codec()
        self._socket: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._heard: list[ServerFrame] = []
        self._news = asyncio.Event()

    # connection

    async def connect(self, *, patience: float = PATIENCE) -> Welcome:
        """Say Hello until somebody answers, and begin to beat; returns the Welcome."""
        async with asyncio.timeout(patience):
            while True:
                try:
                    return await self._greet()
                except (OSError, WebSocketException, TimeoutError):
                    await self.vanish()
                    await asyncio.sleep(0.05)  # the control plane is being started

    async def _greet(self) -> Welcome:
        self._heard.clear()
        self._socket = await connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {TOKEN}"},
            proxy=None,
            compression=None,
            max_size=MAX_FRAME,
            ping_interval=None,
            open_timeout=5,
        )
        await self.say(
            Hello(
                protocol=PROTOCOL,
                runner=self.id,
                name="played",
                version="0",
                capabilities=tuple(caps for caps, count in self.slots.items() if count),
                labels={},
                slots=self.slots,
                held=tuple(self.holds),
            )
        )
        welcome = self._codec.from_server(await self._socket.recv(decode=False))
        assert isinstance(welcome, Welcome), welcome
        self._tasks = [asyncio.create_task(self._read(self._socket)), asyncio.create_task(self._beat())]
        await self.tell_free()
        return welcome

    async def vanish(self) -> None:
        """Leave without a goodbye, as a killed process does: what was written is sent, then the socket closes."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.transport.close()
            await socket.wait_closed()

    async def is_cut(self) -> None:
        """Wait until the control plane has closed the link."""
        assert self._socket is not None
        async with asyncio.timeout(PATIENCE):
            await self._socket.wait_closed()
        await self.vanish()

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                frame = self._codec.from_server(await socket.recv(decode=False))
                if not isinstance(frame, Heard):
                    self._heard.append(frame)
                    self._news.set()

    async def _beat(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                await self.say(Heartbeat(held=tuple(self.holds), free=self.free))

    # words

    async def say(self, frame: RunnerFrame) -> None:
        """Send one frame."""
        assert self._socket is not None
        await self._socket.send(self._codec.encode(frame))

    async def hears(self, kind: type[F], job: JobId | None = None) -> F:
        """Wait for a frame of a kind, of one job if given, and take it out of what was heard."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    for frame in self._heard:
                        if isinstance(frame, kind) and (job is None or getattr(frame, "job", None) == job):
                            self._heard.remove(frame)
                            return frame
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} of {job} was heard; heard was {self._heard}") from None

    async def tell_free(self) -> None:
        """Say how many slots are free."""
        await self.say(Free(free=self.free))

    async def is_offered(self) -> Offer:
        """Wait for an offer; its slot is taken from then on."""
        offer = (await self.hears(Offered)).offer
        self.free["builds" if offer.kind is JobKind.BUILD else "workers"] -= 1
        return offer

    async def confirm(self, offer: Offer) -> None:
        """Say Confirm and hold the lease."""
        if (offer.job, offer.fence) not in self.holds:
            self.holds.append((offer.job, offer.fence))
        await self.say(Confirm(claim=claim(offer)))

    async def take(self) -> Offer:
        """Wait for an offer and for its confirmation."""
        offer = await self.is_offered()
        await self.confirm(offer)
        await self.hears(Confirmed, offer.job)
        return offer

    async def ship(self, offer: Offer, seq: int, rows: Sequence[dict[str, Any]]) -> None:
        """Say Ship."""
        bodies = tuple(ShippedRow(json.dumps(row).encode()) for row in rows)
        await self.say(Ship(batch=Batch(job=offer.job, fence=offer.fence, seq=seq, rows=bodies)))

    async def store(self, offer: Offer, seq: int, rows: Sequence[dict[str, Any]]) -> None:
        """Say Ship and wait until that batch is stored."""
        await self.ship(offer, seq, rows)
        while (await self.hears(Stored, offer.job)).seq < seq:
            pass

    async def end(self, offer: Offer, outcome: Outcome = DONE) -> None:
        """Say End."""
        await self.say(End(finish=Finish(claim=claim(offer), outcome=outcome)))

    async def finish(self, offer: Offer, outcome: Outcome = DONE) -> None:
        """Say End, wait for its answer, and let go of the lease."""
        await self.end(offer, outcome)
        await self.hears(Ended, offer.job)
        self.holds.remove((offer.job, offer.fence))

    async def is_refused(self, offer: Offer) -> None:
        """Come back with a lease that is lost, say everything that a holder may say, and hear Drop each time."""
        self.holds = [(offer.job, offer.fence)]
        assert (await self.connect()).kept == ()
        self.holds = []  # beats would be answered with Drop too
        await self.hears(Drop, offer.job)
        for word in (self.confirm, lambda lost: self.ship(lost, 2, [{"stale": True}]), self.end):
            await word(offer)
            assert (await self.hears(Drop, offer.job)).fence == offer.fence
            self.holds = []

    async def build(self) -> None:
        """Play one build that succeeds at once."""
        offer = await self.take()
        assert offer.kind is JobKind.BUILD
        result = msgspec.msgpack.encode(BuildResult(fingerprint="f" * 64, lock=""))
        await self.finish(offer, msgspec.structs.replace(DONE, result=result))


def claim(offer: Offer) -> Claim:
    """Return what proves that a word belongs to an offer's lease."""
    return Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)


async def ready_worker(parts: Parts) -> str:
    """Have a Worker whose environment a played runner has built."""
    builder = PlayedRunner(parts.plane.url, slots=0, builds=1)
    await builder.connect()
    worker, _ = await asyncio.gather(asyncio.to_thread(parts.push), builder.build())
    await builder.vanish()
    return worker
