"""End sessions that were idle for too long, and forget the execs of those that nobody has used for long.

The loop sleeps until the earliest moment at which a session is over, but not for more than an hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from clawplane.domain.clock import Clock
from clawplane.domain.errors import StoreError
from clawplane.domain.session_ports import Sessions
from clawplane.domain.sessions import Session
from clawplane.flows.session_places import SessionPlaces

_log = logging.getLogger(__name__)

_LONGEST_SLEEP: Final = 3600.0
_BREATH_SECONDS: Final = 1.0


class SessionExpiry:
    """The loop; `end` ends a session with a reason."""

    def __init__(
        self,
        sessions: Sessions,
        places: SessionPlaces,
        clock: Clock,
        end: Callable[[Session, str], Awaitable[Session | None]],
        *,
        history_ms: int,
    ) -> None:
        self._history_ms = history_ms
        self._pruned_at: float | None = None
        self._sessions = sessions
        self._places = places
        self._clock = clock
        self._end = end
        self._due: int | None = None
        self._sooner = asyncio.Event()

    def not_later_than(self, at: int | None) -> None:
        """Look again at `at` (milliseconds) at the latest; None changes nothing."""
        if at is not None and (self._due is None or at < self._due):
            self._due = at
            self._sooner.set()

    async def run(self) -> None:
        """Expire until cancelled."""
        while True:
            try:
                await self.expire()
                await self._prune()
                due = await self._sessions.next_expiry()
            except StoreError as error:
                _log.warning("sessions' expiry waits: %s", error.message)
                due = self._clock.now_ms()
            if due is not None:  # those that are over and busy are looked at again after a breath
                self.not_later_than(max(due + 1, self._clock.now_ms() + round(_BREATH_SECONDS * 1000)))
            await self._sleep()

    async def expire(self) -> None:
        """End what is over now."""
        self._sooner.clear()
        self._due = None
        for session in await self._sessions.expired(now=self._clock.now_ms()):
            seconds = session.options.expires_after
            if not seconds:
                await self._end(session, "It expired: its time was over.")
            elif not self._places.busy[session.id]:
                await self._end(session, f"It expired: nobody used it for {seconds} s.")

    async def _prune(self) -> None:
        """Forget old execs, once in a while."""
        now = self._clock.monotonic()
        if self._pruned_at is None or now - self._pruned_at >= _LONGEST_SLEEP:
            while await self._sessions.prune_history(used_before=self._clock.now_ms() - self._history_ms):
                pass
            self._pruned_at = now

    async def _sleep(self) -> None:
        while True:
            left = _LONGEST_SLEEP if self._due is None else (self._due - self._clock.now_ms()) / 1000
            if left <= 0:
                return
            self._sooner.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LONGEST_SLEEP)):
                    await self._sooner.wait()
