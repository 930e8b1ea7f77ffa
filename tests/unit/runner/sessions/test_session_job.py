"""What is said to those who asked a session that never began."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import msgspec
import pytest

from clawplane.domain.ids import JobId, RunnerId, new_ulid
from clawplane.domain.leases import JobKind, Offer
from clawplane.domain.runner_asks import REFUSED
from clawplane.domain.sessions import SessionOptions, SessionSpec
from clawplane.link.asking import Asking
from clawplane.link.frames import Asked, Failed
from clawplane.runner.jobs.job import CannotPrepare
from clawplane.runner.jobs.session import SessionJob


class Closed:
    """A house that lets nobody in; `error` None lets everybody wait."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def open(self, *_: Any) -> Any:
        if self.error is None:
            await asyncio.Event().wait()
        raise self.error or AssertionError

    def progress(self, _: str) -> str:
        return ""


def asked(job: SessionJob) -> list[Any]:
    """Ask an exec and return where the answer will be."""
    said: list[Any] = []
    job.asked(Asking(Asked(job=JobId(1), fence=1, ask=1, method="exec", body=b""), said.append, lambda _: None))
    return said


def job(error: Exception | None) -> SessionJob:
    spec = msgspec.msgpack.encode(SessionSpec(session="s", owner="o", options=SessionOptions()))
    offer = Offer(
        job=JobId(1),
        kind=JobKind.SESSION,
        subject="s",
        runner=RunnerId(new_ulid(1)),
        attempt=1,
        fence=1,
        nonce=1,
        spec=spec,
        timeout_ms=1000,
    )
    house: Any = Closed(error)
    return SessionJob(offer, house, lambda _: None)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (KeyError("x"), "a defect of the runner (KeyError)"),
    ],
)
async def test_whatever_keeps_a_session_from_starting_is_told(error: Exception, sentence: str) -> None:
    session = job(error)
    said = asked(session)
    with pytest.raises(CannotPrepare, match="could not be started"):
        await session.prepare()
    await session.close()
    (failed,) = said
    assert isinstance(failed, Failed)
    assert sentence in failed.message


async def test_what_was_asked_of_a_session_that_ended_before_it_began_may_be_asked_again() -> None:
    session = job(None)
    said = asked(session)
    preparing = asyncio.create_task(session.prepare())
    await asyncio.sleep(0)
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    await session.close()
    (failed,) = said
    assert (failed.code, failed.details) == ("stale_lease", (REFUSED,))
