"""What becomes of sessions when the host runs short of memory. Only the shortage is played."""

from __future__ import annotations

import asyncio

from clawplane.domain.asks import Sleep
from clawplane.domain.sessions import SessionState
from clawplane.runner.sessions.shortage import ENOUGH, Shortage


class Memory:
    """Says that memory is short so many times, then that there is enough."""

    def __init__(self, times):
        self.times = times

    def free(self):
        self.times -= 1
        return ENOUGH / 2 if self.times >= 0 else 1.0


def shortage(house, memory, *sheds):
    return Shortage(house._lives.values, sheds, memory.free)


async def asleep(begin, house, code="x = 1"):
    stay = await begin(house)
    await stay.python(code)
    await stay.ask("sleep", Sleep()).answer()
    return stay


async def test_the_sleeper_that_was_used_longest_ago_goes_to_disk_and_comes_back(house, begin):
    first, second = await asleep(begin, house, "x = 41"), await asleep(begin, house)
    await shortage(house, Memory(1)).relieve()
    end = await first.end()
    assert (end.reason, end.succeeded) == ("saved", True)
    assert "short of memory" in end.message
    assert second.spec.session in house._lives
    again = await begin(house, session=first.spec.session, resume=True)
    result = await again.python("x + 1")
    assert result.results[0]["text/plain"] == "42"


async def test_all_that_sleep_go_while_it_is_short_and_none_that_runs(house, begin):
    awake = await begin(house)
    await awake.python("x = 1")
    sleepers = [await asleep(begin, house) for _ in range(2)]
    await shortage(house, Memory(100)).relieve()
    assert [(await each.end()).reason for each in sleepers] == ["saved", "saved"]
    assert list(house._lives) == [awake.spec.session]
    assert (await awake.python("x")).results[0]["text/plain"] == "1"


async def test_a_sleeper_whose_variables_cannot_be_saved_stays_asleep_with_them(house, begin, monkeypatch, tmp_path):
    stay = await asleep(begin, house)
    live = house._lives[stay.spec.session]
    monkeypatch.setattr(house._places, "saved", lambda session: tmp_path / "nowhere" / session)
    assert not await live.retire("a try")
    assert live.state().state is SessionState.SLEEPING
    assert (await stay.python("x")).results[0]["text/plain"] == "1"


async def test_who_is_asked_first_is_not_saved(house, begin):
    stay = await asleep(begin, house)
    live = house._lives[stay.spec.session]
    retiring = asyncio.ensure_future(live.retire("a try"))
    answer = stay.python("x")
    assert (await answer).results[0]["text/plain"] == "1"
    assert not await retiring


async def test_what_was_made_ahead_goes_before_any_session(house, begin):
    stay = await asleep(begin, house)
    made = [1, 2]

    async def shed():
        return bool(made and made.pop())

    await shortage(house, Memory(2), shed).relieve()
    assert made == []
    assert stay.spec.session in house._lives
    await stay.delete()
