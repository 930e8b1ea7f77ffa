"""Ask a session whose lease is not stored yet, and keep what it says until it is.

A session's runner begins with the offer, beside the confirmation: nothing of a session runs unless it is asked, and a
question is asked once, so nothing can be done twice. But what was answered must not be forgotten: if the offer is taken
back before it was confirmed (the link was cut, the runner was too slow), another runner begins the session anew. So no
word of such a session passes before the lease is stored, and none at all when it never is: the caller then hears that
what was asked may have been done, as after any cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from clawplane.domain.errors import Unavailable
from clawplane.domain.runner_asks import CUT
from clawplane.domain.session_ports import Conversation


class UnderOffer:
    """A conversation that is believed when `confirmation` says that the offer became a lease."""

    def __init__(self, asked: Conversation, confirmation: asyncio.Future[bool]) -> None:
        self._asked = asked
        self._confirmation = confirmation

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield what is streamed, from when the lease is stored."""
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        if await self._confirmed():
            async for body in self._asked:
                yield body

    async def answer(self) -> bytes:
        """Return the answer when the lease is stored; raises Unavailable when there is no lease to believe it by."""
        body = await self._asked.answer()
        if not await self._confirmed():
            raise Unavailable(
                "The session's runner was lost before it had the session for good.",
                hint="What was asked may have been done: look before you ask again.",
                details=(CUT,),
            )
        return body

    async def feed(self, chunk: bytes, *, last: bool = False) -> None:
        """Send data that the question takes."""
        await self._asked.feed(chunk, last=last)

    def withdraw(self) -> None:
        """Tell the runner that nobody waits any more."""
        self._asked.withdraw()

    async def _confirmed(self) -> bool:
        if not self._confirmation.done():
            await asyncio.wait([self._confirmation])  # others wait for it too: a caller that leaves must not cancel it
        return self._confirmation.result()
