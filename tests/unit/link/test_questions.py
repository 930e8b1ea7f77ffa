"""Questions to live sessions, both ends against each other over a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from websockets.asyncio.client import connect

from clawplane.domain.batches import Batch, ShippedRow
from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import ClawplaneError, Conflict, InvalidArgument, StaleLease, Unavailable
from clawplane.domain.ids import JobId, RunnerId, new_ulid
from clawplane.domain.leases import JobKind, Offer, Outcome
from clawplane.domain.runner_asks import CUT, REFUSED
from clawplane.domain.sessions import LiveState, SessionState
from clawplane.link.asking import Asking, Withdrawal
from clawplane.link.codec import Codec
from clawplane.link.connection import Link, Waits, link_url
from clawplane.link.flow import MAX_TOLD
from clawplane.link.frames import CHUNK, WINDOW, Answered, Asked, Confirm, Confirmed, Hello, Offered, ServerFrame, Told
from clawplane.link.protocol import Identity

TOKEN = "runner-token-of-the-tests"
TIME_LIMIT = 10.0
QUICK = Waits(first_retry=0.01, retry=0.02, longest_retry=0.05, close_within=0.5)
CODEC = Codec()


class Holder:
    """A runner's end that takes every offer and hands every question to the test."""

    def __init__(self, url: str, changes) -> None:
        self.questions: asyncio.Queue[Asking] = asyncio.Queue()
        self.play: Callable[[Asking], None] = self.questions.put_nowait
        self.heard: list[ServerFrame] = []
        self.changes = changes
        identity = Identity(
            runner=RunnerId(new_ulid(1_780_000_000_000)),
            name="holder",
            version="0",
            capabilities=("sessions",),
            labels={},
            slots={"sessions": 4},
        )
        self.link = Link(
            url,
            TOKEN,
            identity,
            self._hear,
            clock=SystemClock(),
            waits=QUICK,
            asked=self._asked,
        )
        self.task = asyncio.create_task(self.link.run())

    def _asked(self, asking: Asking) -> None:
        self.play(asking)

    def _hear(self, frame: ServerFrame) -> None:
        self.heard.append(frame)
        if isinstance(frame, Offered):
            self.link.confirm(frame.offer)
        self.changes.note()

    async def question(self) -> Asking:
        async with asyncio.timeout(TIME_LIMIT):
            return await self.questions.get()


@pytest.fixture
async def holder(server, plane) -> AsyncIterator[Holder]:
    holder = Holder(server.url, plane.changes)
    await plane.changes.until(lambda: holder.link.linked, "the link stands")
    yield holder
    holder.task.cancel()
    await asyncio.gather(holder.task, return_exceptions=True)


@pytest.fixture
async def session(holder: Holder, plane) -> Offer:
    return await leased(holder, plane)


async def leased(holder: Holder, plane) -> Offer:
    offer = plane.offer(JobKind.SESSION, b"x")
    await plane.changes.until(
        lambda: any(isinstance(frame, Confirmed) and frame.fence == offer.fence for frame in holder.heard), "confirmed"
    )
    return offer


def ask(plane, offer: Offer, method: str = "exec", body: bytes = b"1+1"):
    return plane.connection.ask(offer.job, offer.fence, method, body)


async def soon(coroutine):
    async with asyncio.timeout(TIME_LIMIT):
        return await coroutine


async def test_a_quiet_question_is_told_nothing(holder, plane, session) -> None:
    asked = plane.connection.ask(session.job, session.fence, "exec", b"1+1", quiet=True)
    question = await holder.question()
    for _ in range(WINDOW + 1):
        await soon(question.tell(b"x" * CHUNK))
    question.answer(b"2")
    assert await soon(asked.answer()) == b"2"
    assert [body async for body in asked] == []


async def test_a_question_reaches_the_runner_and_its_answer_comes_back(holder, plane, session) -> None:
    asked = ask(plane, session)
    question = await holder.question()
    assert (question.job, question.method, question.body) == (session.job, "exec", b"1+1")
    question.answer(b"2")
    assert await soon(asked.answer()) == b"2"


async def test_what_is_told_comes_in_order_before_the_answer(holder, plane, session) -> None:
    asked = ask(plane, session)
    question = await holder.question()
    for number in range(5):
        await question.tell(b"%d" % number)
    question.answer(b"done")
    assert [told async for told in asked] == [b"0", b"1", b"2", b"3", b"4"]
    assert await soon(asked.answer()) == b"done"


async def test_a_question_may_follow_its_offer_before_the_lease_is_confirmed(holder, plane) -> None:
    gate = asyncio.Event()
    plane.before = lambda word: gate.wait() if word == "confirm" else None
    offer = plane.offer(JobKind.SESSION, b"x")
    asked = ask(plane, offer)
    (await holder.question()).answer(b"early")
    assert await soon(asked.answer()) == b"early"
    gate.set()


async def test_an_error_of_the_runner_is_raised_as_one_of_the_one_tree(holder, plane, session) -> None:
    asked = ask(plane, session)
    (await holder.question()).fail(InvalidArgument("path: no.", hint="Use another.", details=("why",)))
    with pytest.raises(InvalidArgument) as raised:
        await soon(asked.answer())
    assert (raised.value.message, raised.value.hint, raised.value.details) == ("path: no.", "Use another.", ("why",))


async def test_a_question_with_a_stale_fence_is_refused(plane, holder, session) -> None:
    asked = plane.connection.ask(session.job, session.fence + 1, "exec", b"")
    with pytest.raises(StaleLease):
        await soon(asked.answer())
    assert holder.questions.empty()


async def test_a_question_after_the_end_was_reported_is_refused(plane, holder, session) -> None:
    holder.link.end(session.job, session.fence, Outcome(succeeded=True, reason="closed"))
    with pytest.raises(Conflict):
        await soon(ask(plane, session).answer())


async def test_a_stream_waits_for_a_caller_that_does_not_read(holder, plane, session) -> None:
    asked = ask(plane, session)
    question = await holder.question()
    told = 0

    async def tell() -> None:
        nonlocal told
        for _ in range(3 * WINDOW):
            await question.tell(b"x")
            told += 1
        question.answer(b"")

    telling = asyncio.create_task(tell())
    other = ask(plane, session, "state")
    (await holder.question()).answer(b"alive")  # by now everything that has credit was said
    assert await soon(other.answer()) == b"alive"
    assert told == WINDOW
    assert len([body async for body in asked]) == 3 * WINDOW
    await telling


async def test_a_caller_that_wants_only_the_answer_is_not_waited_for(holder, plane, session) -> None:
    asked = ask(plane, session)
    question = await holder.question()

    async def tell() -> None:
        for _ in range(5 * WINDOW):
            await question.tell(b"x" * 1000)
        question.answer(b"end")

    telling = asyncio.create_task(tell())
    assert await soon(asked.answer()) == b"end"
    await telling


async def test_large_events_cost_more_credit_and_never_all_of_it(holder, plane, session) -> None:
    asked = ask(plane, session)
    question = await holder.question()
    sizes = [MAX_TOLD, 1, 5 * CHUNK, MAX_TOLD, 40 * CHUNK, 3]

    async def tell() -> None:
        for size in sizes:
            await question.tell(b"x" * size)
        question.answer(b"")

    telling = asyncio.create_task(tell())
    assert [len(body) async for body in asked] == sizes
    await telling


async def test_what_is_fed_arrives_whole_and_in_order_however_slowly_it_is_taken(holder, plane, session) -> None:
    asked = ask(plane, session, "write")
    question = await holder.question()
    data = bytes(range(256)) * 4 * CHUNK  # 64 MiB: many windows
    taken = bytearray()

    async def take() -> None:
        async for piece in question.feed:
            taken.extend(piece)
        question.answer(b"ok")

    taking = asyncio.create_task(take())
    for at in range(0, len(data), 1 << 20):
        await soon(asked.feed(data[at : at + (1 << 20)]))
    await asked.feed(b"", last=True)
    assert await soon(asked.answer()) == b"ok"
    await taking
    assert taken == data


async def test_a_question_is_not_behind_what_others_feed(holder, plane, session) -> None:
    upload = ask(plane, session, "write")
    await holder.question()

    async def feed() -> None:
        for _ in range(WINDOW * 2):
            await upload.feed(b"x" * CHUNK)

    feeding = asyncio.create_task(feed())
    for _ in range(20):
        asked = ask(plane, session, "state")
        (await holder.question()).answer(b"")
        await soon(asked.answer())
    assert not feeding.done()  # nobody has taken a byte of it
    upload.withdraw()
    await soon(feeding)


async def test_a_caller_that_leaves_is_told_to_the_runner_and_ends_its_upload(holder, plane, session) -> None:
    asked = ask(plane, session, "write")
    question = await holder.question()
    await asked.feed(b"half")
    asked.withdraw()
    await soon(question.withdrawn.wait())
    with pytest.raises(Withdrawal):
        async for _ in question.feed:
            pass
    await soon(question.tell(b"to nobody"))
    question.answer(b"to nobody")
    with pytest.raises(Unavailable):
        await asked.answer()


async def test_a_cut_link_answers_who_waits_and_withdraws_at_the_runner(holder, plane, session, server) -> None:
    asked = ask(plane, session)
    question = await holder.question()
    await server.stop()
    with pytest.raises(Unavailable) as raised:
        await soon(asked.answer())
    assert raised.value.details == (CUT,)
    await soon(question.withdrawn.wait())


async def test_a_question_on_a_link_that_is_gone_is_answered_at_once(holder, plane, session, server) -> None:
    gone = plane.connection
    await server.stop()
    with pytest.raises(Unavailable):
        await soon(gone.ask(session.job, session.fence, "exec", b"").answer())


async def test_an_end_answers_what_was_still_asked(holder, plane, session) -> None:
    asked = ask(plane, session)
    await holder.question()
    holder.link.end(session.job, session.fence, Outcome(succeeded=True, reason="closed"))
    with pytest.raises(Conflict):
        await soon(asked.answer())


async def test_an_exec_behind_the_saving_of_its_session_was_not_begun_and_nothing_is_said_of_others(
    holder, plane, session
) -> None:
    execs, reset = ask(plane, session), ask(plane, session, "reset")
    await holder.question()
    await holder.question()
    holder.link.end(session.job, session.fence, Outcome(succeeded=True, reason="saved"))
    with pytest.raises(StaleLease) as unbegun:
        await soon(execs.answer())
    assert REFUSED in unbegun.value.details
    with pytest.raises(Conflict):
        await soon(reset.answer())


async def test_a_dropped_lease_withdraws_its_questions_and_no_others(holder, plane, session) -> None:
    other = await leased(holder, plane)
    kept, lost = ask(plane, other), ask(plane, session)
    questions = {question.job: question for question in (await holder.question(), await holder.question())}
    plane.connection.drop(session.job, session.fence, "it is gone")
    with pytest.raises(ClawplaneError):
        await soon(lost.answer())
    await soon(questions[session.job].withdrawn.wait())
    questions[other.job].answer(b"mine")
    assert await soon(kept.answer()) == b"mine"


async def test_an_answer_does_not_wait_for_batches_that_the_store_is_slow_with(holder, plane, session) -> None:
    worker = plane.offer(JobKind.SUBTASK, b"x")
    await plane.changes.until(lambda: worker.job in plane.confirmed, "confirmed")
    gate = asyncio.Event()
    real_ship = plane.ship

    async def ship(runner, batch: Batch):
        await gate.wait()
        return await real_ship(runner, batch)

    plane.ship = ship
    for _ in range(1000):
        holder.link.ship(worker.job, worker.fence, [ShippedRow(b"x" * 1000)], [], None)
    holder.play = lambda question: question.answer(b"quick")
    assert await soon(ask(plane, session).answer()) == b"quick"
    assert plane.stored[worker.job] == 0
    gate.set()
    await plane.changes.until(lambda: plane.stored[worker.job] == 1000, "all batches")


async def test_a_state_is_noted_and_said_again_after_a_reconnect(holder, plane, session, server) -> None:
    state = LiveState(state=SessionState.RUNNING, memory=5)
    holder.link.note(session.job, session.fence, state)
    await plane.changes.until(lambda: plane.states.get(session.job) == [state], "the state")
    await server.stop()
    await server.start()
    await plane.changes.until(lambda: plane.states.get(session.job) == [state, state], "the state again")


async def test_a_defect_of_the_handler_fails_the_question_and_not_the_link(holder, plane, session) -> None:
    def broken(question: Asking) -> None:
        raise Conflict("not now")

    holder.play = broken
    with pytest.raises(Conflict, match="not now"):
        await soon(ask(plane, session).answer())
    assert plane.connections == 1


async def test_a_runner_without_sessions_says_so(server, plane) -> None:
    holder = Holder(server.url, plane.changes)
    holder.link._questions._asked = None
    try:
        await plane.changes.until(lambda: holder.link.linked, "the link stands")
        offer = await leased(holder, plane)
        with pytest.raises(ClawplaneError, match="holds no sessions"):
            await soon(ask(plane, offer).answer())
    finally:
        holder.task.cancel()
        await asyncio.gather(holder.task, return_exceptions=True)


async def test_a_runner_that_says_more_than_it_has_credit_for_is_hung_up_on(server, plane) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(link_url(server.url), additional_headers=headers, compression=None, ping_interval=None) as raw:
        hello = Hello(
            protocol=1,
            runner=RunnerId(new_ulid(1_780_000_000_000)),
            name="raw",
            version="0",
            capabilities=("sessions",),
            labels={},
            slots={"sessions": 1},
        )
        await raw.send(CODEC.encode(hello))
        await raw.recv()
        plane.offer(JobKind.SESSION, b"x", job=5)
        offered = CODEC.from_server(await raw.recv())
        assert isinstance(offered, Offered)
        await raw.send(CODEC.encode(Confirm(claim=plane.leases[JobId(5)])))
        await raw.recv()
        asked = plane.connection.ask(JobId(5), offered.offer.fence, "exec", b"")
        frame = CODEC.from_server(await raw.recv())
        assert isinstance(frame, Asked)
        stale = Answered(job=frame.job, fence=frame.fence + 1, ask=frame.ask, body=b"forged")
        await raw.send(CODEC.encode(stale))
        told = Told(job=frame.job, fence=frame.fence, ask=frame.ask, body=b"x")
        for _ in range(WINDOW + 1):
            await raw.send(CODEC.encode(told))
        await raw.wait_closed()
        assert "credit" in (raw.close_reason or "")
        with pytest.raises(Unavailable):
            await soon(asked.answer())
