from __future__ import annotations

from typing import Any

import pytest

from clawplane.client.following import Following, Patience
from clawplane.client.http import Http
from clawplane.domain.errors import NotFound, Unavailable


def entry(seq: int) -> dict[str, Any]:
    return {"seq": seq, "type": 2, "group": "", "content": f"line {seq}", "timestamp": 0, "source": "stdout"}


class Time:
    """A clock that only a pause moves on."""

    def __init__(self) -> None:
        self.moment = 0.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.moment

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.moment += seconds

    def patience(self, seconds: float = 60) -> Patience:
        return Patience(seconds=seconds, pause=self.pause, now=self.now)


class End:
    """Says that the log has ended, from the nth time it is asked."""

    def __init__(self, nth: int = 1) -> None:
        self.left = nth

    async def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.fixture
def time() -> Time:
    return Time()


async def collect(http: Http, end: Any, time: Time, lost: list[str], **options: Any) -> list[int]:
    following = Following(
        http, "/log", end, on_lost=lambda error: lost.append(error.message), patience=time.patience(**options)
    )
    return [entry["seq"] async for entry in following.entries()]


async def test_a_log_is_read_to_its_end_and_what_came_meanwhile_is_read_too(
    peer: Any, http: Http, answers: Any, time: Time
) -> None:
    peer.answers = [answers.lines(entry(1), entry(2)), answers.lines(entry(3)), answers.lines()]
    lost: list[str] = []
    assert await collect(http, End(), time, lost) == [1, 2, 3]
    assert peer.requests == [("GET", "/log?after=0&follow=true"), ("GET", "/log?after=2&follow=false")]
    assert lost == []


async def test_a_stream_that_breaks_is_resumed_behind_the_last_entry_and_the_loss_is_told_once(
    peer: Any, http: Http, answers: Any, time: Time
) -> None:
    peer.answers = [answers.lines(entry(1), entry(2), ends=False), None, None, answers.lines(entry(2), entry(3))]
    lost: list[str] = []
    assert await collect(http, End(), time, lost) == [1, 2, 3]
    assert [path for _, path in peer.requests[1:4]] == ["/log?after=2&follow=true"] * 3
    assert len(lost) == 1


async def test_a_stream_that_a_stopping_server_ends_properly_is_asked_for_again(
    peer: Any, http: Http, answers: Any, time: Time
) -> None:
    peer.answers = [answers.lines(entry(1)), answers.lines(entry(2)), answers.lines()]
    assert await collect(http, End(2), time, []) == [1, 2]


async def test_the_pauses_grow_and_the_patience_ends(peer: Any, http: Http, time: Time) -> None:
    peer.answers = [None]
    with pytest.raises(Unavailable):
        await collect(http, End(), time, [], seconds=30)
    assert time.pauses[:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert 30 < time.moment < 40


async def test_an_entry_that_arrives_renews_the_patience(peer: Any, http: Http, answers: Any, time: Time) -> None:
    peer.answers = [
        None,
        None,
        answers.lines(entry(1), ends=False),
        None,
        None,
        answers.lines(entry(2)),
        answers.lines(),
    ]
    lost: list[str] = []
    assert await collect(http, End(), time, lost, seconds=1) == [1, 2]
    assert len(lost) == 2


async def test_a_log_that_is_refused_is_not_asked_for_again(peer: Any, http: Http, answers: Any, time: Time) -> None:
    peer.answers = [answers.reply(b"{}", status=404)]
    with pytest.raises(NotFound):
        await collect(http, End(), time, [])
    assert len(peer.requests) == 1
