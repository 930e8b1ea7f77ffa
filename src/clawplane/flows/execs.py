"""One exec: ask, stream, answer, remember; and what becomes of it when its caller leaves.

A caller that leaves ends its exec: it is interrupted, and its end is still heard and put into the history. A detached
exec goes on. An exec whose session ended before it began is asked again, once, of the session's next life. What takes
long is in the history before its end (flows/underway.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final

import msgspec

from clawplane.domain.asks import Interrupt
from clawplane.domain.clock import Clock
from clawplane.domain.errors import ClawplaneError, Conflict, InternalError, StaleLease, Unavailable
from clawplane.domain.runner_asks import CUT, REFUSED
from clawplane.domain.session_history import record_of, record_of_loss
from clawplane.domain.session_ports import Conversation
from clawplane.domain.sessions import MAX_TIMEOUT, ExecEvent, ExecRequest, ExecResult, Session
from clawplane.flows.session_places import Place, SessionPlaces

_TRIES: Final = 3
_AFTERMATH_SECONDS: Final = 15.0

_event = msgspec.msgpack.Decoder(ExecEvent).decode
_result = msgspec.msgpack.Decoder(ExecResult).decode


class Execution:
    """An exec under way: iterate for its events, then `result`; or only `result`. Leave it by `async with`.

    A `quiet` one streams no events, which spares the link and the runner the sending of them.
    """

    def __init__(
        self,
        session: Session,
        request: ExecRequest,
        *,
        places: SessionPlaces,
        clock: Clock,
        quiet: bool = False,
    ) -> None:
        self.session = session
        self._quiet = quiet
        self.request = request
        self._places = places
        self._clock = clock
        self._place: Place | None = None
        self._asked: Conversation | None = None
        self._tries = 0
        self._answer: ExecResult | None = None
        self._over = False
        self.started_at = clock.now_ms()

    @property
    def id(self) -> str:
        """Return the exec's id."""
        return self.request.id

    async def __aenter__(self) -> Execution:
        """Reach the session and ask."""
        self._places.busy[self.session.id] += 1
        try:
            await self._ask()
        except BaseException:
            self._free()
            raise
        self._places.underway.begin(self.session.id, self.request, self.started_at)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; what was not answered ends, or goes on when it is detached."""
        if self._over:
            self._free()
        else:
            self._places.spawn(self._without_caller())

    async def events(self) -> AsyncIterator[ExecEvent]:
        """Yield what the exec streams, to its end."""
        while not self._over and self._asked is not None:
            async for body in self._asked:
                yield _event(body)
            await self._settle()

    async def result(self) -> ExecResult:
        """Return how the exec ended; an exception in the code is a result, not an error."""
        while self._answer is None:
            await self._settle()
        return self._answer

    # pieces

    async def _ask(self) -> None:
        self._tries += 1
        self._place = await self._places.reach(self.session)
        self.session = self._place.session
        self._asked = self._place.ask("exec", self.request, quiet=self._quiet)

    async def _settle(self) -> None:
        """Take the answer; ask again when nothing was done because the session had just ended."""
        if self._asked is None:
            raise AssertionError("an exec is settled after it was asked")
        try:
            self._answer = _result(await self._asked.answer())
        except StaleLease as error:
            if REFUSED not in error.details or self._tries >= _TRIES:
                raise self._lost(await self._places.why_gone(self.session.id) or error) from None
            await self._places.departed(self.session)
            try:
                await self._ask()
            except ClawplaneError as refusal:  # nothing was done, and nothing can be
                raise self._refused(refusal) from None
            return
        except (Conflict, Unavailable, InternalError) as error:
            raise self._lost(await self._places.why_gone(self.session.id) or error) from None
        except ClawplaneError as error:
            raise self._refused(error) from None
        self._over = True
        self._remember(self._answer)

    def _remember(self, result: ExecResult) -> None:
        self._places.underway.end(self.session.id, self.id)
        now = self._clock.now_ms()
        self._places.used(self.session, now)
        record = record_of(self.request, self.session.id, result, started_at=self.started_at, ended_at=now)
        self._places.chronicle.record(record, now)

    def _refused(self, error: ClawplaneError) -> ClawplaneError:
        """Return what to say of an exec that was not run; the history tells it only if it has the exec already."""
        self._over = True
        if self._places.underway.end(self.session.id, self.id):
            self._remember_loss(error)
        return error

    def _lost(self, error: ClawplaneError) -> ClawplaneError:
        """Return what to say of an exec whose end was not heard, and remember that."""
        self._over = True
        self._places.underway.end(self.session.id, self.id)
        if CUT in error.details:
            where = f"GET /v1/sessions/{self.session.id}/execs"
            error = Unavailable(
                f"The link to the session's runner was cut; exec {self.id} may have run.",
                hint=f"The next exec's notes say how it ended, or that the session's memory is lost; see also {where}.",
                details=(CUT,),
            )
        self._remember_loss(error)
        return error

    def _remember_loss(self, error: ClawplaneError) -> None:
        now = self._clock.now_ms()
        record = record_of_loss(self.request, self.session.id, error.message, started_at=self.started_at, ended_at=now)
        self._places.chronicle.record(record, now)

    async def _without_caller(self) -> None:
        """Hear the end of an exec that nobody waits for; interrupt it unless it is detached."""
        try:
            limit = _AFTERMATH_SECONDS
            if self.request.detached:
                limit += MAX_TIMEOUT * 2  # it may wait behind another one
            elif self._place is not None:
                interrupt = self._place.ask("interrupt", Interrupt(exec_id=self.id))
                self._places.spawn(_ignore(interrupt))
            async with asyncio.timeout(limit):
                await self.result()
        except TimeoutError:
            if self._asked is not None:
                self._asked.withdraw()
            self._lost(Unavailable("The caller left, and the exec's end was not heard."))
        except ClawplaneError:
            pass  # remembered where it was raised
        finally:
            self._free()

    def _free(self) -> None:
        self._places.underway.end(self.session.id, self.id)
        busy = self._places.busy
        busy[self.session.id] -= 1
        if not busy[self.session.id]:
            del busy[self.session.id]


async def _ignore(asked: Conversation) -> None:
    with contextlib.suppress(ClawplaneError):  # it has ended meanwhile
        await asked.answer()
