"""How long a runner goes on without a word of the control plane: Workers shortly, host tasks through a longer cut."""

from __future__ import annotations

import pytest

from clawplane.domain.batches import INFO, LogLine
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, Finish, JobKind, Offer, Outcome
from clawplane.link.frames import Confirmed, Drop, End, Ended, Hello, Welcome
from clawplane.link.protocol import Identity, RunnerSide

DONE = Outcome(succeeded=True, reason="exit", exit_code=0)


def offer(job: int, kind: JobKind) -> Offer:
    return Offer(
        job=JobId(job),
        kind=kind,
        subject="s",
        runner=RunnerId("R"),
        attempt=1,
        fence=job * 10,
        nonce=5,
        spec=b"",
        timeout_ms=1000,
    )


@pytest.fixture
def side() -> RunnerSide:
    return RunnerSide(
        Identity(runner=RunnerId("R"), name="r", version="0", capabilities=(), labels={}, slots={"host": 2})
    )


def greet(side: RunnerSide, now: float = 0.0, **kept: object) -> list[object]:
    side.hello(now)
    heard: list[object] = side.receive(Welcome(heartbeat_ms=3000, silence_ms=12_000, **kept), now)
    return heard[1:]


def leased(side: RunnerSide, job: int, kind: JobKind) -> None:
    side.confirm(offer(job, kind))
    side.receive(Confirmed(job=JobId(job), fence=job * 10), 0.0)


def finish(job: int) -> Finish:
    return Finish(claim=Claim(job=JobId(job), fence=job * 10, nonce=5), outcome=DONE)


def test_a_silence_ends_workers_first_and_host_tasks_much_later(side: RunnerSide) -> None:
    greet(side)
    leased(side, 1, JobKind.SUBTASK)
    leased(side, 2, JobKind.HOST)
    assert (side.silent(9.9), side.silent(10.0), side.patience_ends) == (False, True, 10.0)
    assert [frame.job for frame in side.give_up(10.0)] == [1]
    assert (side.silent(79.9), side.silent(80.0), side.patience_ends, side.running) == (False, True, 80.0, True)
    assert [(frame.job, frame.reason) for frame in side.give_up(80.0)] == [
        (2, "nothing was heard from the control plane for 80 s")
    ]
    assert (side.running, side.silent(1e9)) == (False, False)


def test_an_end_of_an_earlier_life_is_held_until_it_is_answered(side: RunnerSide) -> None:
    side.restore(finish(3))
    hello = side.hello(0.0)
    assert isinstance(hello, Hello)
    assert hello.held == ((3, 30),)
    assert greet(side, kept=((JobId(3), 30, 4),)) == []
    assert [frame for frame in side.take() if isinstance(frame, End)] == [End(finish=finish(3))]
    assert not side.running
    assert side.receive(Ended(job=JobId(3), fence=30), 0.0)
    assert side.held() == ()


def test_an_end_of_a_host_task_is_said_though_its_lease_is_gone_and_one_of_a_worker_is_not(side: RunnerSide) -> None:
    greet(side)
    for job, kind in ((1, JobKind.SUBTASK), (2, JobKind.HOST)):
        leased(side, job, kind)
        side.ship(JobId(job), job * 10, [], [LogLine(INFO, "x", 0)], None)
        side.end(JobId(job), job * 10, DONE)
    side.take()
    heard = greet(side)
    assert [(type(frame), frame.job) for frame in heard] == [(Drop, 1)]
    assert [frame for frame in side.take() if isinstance(frame, End)] == [End(finish=finish(2))]
    assert side.receive(Drop(job=JobId(2), fence=20, reason="not yours"), 0.0)
    assert side.held() == ()
