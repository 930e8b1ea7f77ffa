"""Tell a waiting client the tail of what the code prints, or what it waits for, at most once an interval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from clawplane.domain.sessions import ExecEvent

INTERVAL: Final = 1.0
"""Seconds between two notifications of one call."""

_TAIL: Final = 500

Report = Callable[[float, str], Awaitable[None]]
"""Sends one notification: seconds since the call began, and the tail."""


class Tail:
    """The last characters of what an exec prints."""

    def __init__(self) -> None:
        self._text = ""
        self._waits_for = ""
        self._grown = asyncio.Event()

    def hear(self, event: ExecEvent) -> None:
        """Take an event of the exec."""
        if event.type in ("stdout", "stderr") and event.text:
            self._text = (self._text + event.text)[-_TAIL:]
            self._grown.set()
        elif event.type == "ping" and event.text and event.text != self._waits_for:
            self._waits_for = event.text
            self._grown.set()

    async def wait(self) -> str:
        """Return the tail once it has grown since the last call; before there is one, what is waited for."""
        await self._grown.wait()
        self._grown.clear()
        return self._text or self._waits_for


@asynccontextmanager
async def reporting(report: Report, *, interval: float = INTERVAL) -> AsyncIterator[Tail]:
    """Yield what hears the events of an exec, and report its tail for as long as the block lasts."""
    tail = Tail()
    task = asyncio.create_task(_report(tail, report, interval))
    try:
        yield tail
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _report(tail: Tail, report: Report, interval: float) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        text = await tail.wait()
        await report(loop.time() - began, text)
        await asyncio.sleep(interval)
