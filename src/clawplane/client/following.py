"""Follow a log to its end, over breaks of the connection: every entry once, in order.

Entries are numbered, so a stream that breaks is asked for again behind the last number that was seen. A stream that
ends by itself says nothing: a server that is being stopped ends it too. So the end is asked for (`ended`), and once it
is there the rest of the log is read without following, since entries may have come between the two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import NotRequired, TypedDict

from msgspec import Struct

from clawplane.client.http import Http
from clawplane.domain.errors import Unavailable


class LogEntry(TypedDict):
    """One entry; `type` 1 debug to 4 error, `timestamp` in milliseconds, `source` who said it, such as stderr."""

    seq: int
    type: int
    content: str
    timestamp: int
    source: NotRequired[str]


class Patience(Struct, frozen=True, kw_only=True):
    """How long a lost server is waited for, and how often it is asked, in seconds."""

    seconds: float = 60.0
    first_pause: float = 0.2
    longest_pause: float = 5.0
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.monotonic


class Following:
    """One log that is followed. `on_lost` hears the error when the connection is lost, once a loss."""

    def __init__(
        self,
        http: Http,
        path: str,
        ended: Callable[[], Awaitable[bool]],
        *,
        on_lost: Callable[[Unavailable], None],
        patience: Patience | None = None,
    ) -> None:
        self._http = http
        self._path = path
        self._ended = ended
        self._on_lost = on_lost
        self._patience = patience or Patience()
        self._after = 0
        self._lost_at: float | None = None
        self._pause = self._patience.first_pause

    async def entries(self, after: int = 0) -> AsyncGenerator[LogEntry, None]:
        """Yield the entries behind `after` until the end; raises Unavailable when the server stays away."""
        self._after = after
        over = False
        while True:
            try:
                async with aclosing(self._read(follow=not over)) as entries:
                    async for entry in entries:
                        yield entry
                if over:
                    return
                over = await self._ended()
            except Unavailable as error:
                await self._wait(error)
            else:
                if not over:
                    await self._patience.pause(self._patience.first_pause)

    async def _read(self, *, follow: bool) -> AsyncGenerator[LogEntry, None]:
        query = {"after": self._after, "follow": "true" if follow else "false"}
        async with aclosing(self._http.lines(self._path, LogEntry, query=query)) as entries:
            async for entry in entries:
                self._lost_at, self._pause = None, self._patience.first_pause
                if entry["seq"] > self._after:
                    self._after = entry["seq"]
                    yield entry

    async def _wait(self, error: Unavailable) -> None:
        now = self._patience.now()
        if self._lost_at is None:
            self._lost_at = now
            self._on_lost(error)
        elif now - self._lost_at > self._patience.seconds:
            raise error
        await self._patience.pause(self._pause)
        self._pause = min(self._pause * 2, self._patience.longest_pause)
