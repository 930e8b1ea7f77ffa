"""Sessions that end while they are asked: whoever asks hears that, not how it was noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from plane import plane

from clawplane.domain import asks
from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import ClawplaneError, Conflict, StaleLease, Unavailable
from clawplane.domain.sessions import SessionOptions
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


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_who_asks_a_session_that_is_deleted_meanwhile_hears_that_it_was(
    tmp_path: Path, question: str, failure: str
) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(TIME_LIMIT):
        runner = here.runner()
        runner.capabilities = ("sessions", f"sessions@{runner.id}")
        runner.slots = dict.fromkeys(runner.capabilities, 2)
        await runner.connect()
        sessions = here.flows.sessions
        session, _ = await asyncio.gather(sessions.create(ANN, SessionOptions()), runner.take())
        waiting = asyncio.ensure_future(QUESTIONS[question](sessions, session.id))
        asked = await runner.questions.get()
        await sessions.delete(ANN, session.id)
        asked.fail(FAILURES[failure])
        with pytest.raises(Conflict, match=r"ended at .* deleted"):
            await waiting


async def test_who_asks_a_session_that_lives_on_hears_what_its_runner_says(tmp_path: Path) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(TIME_LIMIT):
        runner = here.runner()
        runner.capabilities = ("sessions",)
        runner.slots = {"sessions": 2}
        await runner.connect()
        sessions = here.flows.sessions
        session, _ = await asyncio.gather(sessions.create(ANN, SessionOptions()), runner.take())
        waiting = asyncio.ensure_future(sessions.reset(ANN, session.id, asks.Reset()))
        (await runner.questions.get()).fail(Unavailable("Not now."))
        with pytest.raises(Unavailable, match="Not now"):
            await waiting
