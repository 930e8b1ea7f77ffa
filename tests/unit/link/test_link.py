"""Both ends of the link against each other, over a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from clawplane.domain.batches import Batch, ShippedRow
from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import InvalidArgument, StoreFull
from clawplane.domain.ids import JobId, RunnerId, new_ulid
from clawplane.domain.leases import JobKind, Outcome
from clawplane.link.codec import Codec
from clawplane.link.connection import Link, LinkRefused, Waits, link_url, pauses
from clawplane.link.frames import (
    PROTOCOL,
    Cancel,
    Confirmed,
    Drop,
    Ended,
    Heartbeat,
    Hello,
    Offered,
    Rejected,
    ServerFrame,
    Ship,
    Stored,
    Welcome,
)
from clawplane.link.protocol import Identity
from clawplane.link.server import LinkLimits

TOKEN = "runner-token-of-the-tests"
CODEC = Codec()
DONE = Outcome(succeeded=True, reason="exit", exit_code=0)
QUICK = Waits(first_retry=0.01, retry=0.02, longest_retry=0.05, close_within=0.5)


class SteppingClock(SystemClock):
    """The real clocks, plus what a test adds: as if the process had been stopped meanwhile."""

    def __init__(self) -> None:
        self.added = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.added


class End:
    """A runner's end with what it heard."""

    def __init__(self, url: str, changes, *, token: str = TOKEN, asked=None, waits: Waits = QUICK) -> None:
        self.heard: list[ServerFrame] = []
        self.clock = SteppingClock()
        self.changes = changes
        identity = Identity(
            runner=RunnerId(new_ulid(1_780_000_000_000)),
            name="end",
            version="0",
            capabilities=("workers",),
            labels={},
            slots={"workers": 4},
        )
        self.link = Link(url, token, identity, self._hear, clock=self.clock, waits=waits, asked=asked)
        self.task = asyncio.create_task(self.link.run())
        self.task.add_done_callback(lambda _: changes.note())

    def _hear(self, frame: ServerFrame) -> None:
        self.heard.append(frame)
        if isinstance(frame, Offered):
            self.link.confirm(frame.offer)
        self.changes.note()

    async def hears(self, kind: type, count: int = 1) -> ServerFrame:
        await self.changes.until(
            lambda: len([1 for frame in self.heard if isinstance(frame, kind)]) >= count, f"{count} {kind.__name__}"
        )
        return [frame for frame in self.heard if isinstance(frame, kind)][count - 1]

    def ship(self, offer, text: bytes = b"{}") -> int | None:
        return self.link.ship(offer.job, offer.fence, [ShippedRow(text)], [], None)


@pytest.fixture
async def open_end(server, plane) -> AsyncIterator[Callable[..., Awaitable[End]]]:
    ends: list[End] = []

    async def start(**options) -> End:
        end = End(server.url, plane.changes, **options)
        ends.append(end)
        await plane.changes.until(lambda: end.link.linked or end.task.done(), "the link stands")
        return end

    yield start
    for end in ends:
        end.task.cancel()
    await asyncio.gather(*(end.task for end in ends), return_exceptions=True)


class Noting(logging.Handler):
    """Remember what was logged."""

    def __init__(self, changes) -> None:
        super().__init__(logging.INFO)
        self.levels: list[int] = []
        self._changes = changes

    def emit(self, record: logging.LogRecord) -> None:
        self.levels.append(record.levelno)
        self._changes.note()


@pytest.fixture
async def raw(server) -> AsyncIterator[ClientConnection]:
    """A bare WebSocket with a good token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(
        link_url(server.url), additional_headers=headers, compression=None, ping_interval=None
    ) as opened:
        yield opened


def hello(protocol: int = PROTOCOL, runner: str | None = None) -> bytes:
    return CODEC.encode(
        Hello(
            protocol=protocol,
            runner=RunnerId(runner or new_ulid(1_780_000_000_000)),
            name="raw",
            version="0",
            capabilities=("workers",),
            labels={},
            slots={"workers": 1},
        )
    )


async def leased(end: End, plane, job: int | None = None):
    offer = plane.offer(JobKind.SUBTASK, b"x", job=job)
    await plane.changes.until(
        lambda: any(isinstance(frame, Confirmed) and frame.fence == offer.fence for frame in end.heard), "confirmed"
    )
    return offer


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """Read until the other end closes; return its code and reason."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(10):
            while True:
                await socket.recv()
    return socket.close_code or 0, socket.close_reason or ""


async def test_a_runner_with_a_wrong_token_is_refused_with_a_sentence(open_end) -> None:
    end = await open_end(token="wrong")
    with pytest.raises(LinkRefused, match="its token is unknown"):
        await end.task


async def test_an_offer_is_confirmed_and_answered(open_end, plane) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    assert plane.confirmed == {offer.job}


async def test_a_confirmation_that_comes_too_late_is_answered_with_drop(open_end, plane) -> None:
    end = await open_end()
    plane.before = lambda word: plane.leases.clear() if word == "confirm" else None
    plane.offer(JobKind.SUBTASK, b"x")
    assert "offer" in (await end.hears(Drop)).reason


async def test_a_batch_is_stored_and_answered(open_end, plane) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    end.ship(offer, b'{"a":1}')
    assert (await end.hears(Stored)).seq == 1
    assert plane.rows(offer.job) == [b'{"a":1}']


async def test_an_end_comes_after_the_batches_and_is_answered(open_end, plane) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    for _ in range(5):
        end.ship(offer)
    end.link.end(offer.job, offer.fence, DONE)
    await end.hears(Ended)
    words = [word for word, _ in plane.said if word in ("ship", "end")]
    assert words == ["ship"] * 5 + ["end"]


async def test_a_word_about_a_lost_lease_is_answered_with_drop(open_end, plane) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    plane.take_back(offer)
    end.ship(offer)
    assert (await end.hears(Drop)).fence == offer.fence
    assert end.ship(offer) is None


async def test_a_cancel_reaches_the_runner(open_end, plane) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    plane.connection.cancel(offer.job, offer.fence, "because")
    assert (await end.hears(Cancel)).reason == "because"


async def test_batches_of_one_job_stay_in_order_while_other_jobs_go_on(open_end, plane) -> None:
    end = await open_end()
    first, second = await leased(end, plane), await leased(end, plane)
    gate = asyncio.Event()
    real_ship = plane.ship

    async def ship(runner, batch: Batch):
        if batch.job == first.job and batch.seq == 1:
            await gate.wait()
        return await real_ship(runner, batch)

    plane.ship = ship
    for _ in range(3):
        end.ship(first)
        end.ship(second)
    await plane.changes.until(lambda: plane.stored[second.job] == 3, "the second job's batches")
    assert plane.stored[first.job] == 0
    gate.set()
    await plane.changes.until(lambda: plane.stored[first.job] == 3, "the first job's batches")


async def test_what_was_not_stored_when_the_server_went_away_is_there_once_afterwards(open_end, plane, server) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    end.ship(offer, b"1")
    await end.hears(Stored)
    await server.stop()
    end.ship(offer, b"2")
    end.ship(offer, b"3")
    await server.start()
    await plane.changes.until(lambda: plane.stored[offer.job] == 3, "all batches")
    assert plane.rows(offer.job) == [b"1", b"2", b"3"]


async def test_an_answer_that_got_lost_does_not_store_a_batch_twice(open_end, plane, server) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    real_ship = plane.ship

    async def ship(runner, batch: Batch):
        await real_ship(runner, batch)
        plane.ship = real_ship
        raise StoreFull("the disk is full")  # stored, but the answer never leaves

    plane.ship = ship
    end.ship(offer, b"1")
    end.link.end(offer.job, offer.fence, DONE)
    await end.hears(Ended)
    assert plane.rows(offer.job) == [b"1"]
    assert plane.connections == 2


async def test_a_store_that_is_full_closes_the_link_and_loses_nothing(open_end, plane) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    real_ship, failures = plane.ship, []

    async def ship(runner, batch: Batch):
        if len(failures) < 3:
            failures.append(1)
            raise StoreFull("the disk is full")
        return await real_ship(runner, batch)

    plane.ship = ship
    end.ship(offer, b"1")
    await end.hears(Stored)
    assert plane.rows(offer.job) == [b"1"]


async def test_a_batch_that_can_never_be_stored_drops_its_job_only(open_end, plane) -> None:
    end = await open_end()
    bad, good = await leased(end, plane), await leased(end, plane)
    real_ship = plane.ship

    async def ship(runner, batch: Batch):
        if batch.job == bad.job:
            raise InvalidArgument("no such run")
        return await real_ship(runner, batch)

    plane.ship = ship
    end.ship(bad)
    end.ship(good)
    assert (await end.hears(Drop)).job == bad.job
    await end.hears(Stored)
    assert plane.connections == 1


async def test_an_end_whose_answer_got_lost_is_answered_the_second_time(open_end, plane) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    real_end = plane.end

    async def stored_but_not_answered(runner, finish):
        await real_end(runner, finish)
        plane.end = real_end
        raise StoreFull("the disk is full")

    real_connected = plane.connected

    async def connected(runner, held, connection):
        await real_connected(runner, held, connection)
        return [(job, fence, 0) for job, fence in held]

    plane.end, plane.connected = stored_but_not_answered, connected
    end.link.end(offer.job, offer.fence, DONE)
    await end.hears(Ended)
    assert len([word for word, _ in plane.said if word == "end"]) == 2


async def test_leases_lost_while_there_was_no_link_are_dropped_at_the_next_greeting(open_end, plane, server) -> None:
    end = await open_end()
    offer = await leased(end, plane)
    await server.stop()
    plane.take_back(offer)
    await server.start()
    assert (await end.hears(Drop)).job == offer.job


async def test_welcome_comes_first_even_when_offers_are_made_while_greeting(raw, plane) -> None:
    real_connected = plane.connected

    async def connected(runner, held, connection):
        kept = await real_connected(runner, held, connection)
        plane.offer(JobKind.SUBTASK, b"x")
        return kept

    plane.connected = connected
    await raw.send(hello())
    assert isinstance(CODEC.from_server(await raw.recv()), Welcome)
    assert isinstance(CODEC.from_server(await raw.recv()), Offered)


async def test_another_protocol_is_refused_by_name(raw) -> None:
    await raw.send(hello(protocol=99))
    refused = CODEC.from_server(await raw.recv())
    assert isinstance(refused, Rejected)
    assert "protocol 1" in refused.reason
    assert (await closed(raw))[0] == 1008


@pytest.mark.parametrize(
    ("first", "reason"),
    [(b"\xc1", "cannot be read"), (CODEC.encode(Heartbeat(held=(), free={})), "must be Hello"), ("text", "binary")],
)
async def test_a_first_frame_that_is_no_hello_closes_with_a_reason(raw, first, reason) -> None:
    await raw.send(first)
    code, said = await closed(raw)
    assert code == 1008
    assert reason in said


async def test_a_malformed_frame_closes_with_a_reason(raw) -> None:
    await raw.send(hello())
    await raw.recv()
    await raw.send(b"\x00garbage")
    code, said = await closed(raw)
    assert (code, "cannot be read" in said) == (1008, True)


async def test_a_runner_id_that_is_no_ulid_is_refused(raw) -> None:
    await raw.send(hello(runner="../../etc"))
    assert "ULID" in (await closed(raw))[1]


async def test_the_older_link_of_the_same_runner_is_closed(raw, server, plane) -> None:
    runner = new_ulid(1_780_000_000_000)
    await raw.send(hello(runner=runner))
    await raw.recv()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(link_url(server.url), additional_headers=headers, compression=None) as second:
        await second.send(hello(runner=runner))
        await second.recv()
        assert (await closed(raw))[0] == 4001
        assert plane.connection is not None


class TestShortLimits:
    @pytest.fixture
    def limits(self) -> LinkLimits:
        return LinkLimits(
            hello_within=0.2,
            send_within=0.5,
            close_within=0.5,
            heartbeat_ms=40,
            silence_ms=480,
            in_flight=4,
            outbox_frames=1000,
            outbox_bytes=4 << 20,
        )

    async def test_a_runner_that_says_nothing_is_closed(self, raw) -> None:
        assert "no Hello" in (await closed(raw))[1]

    async def test_a_runner_that_falls_silent_is_closed(self, raw) -> None:
        await raw.send(hello())
        assert "nothing was heard" in (await closed(raw))[1]

    async def test_a_runner_whose_key_is_revoked_is_closed_while_it_goes_on_to_talk(self, raw, plane) -> None:
        await raw.send(hello())
        await raw.recv()
        plane.revoked = True
        closing = asyncio.create_task(closed(raw))
        with contextlib.suppress(ConnectionClosed):
            while not closing.done():
                await raw.send(CODEC.encode(Heartbeat(held=(), free={})))
                await asyncio.sleep(0)
        assert (await closing) == (1008, "its token is good no more")
        assert "disconnected" in dict(plane.said)

    async def test_a_runner_that_does_not_read_is_closed(self, raw, plane) -> None:
        raw.transport.pause_reading()
        await raw.send(hello())
        await plane.changes.until(lambda: plane.connection, "connected")
        while plane.connection is not None:
            plane.offer(JobKind.SUBTASK, b"x" * (1 << 20))
            await asyncio.sleep(0)
        assert "disconnected" in dict(plane.said)
        raw.transport.resume_reading()

    async def test_only_so_much_is_handled_at_once_and_the_rest_is_not_read(self, raw, plane) -> None:
        gate, busy = asyncio.Event(), []

        async def ship(runner, batch: Batch):
            busy.append(batch.job)
            plane.changes.note()
            await gate.wait()
            raise StoreFull("enough")

        plane.ship = ship
        await raw.send(hello())
        for job in range(1, 50):
            await raw.send(CODEC.encode(Ship(batch=Batch(job=JobId(job), fence=1, seq=1))))
        await plane.changes.until(lambda: len(busy) == 4, "four at once")
        gate.set()
        await closed(raw)
        assert len(busy) <= 8

    async def test_heartbeats_name_what_is_held(self, open_end, plane) -> None:
        end = await open_end()
        offer = await leased(end, plane)
        await plane.changes.until(lambda: plane.held == ((offer.job, offer.fence),), "a heartbeat with the lease")

    async def test_when_heartbeats_are_not_answered_what_runs_is_dropped(self, open_end, plane) -> None:
        end = await open_end()
        await leased(end, plane)

        async def unanswered(word: str) -> None:
            if word in ("heartbeat", "connected"):
                await asyncio.Event().wait()

        plane.before = unanswered
        assert "nothing was heard" in (await end.hears(Drop)).reason

    async def test_a_control_plane_that_is_gone_for_too_long_ends_what_runs(self, open_end, plane, server) -> None:
        end = await open_end()
        await leased(end, plane)
        await server.stop()
        assert "nothing was heard" in (await end.hears(Drop)).reason

    async def test_after_a_stop_of_the_process_the_first_thing_done_is_to_drop_what_ran(self, open_end, plane) -> None:
        end = await open_end()
        offer = await leased(end, plane)
        heard = len(end.heard)
        end.clock.added += 30
        assert end.ship(offer) is None
        assert [type(frame) for frame in end.heard[heard:]] == [Drop]
        await plane.changes.until(lambda: plane.connections == 2, "a new link")
        assert plane.rows(offer.job) == []

    async def test_an_offer_that_waited_in_the_buffer_of_a_stopped_process_is_not_taken(self, open_end, plane) -> None:
        end = await open_end()
        await leased(end, plane)
        end.clock.added += 30
        heard = len(end.heard)
        old = plane.offer(JobKind.SUBTASK, b"old news")
        await plane.changes.until(lambda: plane.connections == 2, "a new link")
        assert isinstance(end.heard[heard], Drop)
        assert old.job not in plane.confirmed


def test_the_pauses_grow_from_at_once_to_thirty_seconds_with_jitter() -> None:
    waits = Waits()
    longest = pauses(waits, chance=lambda: 1.0)
    assert [next(longest) for _ in range(8)] == [0.05, 1, 2, 4, 8, 16, 30, 30]
    shortest = pauses(waits, chance=lambda: 0.0)
    assert [next(shortest) for _ in range(4)] == [0, 0.5, 1, 2]


def test_before_the_first_greeting_the_pauses_begin_shorter() -> None:
    eager = pauses(Waits(), chance=lambda: 1.0, eager=True)
    assert [next(eager) for _ in range(4)] == [0.05, 0.2, 0.4, 0.8]


def test_while_something_runs_no_pause_is_longer_than_three_seconds() -> None:
    runs = [True] * 7 + [False] * 3
    holding = pauses(Waits(), chance=lambda: 1.0, holding=iter(runs).__next__)
    assert [next(holding) for _ in range(11)] == [0.05, 1, 2, 3, 3, 3, 3, 3, 30, 30, 30]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://h:1", "ws://h:1/v1/runner/link"),
        ("https://h/prefix/", "wss://h/prefix/v1/runner/link"),
    ],
)
def test_the_link_address_follows_from_the_control_planes(base: str, expected: str) -> None:
    assert link_url(base) == expected


def test_an_address_that_is_none_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        link_url("localhost:3456")


async def test_that_nobody_listens_yet_is_worth_a_warning_only_after_a_while(server, plane) -> None:
    await server.stop()
    noting = Noting(plane.changes)
    logger = logging.getLogger("clawplane.link.connection")
    logger.addHandler(noting)
    level = logger.level
    logger.setLevel(logging.INFO)
    end = End(server.url, plane.changes)
    try:
        await plane.changes.until(lambda: len(noting.levels) > 1)
        assert set(noting.levels) == {logging.INFO}
        end.clock.added = 11.0
        await plane.changes.until(lambda: noting.levels[-1] == logging.WARNING)
    finally:
        end.task.cancel()
        await asyncio.gather(end.task, return_exceptions=True)
        logger.setLevel(level)
        logger.removeHandler(noting)


async def test_a_connection_that_swallows_what_is_said_is_left_without_waiting_for_a_goodbye(plane) -> None:
    """What runs is given up a moment later: that moment is for the next connection."""
    greeted = asyncio.Semaphore(0)
    over = asyncio.Event()

    async def swallow(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(CODEC.encode(Welcome(heartbeat_ms=20, silence_ms=12_000, kept=())))
        socket.transport.pause_reading()
        greeted.release()
        await over.wait()
        socket.transport.abort()

    async with serve(swallow, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]
        patient = Waits(first_retry=0.01, retry=0.02, longest_retry=0.05, close_within=300)
        end = End(f"http://127.0.0.1:{port}", plane.changes, waits=patient)
        try:
            async with asyncio.timeout(30):
                for _ in range(3):
                    await greeted.acquire()
        finally:
            over.set()
            end.task.cancel()
            await asyncio.gather(end.task, return_exceptions=True)
