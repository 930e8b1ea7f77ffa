"""What is stored of sessions beside their answers."""

from __future__ import annotations

import asyncio
from typing import Any

from clawplane.domain.errors import StoreFull
from clawplane.domain.ids import JobId
from clawplane.domain.session_history import ExecRecord
from clawplane.domain.sessions import LiveState, SessionState
from clawplane.flows.chronicle import Chronicle


class Kept:
    """A store that notes what it is given, and when."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.full = False

    async def record(self, record: ExecRecord, *, now: int) -> None:
        if self.full:
            raise StoreFull("no room")
        self.got.append(record.code)

    async def note(self, session: str, job: JobId, state: LiveState, *, now: int) -> None:
        self.got.append(f"{session} {state.state.value}")


def record(session: str, code: str) -> ExecRecord:
    return ExecRecord(
        id="x", session=session, tool="python", code=code, code_bytes=len(code), started_at=1, ended_at=2, status="ok"
    )


async def test_what_comes_within_a_moment_is_stored_together_and_in_order() -> None:
    kept: Any = Kept()
    chronicle = Chronicle(kept)
    chronicle.record(record("s", "1"), 1)
    chronicle.note("s", JobId(1), LiveState(state=SessionState.RUNNING), 1)
    chronicle.record(record("s", "2"), 1)
    await asyncio.sleep(0)
    assert kept.got == []
    await chronicle.settle()
    assert kept.got == ["1", "s running", "2"]


async def test_a_session_of_which_nothing_waits_is_not_waited_for() -> None:
    kept: Any = Kept()
    chronicle = Chronicle(kept)
    chronicle.record(record("s", "1"), 1)
    await chronicle.settle("other")
    assert kept.got == []
    await chronicle.settle("s")
    assert kept.got == ["1"]


async def test_a_full_moment_is_stored_at_once() -> None:
    kept: Any = Kept()
    chronicle = Chronicle(kept)
    chronicle.record(record("s", "x" * (4 << 20)), 1)
    await asyncio.sleep(0)
    assert len(kept.got) == 1


async def test_a_store_that_is_full_costs_history_and_nothing_else() -> None:
    kept: Any = Kept()
    chronicle = Chronicle(kept)
    kept.full = True
    chronicle.record(record("s", "1"), 1)
    await chronicle.settle()
    kept.full = False
    chronicle.record(record("s", "2"), 1)
    await chronicle.settle("s")
    assert kept.got == ["2"]
