"""Keep a few sandboxes ready, each with a forked interpreter and an empty workspace, to be handed out at once.

One task refills, one sandbox at a time. It waits for a moment in which nobody opens a session or runs something,
because it would take the processor from them; the fewer are left, the less long it waits, since the next session would
wait longer for a cold start. A sandbox is handed out once; what died while it waited is thrown away. Nothing of a
session has ever run in one that waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from clawplane.domain.errors import ClawplaneError
from clawplane.domain.sessions import Profile, SessionOptions
from clawplane.runner.sessions.profiles import Profiles
from clawplane.runner.sessions.quiet import Quiet
from clawplane.runner.sessions.residence import Interpreter, Residence
from clawplane.runner.sessions.world import stands_in

_PATIENT_SECONDS: Final = 5.0
_POLITE_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """A sandbox that waits for a session; `workspace` as records call it."""

    residence: Residence
    interpreter: Interpreter
    options: SessionOptions
    workspace: str


class Pool:
    """The ready sandboxes of one runner."""

    def __init__(
        self,
        make: Callable[[Profile], Awaitable[Ready]],
        discard: Callable[[Ready], Awaitable[None]],
        quiet: Quiet,
        *,
        profiles: Profiles,
        kept: tuple[Profile, ...],
        size: int,
    ) -> None:
        """`make` opens one, `discard` throws one away, `quiet` knows when nobody else needs the processor."""
        self._make = make
        self._discard = discard
        self._quiet = quiet
        self._profiles = profiles
        self._kept = kept if size else ()
        self._size = size
        self._waiting: defaultdict[Profile, deque[Ready]] = defaultdict(deque)
        self._discarding: set[asyncio.Future[None]] = set()
        self._wanted = asyncio.Event()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to fill."""
        if self._kept:
            self._wanted.set()
            self._task = asyncio.create_task(self._refill())

    def take(self, wanted: SessionOptions) -> Ready | None:
        """Hand out a ready sandbox for a session with these options, if there is one."""
        waiting = self._waiting[wanted.profile]
        self._quiet.disturb()
        while waiting and stands_in(wanted, waiting[0].options):
            ready = waiting.popleft()
            self._wanted.set()
            self._filled.clear()
            if ready.residence.alive and ready.interpreter.member.end is None:
                return ready
            task = asyncio.ensure_future(self._discard(ready))
            self._discarding.add(task)
            task.add_done_callback(self._discarding.discard)
        return None

    async def full(self) -> None:
        """Wait until every profile that can be has its sandboxes."""
        await self._filled.wait()

    async def close(self) -> None:
        """Throw everything away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left = [ready for waiting in self._waiting.values() for ready in waiting]
        self._waiting.clear()
        await asyncio.gather(*(self._discard(ready) for ready in left), return_exceptions=True)
        await asyncio.gather(*self._discarding, return_exceptions=True)

    async def _refill(self) -> None:
        for profile in self._kept:
            try:
                await self._profiles.ensure(profile)
            except ClawplaneError:
                continue  # it was said; a session that needs it asks again
        while True:
            self._wanted.clear()
            try:
                while (lacking := self._lacking()) is not None:
                    many = 2 * len(self._waiting[lacking]) >= self._size
                    await self._quiet.wait(_PATIENT_SECONDS if many else _POLITE_SECONDS)
                    self._waiting[lacking].append(await self._make(lacking))
                self._filled.set()
                await self._wanted.wait()
            except (ClawplaneError, OSError) as error:
                _log.warning("The pool of ready sandboxes cannot be filled: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _lacking(self) -> Profile | None:
        lacking = [
            each for each in self._kept if len(self._waiting[each]) < self._size and self._profiles.at_hand(each)
        ]
        return min(lacking, key=lambda each: len(self._waiting[each]), default=None)
