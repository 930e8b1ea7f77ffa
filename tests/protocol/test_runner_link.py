"""Conversations of the runner's side of the link, as playbooks without sockets."""

from __future__ import annotations

import pytest

from clawplane.domain.batches import ShippedRow
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import JobKind, Offer, Outcome
from clawplane.link.frames import (
    Cancel,
    Confirm,
    Confirmed,
    Draining,
    Drop,
    End,
    Ended,
    Free,
    Heard,
    Heartbeat,
    Offered,
    Rejected,
    Ship,
    Stored,
    Welcome,
)
from clawplane.link.protocol import Identity, RunnerSide

DONE = Outcome(succeeded=True, reason="exit", exit_code=0)
WELCOME = Welcome(heartbeat_ms=3000, silence_ms=12_000)


def offer(job: int = 1, fence: int = 10) -> Offer:
    return Offer(
        job=JobId(job),
        kind=JobKind.SUBTASK,
        subject="run",
        runner=RunnerId("R"),
        attempt=1,
        fence=fence,
        nonce=5,
        spec=b"",
        timeout_ms=1000,
    )


@pytest.fixture
def side() -> RunnerSide:
    identity = Identity(
        runner=RunnerId("R"), name="r", version="0", capabilities=("workers",), labels={}, slots={"workers": 2}
    )
    return RunnerSide(identity)


def greet(side: RunnerSide, now: float = 0.0, **kept: object) -> list[object]:
    side.hello(now)
    return side.receive(Welcome(heartbeat_ms=3000, silence_ms=12_000, **kept), now)


def kinds(frames: list[object]) -> list[type]:
    return [type(frame) for frame in frames]


def row(text: bytes = b"{}") -> list[ShippedRow]:
    return [ShippedRow(text)]


def leased(side: RunnerSide) -> None:
    greet(side)
    side.receive(Offered(offer=offer(), offer_ms=10_000), 0)
    side.confirm(offer())
    side.receive(Confirmed(job=JobId(1), fence=10), 0)
    side.take()


def test_nothing_is_said_before_welcome(side: RunnerSide) -> None:
    side.hello(0)
    side.confirm(offer())
    side.free({"workers": 1})
    side.beat(1)
    assert side.take() == []


def test_a_confirmation_that_got_lost_with_the_link_is_said_again(side: RunnerSide) -> None:
    greet(side)
    side.confirm(offer())
    side.take()
    side.unlinked()
    greet(side)
    assert Confirm in kinds(side.take())


def test_batches_are_numbered_from_one_without_gaps(side: RunnerSide) -> None:
    leased(side)
    assert [side.ship(JobId(1), 10, row(), [], None) for _ in range(3)] == [1, 2, 3]
    assert [frame.batch.seq for frame in side.take()] == [1, 2, 3]


def test_an_end_waits_until_the_last_batch_is_stored(side: RunnerSide) -> None:
    leased(side)
    side.ship(JobId(1), 10, row(), [], None)
    side.end(JobId(1), 10, DONE)
    assert kinds(side.take()) == [Ship]
    side.receive(Stored(job=JobId(1), fence=10, seq=1), 0)
    assert kinds(side.take()) == [End]


def test_after_a_reconnect_only_batches_behind_the_stored_one_are_sent_again(side: RunnerSide) -> None:
    leased(side)
    for _ in range(3):
        side.ship(JobId(1), 10, row(), [], None)
    side.unlinked()
    hello = side.hello(5)
    assert hello.held == ((JobId(1), 10),)
    heard = side.receive(Welcome(heartbeat_ms=3000, silence_ms=12_000, kept=((JobId(1), 10, 2),)), 5)
    assert Stored(job=JobId(1), fence=10, seq=2) in heard
    assert [frame.batch.seq for frame in side.take() if isinstance(frame, Ship)] == [3]


def test_what_was_shipped_without_a_link_is_sent_after_the_next_welcome(side: RunnerSide) -> None:
    leased(side)
    side.unlinked()
    side.ship(JobId(1), 10, row(), [], None)
    greet(side, kept=((JobId(1), 10, 0),))
    assert [frame.batch.seq for frame in side.take() if isinstance(frame, Ship)] == [1]


def test_an_end_is_repeated_until_it_is_answered(side: RunnerSide) -> None:
    leased(side)
    side.end(JobId(1), 10, DONE)
    assert kinds(side.take()) == [End]
    side.unlinked()
    greet(side, kept=((JobId(1), 10, 0),))
    assert End in kinds(side.take())
    assert kinds(side.receive(Ended(job=JobId(1), fence=10), 0)) == [Ended]
    side.unlinked()
    assert side.hello(1).held == ()


def test_a_lease_that_a_welcome_does_not_name_is_dropped(side: RunnerSide) -> None:
    leased(side)
    side.unlinked()
    assert kinds(greet(side)) == [Welcome, Drop]
    assert side.ship(JobId(1), 10, row(), [], None) is None


def test_a_word_with_another_fence_changes_nothing(side: RunnerSide) -> None:
    leased(side)
    side.ship(JobId(1), 10, row(), [], None)
    for frame in (
        Drop(job=JobId(1), fence=9, reason=""),
        Ended(job=JobId(1), fence=11),
        Cancel(job=JobId(1), fence=9, reason=""),
        Stored(job=JobId(1), fence=9, seq=1),
        Confirmed(job=JobId(2), fence=10),
    ):
        assert side.receive(frame, 0) == []
    assert side.held() == ((JobId(1), 10),)


def test_a_late_answer_about_stored_batches_is_swallowed(side: RunnerSide) -> None:
    leased(side)
    side.ship(JobId(1), 10, row(), [], None)
    side.receive(Stored(job=JobId(1), fence=10, seq=1), 0)
    assert side.receive(Stored(job=JobId(1), fence=10, seq=1), 0) == []


def test_a_heartbeat_names_the_leases_held(side: RunnerSide) -> None:
    leased(side)
    side.beat(3)
    (beat,) = side.take()
    assert isinstance(beat, Heartbeat)
    assert beat.held == ((JobId(1), 10),)


def test_silence_counts_from_when_the_answered_heartbeat_was_sent(side: RunnerSide) -> None:
    leased(side)
    side.beat(3)
    (beat,) = side.take()
    side.receive(Heard(beat=beat.beat), 8)
    assert not side.silent(12.9)
    assert side.silent(13.0)


def test_an_unanswered_heartbeat_does_not_put_silence_off(side: RunnerSide) -> None:
    leased(side)
    side.beat(3)
    side.beat(6)
    side.take()
    assert side.silent(10.0)
    assert side.unanswered(9) == 6


def test_a_runner_that_holds_nothing_is_never_silent(side: RunnerSide) -> None:
    greet(side)
    assert not side.silent(1e9)


def test_after_too_long_a_silence_what_runs_is_given_up_and_what_has_ended_is_kept(side: RunnerSide) -> None:
    leased(side)
    side.confirm(offer(2, 20))
    side.receive(Confirmed(job=JobId(2), fence=20), 0)
    side.end(JobId(2), 20, DONE)
    assert [(frame.job, frame.fence) for frame in side.give_up(1e9)] == [(1, 10)]
    assert side.held() == ((JobId(2), 20),)
    assert not side.silent(1e9)


def test_draining_is_said_again_after_a_reconnect(side: RunnerSide) -> None:
    greet(side)
    side.drain()
    side.take()
    side.unlinked()
    greet(side)
    assert Draining in kinds(side.take())


def test_free_slots_are_told_after_every_welcome(side: RunnerSide) -> None:
    greet(side)
    side.free({"workers": 1})
    side.take()
    side.unlinked()
    greet(side)
    assert [frame.free for frame in side.take() if isinstance(frame, Free)] == [{"workers": 1}]


def test_a_refusal_is_passed_on(side: RunnerSide) -> None:
    assert side.receive(Rejected(reason="no"), 0) == [Rejected(reason="no")]


def test_shipping_after_the_end_is_refused(side: RunnerSide) -> None:
    leased(side)
    side.end(JobId(1), 10, DONE)
    assert side.ship(JobId(1), 10, row(), [], None) is None


def test_what_a_runner_cannot_offer_is_said_at_once_and_after_every_reconnect(side: RunnerSide) -> None:
    greet(side)
    side.take()
    side.unable({"workers": "the host does not hold"}, {"workers": 0})
    said = side.take()
    assert said == [Free(free={"workers": 0}, unable={"workers": "the host does not hold"})]
    greet(side)
    assert [frame for frame in side.take() if isinstance(frame, Free)] == said
