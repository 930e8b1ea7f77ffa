"""Sessions that end while they are asked: whoever asks hears that, not how it was noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plane import Plane, ScriptedRunner, plane

from clawplane.domain import asks
from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import ClawplaneError, Conflict, StaleLease, Unavailable
from clawplane.domain.leases import Offer
from clawplane.domain.runner_asks import REFUSED
from clawplane.domain.sessions import ExecResult, LiveState, Session, SessionOptions, SessionSpec, SessionState
from clawplane.flows.session_places import Patience
from clawplane.flows.sessions import Sessions

ANN = Caller(key_id="k", owner="ann", scopes=frozenset({Scope.ADMIN}))
TIME_LIMIT = 10.0


async def _pieces() -> AsyncIterator[bytes]:
    yield b"content"


async def _read(sessions: Sessions, session: str) -> None:
    async for _ in sessions.read(ANN, session, asks.ReadFile(path="a")):
        pass


async def _stat(sessions: Sessions, session: str) -> None:
    await (await sessions.files(ANN, session)).stat("a")


QUESTIONS: dict[str, Callable[[Sessions, str], Awaitable[Any]]] = {
    "reset": lambda sessions, session: sessions.reset(ANN, session, asks.Reset()),
    "branch": lambda sessions, session: sessions.branch(ANN, session),
    "write": lambda sessions, session: sessions.write(ANN, session, asks.WriteFile(path="a"), _pieces()),
    "read": _read,
    "stat": _stat,
}
FAILURES: dict[str, ClawplaneError] = {
    "unavailable": Unavailable("The interpreter could not be started: the sandbox has ended."),
    "stale": StaleLease("The lease is over."),
}


async def _session(here: Plane) -> tuple[ScriptedRunner, Sessions, Session, Offer]:
    """Create a session that a scripted runner has; what it is asked waits in its `questions`."""
    runner = here.runner()
    runner.capabilities = ("sessions", f"sessions@{runner.id}")
    runner.slots = dict.fromkeys(runner.capabilities, 2)
    await runner.connect()
    session, offer = await asyncio.gather(here.flows.sessions.create(ANN, SessionOptions()), runner.take())
    return runner, here.flows.sessions, session, offer


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_who_asks_a_session_that_is_deleted_meanwhile_hears_that_it_was(
    tmp_path: Path, question: str, failure: str
) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(TIME_LIMIT):
        runner, sessions, session, _ = await _session(here)
        waiting = asyncio.ensure_future(QUESTIONS[question](sessions, session.id))
        asked = await runner.questions.get()
        await sessions.delete(ANN, session.id)
        asked.fail(FAILURES[failure])
        with pytest.raises(Conflict, match=r"ended at .* deleted"):
            await waiting


async def test_an_exec_that_is_refused_because_its_session_is_being_deleted_says_so(tmp_path: Path) -> None:
    async with plane(tmp_path, patience=Patience(linking=0.05)) as here, asyncio.timeout(TIME_LIMIT):
        runner, sessions, session, _ = await _session(here)
        request = sessions.request("python", "1")
        async with await sessions.prepare(ANN, session.id, request) as run:
            waiting = asyncio.ensure_future(run.result())
            asked = await runner.questions.get()
            await sessions.delete(ANN, session.id)
            while not waiting.done():
                asked.fail(StaleLease("This life has ended.", details=(REFUSED,)))
                news = asyncio.ensure_future(runner.questions.get())
                await asyncio.wait([waiting, news], return_when=asyncio.FIRST_COMPLETED)
                asked = news.result() if news.done() else asked
                news.cancel()
            with pytest.raises(Conflict, match=r"ended at .* deleted"):
                await waiting


async def test_an_exec_waits_for_the_end_of_a_life_that_is_being_saved(tmp_path: Path) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(TIME_LIMIT):
        runner, sessions, session, offer = await _session(here)
        request = sessions.request("python", "1")
        async with await sessions.prepare(ANN, session.id, request) as run:
            waiting = asyncio.ensure_future(run.result())
            (await runner.questions.get()).fail(StaleLease("This life has ended.", details=(REFUSED,)))
            done, _ = await asyncio.wait([waiting], timeout=0.3)  # its sandbox is being cleared away
            assert not done
            assert runner.questions.empty()
            await runner.end(offer, reason="saved")
            again = await runner.take()
            assert msgspec.msgpack.decode(again.spec, type=SessionSpec).resume
            result = ExecResult(exec_id=request.id, session_id=session.id, stdout="1")
            (await runner.questions.get()).answer(msgspec.msgpack.encode(result))
            assert (await waiting).stdout == "1"


async def test_who_asks_a_session_that_lives_on_hears_what_its_runner_says(tmp_path: Path) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(TIME_LIMIT):
        runner, sessions, session, _ = await _session(here)
        waiting = asyncio.ensure_future(sessions.reset(ANN, session.id, asks.Reset()))
        (await runner.questions.get()).fail(Unavailable("Not now."))
        with pytest.raises(Unavailable, match="Not now"):
            await waiting


async def test_a_session_whose_waker_leaves_at_any_moment_is_offered_and_wakes_for_the_next_one(tmp_path: Path) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(3 * TIME_LIMIT):
        runner, sessions, session, offer = await _session(here)
        state = msgspec.msgpack.encode(LiveState(state=SessionState.RUNNING))
        for moments in (1, 2, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256):
            await runner.end(offer, reason="saved")
            leaving = asyncio.ensure_future(sessions.reset(ANN, session.id, asks.Reset()))
            for _ in range(moments):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            waiting = asyncio.ensure_future(sessions.reset(ANN, session.id, asks.Reset()))
            offer = await runner.take()  # long before an offer that nobody confirms would come again
            while not waiting.done():
                (await runner.questions.get()).answer(state)
                await asyncio.wait([waiting], timeout=0.01)
            assert (await waiting).state is SessionState.RUNNING
