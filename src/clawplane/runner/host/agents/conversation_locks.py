"""Let no two turns of one conversation run at once on this runner, whatever ids they come under.

A turn first holds the API's id, then the provider's id once that is known: two tasks, one by API id and one by
provider id, meet at the second. A provider's id that a running CLI has only just made cannot be held by another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType


class ConversationLocks:
    """One lock for each conversation that somebody holds; those who wait get it in the order they came."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], deque[asyncio.Future[None]]] = {}

    def turn(self, cli: str) -> TurnLocks:
        """Begin a turn; what it holds is let go together."""
        return TurnLocks(self, cli)

    def take_free(self, key: tuple[str, str]) -> bool:
        """Hold a conversation if nobody has it."""
        if key in self._waiting:
            return False
        self._waiting[key] = deque()
        return True

    async def take(self, key: tuple[str, str]) -> None:
        """Hold a conversation, when those before have let it go."""
        if self.take_free(key):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[key].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(key)
            else:
                with suppress(ValueError):  # `give` may have passed it by
                    self._waiting[key].remove(turn)
            raise

    def give(self, key: tuple[str, str]) -> None:
        """Let the next one have a conversation."""
        waiting = self._waiting[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]


class TurnLocks:
    """What one turn holds."""

    def __init__(self, locks: ConversationLocks, cli: str) -> None:
        self._locks = locks
        self._cli = cli
        self._held: list[tuple[str, str]] = []

    async def hold(self, session: str) -> None:
        """Wait until this turn is the only one of a conversation; holding it already is fine."""
        key = (self._cli, session)
        if key not in self._held:
            await self._locks.take(key)
            self._held.append(key)

    def hold_new(self, session: str) -> None:
        """Hold a conversation that this turn has just begun, if nobody else has it."""
        key = (self._cli, session)
        if key not in self._held and self._locks.take_free(key):
            self._held.append(key)

    async def __aenter__(self) -> TurnLocks:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        while self._held:
            self._locks.give(self._held.pop())
