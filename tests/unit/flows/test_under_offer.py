"""Sessions that are asked while their runner has only been offered them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plane import Plane, ScriptedRunner, claim, plane

from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import Conflict, StaleLease, Unavailable
from clawplane.domain.leases import Offer
from clawplane.domain.runner_asks import CUT, REFUSED
from clawplane.domain.sessions import ExecEvent, ExecRequest, ExecResult, SessionOptions
from clawplane.flows.execs import Execution

ANN = Caller(key_id="k", owner="ann", scopes=frozenset({Scope.ADMIN}))
TIME_LIMIT = 10.0
encode = msgspec.msgpack.encode


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path) as opened:
        yield opened


@pytest.fixture
async def runner(here: Plane) -> ScriptedRunner:
    runner = here.runner()
    runner.capabilities = ("sessions", f"sessions@{runner.id}")
    runner.slots = dict.fromkeys(runner.capabilities, 2)
    await runner.connect()
    return runner


async def asked(here: Plane, runner: ScriptedRunner, *, quiet: bool = True) -> tuple[Execution, Offer]:
    """Return an exec in a new session that its runner has answered without having confirmed the offer."""
    sessions = here.flows.sessions
    session = await sessions.create(ANN, SessionOptions())
    run = await sessions.prepare(ANN, session.id, sessions.request("python", "1+1"), quiet=quiet)
    await run.__aenter__()
    offer = await runner.next_offer()
    question = await soon(runner.questions.get())
    request = msgspec.msgpack.decode(question.body, type=ExecRequest)
    await question.tell(encode(ExecEvent(type="stdout", text="2\n")))
    question.answer(encode(ExecResult(exec_id=request.id, session_id=session.id, stdout="2\n")))
    return run, offer


async def soon(work: Any) -> Any:
    async with asyncio.timeout(TIME_LIMIT):
        return await work


async def test_an_answer_is_given_when_the_lease_is_stored(here: Plane, runner: ScriptedRunner) -> None:
    run, offer = await asked(here, runner)
    result = asyncio.create_task(run.result())
    done, _ = await asyncio.wait([result], timeout=0.05)
    assert not done
    assert await here.flows.leases.confirm(runner.id, claim(offer))
    assert (await soon(result)).stdout == "2\n"
    await run.__aexit__(None, None, None)


async def test_events_are_told_when_the_lease_is_stored(here: Plane, runner: ScriptedRunner) -> None:
    run, offer = await asked(here, runner, quiet=False)
    events = run.events()
    first = asyncio.ensure_future(anext(events))
    done, _ = await asyncio.wait([first], timeout=0.05)
    assert not done
    assert await here.flows.leases.confirm(runner.id, claim(offer))
    assert (await soon(first)).text == "2\n"
    assert [event async for event in events] == []
    await run.__aexit__(None, None, None)


async def test_nothing_is_believed_of_an_offer_that_is_given_back(here: Plane, runner: ScriptedRunner) -> None:
    run, _ = await asked(here, runner)
    await runner.disconnect()
    with pytest.raises(Unavailable) as raised:
        await soon(run.result())
    assert CUT in raised.value.details
    await run.__aexit__(None, None, None)
    _, kept = await here.flows.sessions.execs(ANN, run.session.id, limit=1, offset=0)
    assert kept[0].status != "ok"


async def test_a_caller_who_leaves_lets_the_others_wait_for_the_lease(here: Plane, runner: ScriptedRunner) -> None:
    run, offer = await asked(here, runner)
    left, stays = asyncio.create_task(run.result()), asyncio.create_task(run.result())
    await asyncio.wait([left, stays], timeout=0.02)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert await here.flows.leases.confirm(runner.id, claim(offer))
    assert (await soon(stays)).stdout == "2\n"
    await run.__aexit__(None, None, None)


async def test_an_exec_of_a_session_that_is_deleted_before_it_began_hears_that(
    here: Plane, runner: ScriptedRunner
) -> None:
    sessions = here.flows.sessions
    session = await sessions.create(ANN, SessionOptions())
    run = await sessions.prepare(ANN, session.id, sessions.request("python", "1+1"), quiet=True)
    await run.__aenter__()
    question = await soon(runner.questions.get())
    await sessions.delete(ANN, session.id)
    question.fail(StaleLease("It ended before it was started.", details=(REFUSED,)))
    with pytest.raises(Conflict, match=r"ended at .* It was deleted"):
        await soon(run.result())
    await run.__aexit__(None, None, None)
    assert runner.questions.empty()
