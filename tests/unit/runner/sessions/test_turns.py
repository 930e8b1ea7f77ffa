"""The queue of one session."""

from __future__ import annotations

import asyncio

import pytest

from clawplane.domain.errors import RateLimited, StaleLease
from clawplane.domain.ids import JobId
from clawplane.link.asking import Asking
from clawplane.link.frames import Asked
from clawplane.runner.sessions.turns import MOST_WAITING, Turns


def asking(said=None, body=b""):
    frame = Asked(job=JobId(1), fence=1, ask=1, method="exec", body=body)
    return Asking(frame, (said if said is not None else []).append, lambda number: None)


async def test_questions_come_out_in_the_order_of_their_arrival():
    turns, asked = Turns(), [asking() for _ in range(3)]
    for each in asked:
        turns.add(each)
    assert [await turns.next(None) for _ in asked] == asked


async def test_a_question_whose_caller_has_left_is_dropped_and_told():
    dropped = []
    turns, left, stays = Turns(dropped.append), asking(), asking()
    turns.add(left)
    turns.add(stays)
    left.withdraw()
    assert await turns.next(None) is stays
    assert dropped == [left]


async def test_too_many_questions_are_refused():
    turns = Turns()
    for _ in range(MOST_WAITING):
        turns.add(asking())
    with pytest.raises(RateLimited, match="wait for this session"):
        turns.add(asking())


async def test_questions_of_too_many_bytes_are_refused():
    turns, large = Turns(), asking(body=bytes(16 << 20))
    turns.add(large)
    turns.add(large)
    with pytest.raises(RateLimited):
        turns.add(large)


async def test_waiting_ends_at_its_time_and_when_woken():
    turns = Turns()
    assert await turns.next(asyncio.get_running_loop().time()) is None
    waiting = asyncio.create_task(turns.next(None))
    await asyncio.sleep(0)
    turns.wake()
    assert await waiting is None


async def test_what_waits_can_be_refused_as_a_whole():
    said = []
    turns = Turns()
    turns.add(asking(said))
    turns.refuse(StaleLease("over"))
    assert said[0].message == "over"
    assert len(turns) == 0
