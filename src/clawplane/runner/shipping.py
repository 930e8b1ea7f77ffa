"""Collect what one attempt produces into numbered batches and hand them to the link.

Who runs: the SDK's calls and the readers of stdout and stderr put entries in; a timer on the event loop flushes. The
first entry after a pause leaves at once, later ones wait until FLUSH_SECONDS after the last batch or until a batch is
full: a single line is seen without delay, a thousand a second cost fifty batches.

Rules that never break:
- Nothing leaves before `open` (the lease is confirmed) and nothing after `lose`.
- What was put in counts in the room until the control plane has stored it. Rows and output wait for room, and by
  waiting hold the guest back; the platform's own few lines never wait.
- Log text is bounded per line (lines.py) and per attempt; the last line then says so. Rows are never dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from clawplane.domain.batches import INFO, WARN, LogLine, LogSource, ShippedRow
from clawplane.domain.clock import Clock
from clawplane.domain.runs import HeaderItem
from clawplane.runner.lines import clean
from clawplane.runner.redact import Redactor
from clawplane.runner.room import Room

FLUSH_SECONDS: Final = 0.02
FLUSH_BYTES: Final = 256 << 10
FLUSH_ENTRIES: Final = 4096
LOG_BYTES: Final = 128 << 20
"""Log text kept per attempt; enough for a million ordinary lines."""

_BATCH_BYTES: Final = 16 << 20
"""No row joins a batch that would grow beyond this, so that every batch fits a frame."""
_ENTRY_COST: Final = 100
_MERGED_BYTES: Final = 16 << 10


class LeaseLost(Exception):
    """This attempt is not ours any more; nothing of it may be sent."""


class Send(Protocol):
    """Hand a batch to the link; returns its number, or None when the lease is lost."""

    def __call__(
        self, rows: Sequence[ShippedRow], logs: Sequence[LogLine], header: tuple[HeaderItem, ...] | None
    ) -> int | None: ...


class Shipper:
    """The outgoing entries of one attempt."""

    def __init__(self, send: Send, *, room: Room, clock: Clock, redactor: Redactor, log_bytes: int = LOG_BYTES) -> None:
        self._send = send
        self._room = room
        self._clock = clock
        self._redactor = redactor
        self._log_left = log_bytes
        self._log_limit = log_bytes
        self._log_full = False
        self._rows: list[ShippedRow] = []
        self._logs: list[LogLine] = []
        self._header: tuple[HeaderItem, ...] | None = None
        self._cost = 0
        self._shipped: deque[tuple[int, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._flushed_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._opened = False
        self.lost = False
        """True when the lease is gone; every further entry raises LeaseLost."""

    def open(self) -> None:
        """Begin to send: the lease is confirmed."""
        self._opened = True
        self._flush_soon(FLUSH_SECONDS)

    def lose(self) -> None:
        """Forget everything: the lease is gone. Whoever waits for room gets LeaseLost."""
        self.lost = True
        self._disarm()
        self._rows, self._logs, self._header = [], [], None
        self._room.give(self._cost + sum(cost for _, cost in self._shipped))
        self._cost = 0
        self._shipped.clear()

    def stored(self, seq: int) -> None:
        """Note that batches up to `seq` are durable."""
        freed = 0
        while self._shipped and self._shipped[0][0] <= seq:
            freed += self._shipped.popleft()[1]
        if freed:
            self._room.give(freed)

    async def row(self, row: ShippedRow) -> None:
        """Add a row; waits for room. Raises LeaseLost."""
        cost = len(row.body) + _ENTRY_COST
        if self._cost + cost > _BATCH_BYTES:
            self.flush()
        await self._wait_for_room(cost)
        self._take(cost)
        self._rows.append(row)
        self._changed()

    async def output(self, kind: int, text: str, source: LogSource) -> None:
        """Add a log entry of the guest's; waits for room. Raises LeaseLost.

        Neighbouring lines of stderr become one entry, so that a traceback stays in one piece.
        """
        await self._wait_for_room(len(text) + _ENTRY_COST)
        self.line(kind, text, source)

    def offer(self, kind: int, text: str, source: LogSource) -> bool:
        """Add a log entry if there is room for it now; False when it is left out."""
        if self.lost or self._log_full or not self._room.fits(len(text) + _ENTRY_COST):
            return False
        self.line(kind, text, source)
        return True

    def line(self, kind: int, text: str, source: LogSource) -> None:
        """Add a log entry at once; for what produces few of them. Counts towards the attempt's log limit."""
        if self.lost or self._log_full:
            return
        text = clean(self._redactor.clean(text))
        cost = len(text) + _ENTRY_COST
        if cost > self._log_left:
            self._log_full = True
            limit = f"{self._log_limit >> 20} MB" if self._log_limit >= 1 << 20 else f"{self._log_limit} bytes"
            self.say(f"SYSTEM: The log limit of {limit} is reached; later lines are not kept.", WARN)
            return
        self._log_left -= cost
        self._take(cost)
        self._add_line(LogLine(kind, text, self._clock.now_ms(), source))
        self._changed(patient=source in ("stderr", "system"))

    def say(self, text: str, kind: int = INFO) -> None:
        """Add a line of the platform's own; never waits, and is not urgent."""
        if self.lost:
            return
        text = clean(self._redactor.clean(text))
        self._take(len(text) + _ENTRY_COST)
        self._logs.append(LogLine(kind, text, self._clock.now_ms(), "system"))
        self._changed(patient=True)

    async def header(self, items: tuple[HeaderItem, ...]) -> None:
        """Replace the run's columns; the last one set before a flush counts. Waits for room. Raises LeaseLost."""
        cost = sum(len(item.key) + len(item.label) + len(item.format) + _ENTRY_COST for item in items) + _ENTRY_COST
        await self._wait_for_room(cost)
        self._take(cost)
        self._header = items
        self._changed()

    def flush(self) -> None:
        """Send what has been collected, now."""
        self._disarm()
        if not self._opened or self.lost or not (self._rows or self._logs or self._header is not None):
            return
        rows, logs, header, cost = self._rows, self._logs, self._header, self._cost
        self._rows, self._logs, self._header, self._cost = [], [], None, 0
        self._flushed_at = self._loop.time()
        seq = self._send(rows, logs, header)
        if seq is None:
            self._room.give(cost)
            if not self.lost:
                self.lose()
        else:
            self._shipped.append((seq, cost))

    # Inside

    async def _wait_for_room(self, cost: int) -> None:
        while not self.lost and not self._room.fits(cost):
            self.flush()
            if not self.lost and not self._room.fits(cost):
                await self._room.changed()
        if self.lost:
            raise LeaseLost

    def _take(self, cost: int) -> None:
        self._cost += cost
        self._room.take(cost)

    def _add_line(self, line: LogLine) -> None:
        last = self._logs[-1] if self._logs else None
        if (
            line.source == "stderr"
            and last is not None
            and last.source == "stderr"
            and last.type == line.type
            and len(last.content) + len(line.content) < _MERGED_BYTES
        ):
            self._logs[-1] = LogLine(last.type, f"{last.content}\n{line.content}", last.at, "stderr")
        else:
            self._logs.append(line)

    def _changed(self, *, patient: bool = False) -> None:
        if not self._opened:
            return
        if self._cost >= FLUSH_BYTES or len(self._rows) + len(self._logs) >= FLUSH_ENTRIES:
            self.flush()
        elif patient:
            self._flush_soon(FLUSH_SECONDS)
        else:
            self._flush_soon(max(0.0, self._flushed_at + FLUSH_SECONDS - self._loop.time()))

    def _flush_soon(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(seconds, self.flush)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
