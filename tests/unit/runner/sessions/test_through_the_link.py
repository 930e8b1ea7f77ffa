"""Sessions on a real runner, asked over a real link by the control plane in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from clawplane.domain.asks import METHODS, Nothing, Sleep
from clawplane.domain.leases import JobKind
from clawplane.domain.runner_asks import ForgetSession
from clawplane.domain.sessions import ExecRequest, ExecResult, LiveState, SessionOptions, SessionSpec, SessionState


def spec(session: str, **more: Any) -> SessionSpec:
    return SessionSpec(session=session, owner="o", options=SessionOptions(profile="bare"), **more)


async def ask(plane: Any, offer: Any, method: str, question: msgspec.Struct) -> Any:
    asked = plane.connection.ask(offer.job, offer.fence, method, msgspec.msgpack.encode(question))
    async with asyncio.timeout(20):
        return msgspec.msgpack.decode(await asked.answer(), type=METHODS[method][2])


async def python(plane: Any, offer: Any, code: str) -> ExecResult:
    found: ExecResult = await ask(plane, offer, "exec", ExecRequest(id="x", tool="python", code=code))
    return found


@pytest.fixture
def settings(settings: Any) -> Any:
    """A runner that offers sessions without packages."""
    return replace(settings, sessions=True, session_profiles=("bare",), session_ready=("bare",), session_slots=3)


async def test_a_runner_offers_sessions_to_all_and_to_those_that_are_bound_to_its_disk(plane, real_runner):
    (record,) = plane.runners.values()
    assert record.slots["sessions"] == 3
    assert record.slots[f"sessions@{record.id}"] == 3


async def test_a_question_that_follows_its_offer_at_once_is_answered(plane, real_runner):
    offer = plane.offer(JobKind.SESSION, spec("s"))
    assert (await python(plane, offer, "1+1")).results[0]["text/plain"] == "2"
    plane.connection.cancel(offer.job, offer.fence, "deleted")
    assert (await plane.ended(offer)).outcome.reason == "closed"


async def test_a_session_begins_with_its_offer_beside_the_confirmation(plane, real_runner):
    gate = asyncio.Event()
    plane.before = lambda word: gate.wait() if word == "confirm" else None
    offer = plane.offer(JobKind.SESSION, spec("s"))
    assert (await python(plane, offer, "1+1")).results[0]["text/plain"] == "2"
    gate.set()
    plane.connection.cancel(offer.job, offer.fence, "deleted")
    assert (await plane.ended(offer)).outcome.reason == "closed"


async def test_a_runner_that_leaves_saves_its_sessions(plane, real_runner):
    offer = plane.offer(JobKind.SESSION, spec("s"))
    await python(plane, offer, "x = 1")
    real_runner.drain()
    assert (await plane.ended(offer)).outcome.reason == "saved"


async def test_a_sleeping_session_wakes_with_a_new_job_and_is_forgotten_on_request(plane, real_runner, settings):
    offer = plane.offer(JobKind.SESSION, spec("s"))
    await python(plane, offer, "x = 1")
    await ask(plane, offer, "sleep", Sleep(save=True))
    await plane.ended(offer)
    again = plane.offer(JobKind.SESSION, spec("s", resume=True))
    assert (await python(plane, again, "x")).results[0]["text/plain"] == "1"
    await ask(plane, again, "sleep", Sleep(save=True))
    await plane.ended(again)
    asked = plane.connection.ask(0, 0, "forget_session", msgspec.msgpack.encode(ForgetSession(session="s")))
    assert msgspec.msgpack.decode(await asked.answer(), type=Nothing) == Nothing()
    assert not list((settings.data / "sessions").iterdir())


async def test_a_lost_lease_ends_the_session_and_keeps_its_files(plane, real_runner):
    offer = plane.offer(JobKind.SESSION, spec("s"))
    await python(plane, offer, "open('a', 'w').write('kept')")
    plane.connection.drop(offer.job, offer.fence, "lost")
    again = plane.offer(JobKind.SESSION, spec("s", resume=True))
    assert (await python(plane, again, "open('a').read()")).results[0]["text/plain"] == "'kept'"


async def test_a_profile_that_is_not_offered_is_refused_by_name(plane, real_runner):
    options = SessionOptions(profile="full")
    offer = plane.offer(JobKind.SESSION, SessionSpec(session="s", owner="o", options=options))
    end = await plane.ended(offer)
    assert end.outcome.reason == "setup"
    assert "profile full" in end.outcome.message


async def test_states_are_noted_without_being_asked(plane, real_runner):
    offer = plane.offer(JobKind.SESSION, spec("s"))
    await python(plane, offer, "1")
    await ask(plane, offer, "sleep", Sleep())
    states: list[LiveState] = []

    def noted() -> bool:
        states[:] = [value for word, value in plane.said if word == "noted"]
        return any(state.state is SessionState.SLEEPING for state in states)

    await plane.changes.until(noted)
