"""Stream what an exec says while it runs, at the caller's pace, without ever holding the exec back.

Events are queued and told by one task. Text that waits is joined to few large pieces and is bounded; what a caller does
not take in time is left out of the stream, which loses nothing: the answer has the output too, head, tail and spill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Literal

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.sessions import ExecEvent
from clawplane.link.asking import Asking

TEXT_BYTES: Final = 1 << 20
"""How much text of one exec is streamed; the rest is in the answer and its spill file."""
WAITING_BYTES: Final = 12 << 20
"""How much may wait for a caller who does not read, rich results included."""
_PIECE: Final = 32 << 10

_LEFT_OUT: Final = "\n[the rest of the output is not streamed; the answer has its end]\n"

Kind = Literal["started", "stdout", "stderr", "result", "display_update", "clear_output", "ping"]


class EventStream:
    """The events of one question."""

    def __init__(self, asking: Asking, clock: Clock) -> None:
        self._asking = asking
        self._clock = clock
        self._queue: deque[tuple[ExecEvent, int]] = deque()
        self._waiting = 0
        self._text_left = TEXT_BYTES
        self._telling: asyncio.Task[None] | None = None

    def text(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        """Stream output."""
        if self._text_left <= 0 or not text:
            return
        self._text_left -= len(text)
        if self._text_left <= 0:
            text = text[: len(text) + self._text_left] + _LEFT_OUT
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
        self._text_left = 0
        self._queue.clear()
        if self._telling is not None:
            self._telling.cancel()

    def _put(self, event: ExecEvent, cost: int) -> None:
        if self._asking.done or self._waiting + cost > WAITING_BYTES:
            return
        self._waiting += cost
        self._queue.append((event, cost))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._queue:
            event, cost = self._queue.popleft()
            await self._asking.tell(msgspec.msgpack.encode(event))
            self._waiting -= cost
