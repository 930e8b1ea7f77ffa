"""Keep some sandboxes made ahead, each for one profile and for one session, and make new ones in their place.

There are two supplies: ready sandboxes, each with a forked interpreter and an empty workspace, and sites (sites.py),
for sessions that those do not suit. Nothing of a session has ever run in one that waits; what died while it waited is
thrown away.

One task refills, one at a time. It waits for a moment in which nobody opens a session or runs something, because it
would take the processor from them, and to make one ahead costs more than to make one that is asked for; the fewer are
left, the less long it waits. The first few are made one after the other, the rest at leisure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from clawplane.domain.errors import ClawplaneError
from clawplane.domain.sessions import Profile, SessionOptions
from clawplane.runner.sessions.host_memory import memory_size
from clawplane.runner.sessions.profiles import Profiles
from clawplane.runner.sessions.quiet import Quiet
from clawplane.sandbox.launch import ResidentError, SandboxUnavailable, ZygoteError

_PATIENT_SECONDS: Final = 5.0
_POLITE_SECONDS: Final = 0.5
_LEISURE_SECONDS: Final = 0.1
_MADE_AT_ONCE: Final = 4
_RETRY_SECONDS: Final = 5.0
_SHORTAGE_SECONDS: Final = 60.0
_SHARE_OF_MEMORY: Final = 40
_EACH: Final = 9 << 20
"""What the host has less for a ready sandbox and half a site."""
_FEWEST: Final = 4
_MOST: Final = 64

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Supply(Generic[T]):
    """What is made ahead of one kind."""

    def __init__(
        self,
        make: Callable[[Profile], Awaitable[T | None]],
        discard: Callable[[T], Awaitable[None]],
        alive: Callable[[T], bool],
        suits: Callable[[SessionOptions], bool],
        quiet: Quiet,
        *,
        profiles: Profiles,
        kept: tuple[Profile, ...],
        size: int,
    ) -> None:
        """Keep `size` for each of the `kept` profiles.

        `make` returns None for a profile of which none can be made ahead; `suits` tells whether a session with these
        options may have one; `quiet` knows when nobody else needs the processor.
        """
        self._make = make
        self._discard = discard
        self._alive = alive
        self._suits = suits
        self._quiet = quiet
        self._profiles = profiles
        self._kept = kept if size else ()
        self._size = size
        self._waiting: defaultdict[Profile, deque[T]] = defaultdict(deque)
        self._discarding: set[asyncio.Future[None]] = set()
        self._wanted = asyncio.Event()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rested = 0.0

    def start(self) -> None:
        """Begin to fill."""
        if self._kept:
            self._task = asyncio.create_task(self._refill())

    def take(self, options: SessionOptions) -> T | None:
        """Hand one out for a session with these options, if there is one."""
        self._quiet.disturb()
        waiting = self._waiting[options.profile]
        while waiting and self._suits(options):
            taken = waiting.popleft()
            self._wanted.set()
            self._filled.clear()
            if self._alive(taken):
                return taken
            task = asyncio.ensure_future(self._discard(taken))
            self._discarding.add(task)
            task.add_done_callback(self._discarding.discard)
        return None

    async def shed(self) -> bool:
        """Throw one away, because memory is short, and make none for a while; return whether there was one."""
        self._rested = asyncio.get_running_loop().time() + _SHORTAGE_SECONDS
        fullest = max(self._waiting.values(), key=len, default=None)
        if not fullest:
            return False
        self._wanted.set()
        self._filled.clear()
        await self._discard(fullest.pop())
        return True

    async def full(self) -> None:
        """Wait until every profile that can be has its share."""
        await self._filled.wait()

    async def close(self) -> None:
        """Throw everything away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left = [each for waiting in self._waiting.values() for each in waiting]
        self._waiting.clear()
        await asyncio.gather(*(self._discard(each) for each in left), *self._discarding, return_exceptions=True)

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
                    await asyncio.sleep(max(0.0, self._rested - asyncio.get_running_loop().time()))
                    await self._add(lacking)
                self._filled.set()
                await self._wanted.wait()
            except (ClawplaneError, ResidentError, ZygoteError, SandboxUnavailable, OSError) as error:
                _log.warning("A sandbox cannot be made ahead: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _add(self, profile: Profile) -> None:
        waiting = self._waiting[profile]
        if len(waiting) >= _MADE_AT_ONCE:
            await asyncio.sleep(_LEISURE_SECONDS)
        await self._quiet.wait(max(_POLITE_SECONDS, _PATIENT_SECONDS * len(waiting) / self._size))
        made = await self._make(profile)
        if made is None:
            self._kept = tuple(each for each in self._kept if each != profile)
        else:
            waiting.append(made)

    def _lacking(self) -> Profile | None:
        lacking = [
            each for each in self._kept if len(self._waiting[each]) < self._size and self._profiles.at_hand(each)
        ]
        return min(lacking, key=lambda each: len(self._waiting[each]), default=None)


def fitting_size(memory: int | None = None) -> int:
    """Return how many ready sandboxes are kept where nobody has said: a fortieth of `memory` bytes, or of this host's.

    A burst of sessions is served from what waits; what comes after it waits for the processor.
    """
    return min(_MOST, max(_FEWEST, (memory_size() if memory is None else memory) // _SHARE_OF_MEMORY // _EACH))
