"""Stream what an exec says while it runs, at the caller's pace, without ever holding the exec back.

Events are queued and told by one task. How much text there is to stream is bounded before it comes here; what waits is
joined to few large pieces. What a caller does not take in time is left out of the stream, which loses nothing: the
answer has the output too, head, tail and spill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Literal

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.sessions import ExecEvent
from clawplane.link.asking import Asking
from clawplane.link.flow import MAX_TOLD

WAITING_BYTES: Final = 12 << 20
"""How much may wait for a caller who does not read, rich results included."""
_PIECE: Final = 32 << 10

Kind = Literal["started", "stdout", "stderr", "result", "display_update", "clear_output", "ping"]


class EventStream:
    """The events of one question."""

    def __init__(self, asking: Asking, clock: Clock) -> None:
        self._asking = asking
        self._clock = clock
        self._queue: deque[tuple[ExecEvent, int]] = deque()
        self._waiting = 0
        self._dropped = False
        self._telling: asyncio.Task[None] | None = None

    def text(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        """Stream output."""
        if not text or self._dropped:
            return
        if self._queue:
            last, cost = self._queue[-1]
            if last.type == stream and cost < _PIECE:
                self._queue[-1] = (msgspec.structs.replace(last, text=last.text + text), cost + len(text))
                self._waiting += len(text)
                return
        self._put(ExecEvent(type=stream, text=text, at=self._clock.now_ms()), len(text))

    def say(self, kind: Kind, text: str = "", data: dict[str, object] | None = None, *, cost: int = 0) -> None:
        """Stream anything else; `cost` is about how many bytes `data` takes."""
        self._put(ExecEvent(type=kind, text=text, data=data or {}, at=self._clock.now_ms()), cost + 64)

    async def flushed(self, within: float) -> None:
        """Wait until everything was told, but at most `within` seconds; what is left is dropped."""
        if self._telling is not None and not self._telling.done():
            await asyncio.wait([self._telling], timeout=within)
        self.drop()

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits."""
        return self._telling is None or self._telling.done()

    def drop(self) -> None:
        """Tell nothing more."""
        self._dropped = True
        self._queue.clear()
        if self._telling is not None:
            self._telling.cancel()

    def _put(self, event: ExecEvent, cost: int) -> None:
        if self._asking.quiet or self._dropped or self._asking.done or self._waiting + cost > WAITING_BYTES:
            return
        self._waiting += cost
        self._queue.append((event, cost))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._queue:
            event, cost = self._queue.popleft()
            self._waiting -= cost
            encoded = msgspec.msgpack.encode(event)
            if len(encoded) <= MAX_TOLD:
                await self._asking.tell(encoded)
