"""One exec while it runs: its clock, why it is being ended, and what it has shown.

The first cause counts. Its clock starts when the code is handed over, not when it arrived. An interpreter is asked to
stop first and killed when it does not obey within the grace; a shell or node tree has no state to spare and is killed
at once. A caller who leaves ends the exec the same way, unless it asked for the exec to go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Literal

from clawplane.domain.sessions import ExecRequest, SessionOptions
from clawplane.link.asking import Asking
from clawplane.runner.sessions.events import EventStream
from clawplane.runner.sessions.output import Output
from clawplane.sandbox.repl_wire import Cleared, Shown

Cause = Literal["timeout", "cancelled", "disk", "memory", "killed"]

GRACE_SECONDS: Final = 0.2
"""Between the interrupt and the kill."""
ASKED_GRACE_SECONDS: Final = 2.0
"""The same when somebody asked for the interrupt: then nothing is late."""
RESULT_BYTES: Final = 16 << 20
"""Rich results of one exec, all together."""
_PING_SECONDS: Final = 5.0


class Running:
    """An exec under way."""

    def __init__(
        self, request: ExecRequest, options: SessionOptions, asking: Asking, events: EventStream, output: Output
    ) -> None:
        self.request = request
        self.options = options
        self.asking = asking
        self.events = events
        self.output = output
        self.cause: Cause | None = None
        self.results: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.wall_ms = 0.0
        self._left_out = 0
        self._room = RESULT_BYTES
        self._clear_first = False
        self._interrupt: Callable[[], None] | None = None
        self._kill: Callable[[], None] = lambda: None
        self._timers: list[asyncio.TimerHandle] = []
        self._leaving: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._began = 0.0

    def begin(self, kill: Callable[[], None], interrupt: Callable[[], None] | None = None) -> None:
        """Start the clock. Without `interrupt` the exec is killed at once; both must not wait."""
        self._interrupt, self._kill = interrupt, kill
        self._began = time.monotonic()
        self.events.say("started")
        self._timers.append(self._loop.call_later(self.request.timeout, self.end, "timeout"))
        self._timers.append(self._loop.call_later(_PING_SECONDS, self._ping))
        if self.cause is not None:  # ended before it began
            self._act(GRACE_SECONDS)
        if not self.request.detached:
            self._leaving = asyncio.create_task(self._caller_left())

    @property
    def age(self) -> float:
        """Return for how many seconds it has run; 0 before it begins."""
        return time.monotonic() - self._began if self._began else 0.0

    def end(self, cause: Cause, grace: float = GRACE_SECONDS) -> None:
        """End the exec for a reason; the first reason stays."""
        if self.cause is not None:
            return
        self.cause = cause
        if self._began:
            self._act(grace)

    def _act(self, grace: float) -> None:
        if self._interrupt is None or self.cause in ("memory", "disk", "killed"):
            self._kill()
            return
        self._interrupt()
        self._timers.append(self._loop.call_later(grace, self._kill))

    def over(self) -> None:
        """Stop the clock."""
        self.wall_ms = (time.monotonic() - self._began) * 1000
        self._began = 0.0  # whoever ends it now has nobody to interrupt
        for timer in self._timers:
            timer.cancel()
        if self._leaving is not None:
            self._leaving.cancel()

    # What an interpreter shows

    def admit(self, size: int) -> bool:
        """Say whether a frame of so many bytes is still wanted; small ones are, they may end the exec."""
        if size <= self._room or size <= 64 << 10:
            return True
        self._left_out += 1
        return False

    def hear(self, frame: Shown | Cleared) -> None:
        """Keep and stream what was shown."""
        self.output.take_waiting()
        if isinstance(frame, Cleared):
            self._clear_first = frame.wait
            if not frame.wait:
                self.results.clear()
            self.events.say("clear_output", data={"wait": frame.wait})
            return
        size = _size(frame.data) + _size(frame.metadata)
        if size > self._room or len(self.results) >= 1000:
            self._left_out += 1
            return
        self._room -= size
        if self._clear_first:
            self._clear_first = False
            self.results.clear()
        bundle: dict[str, Any] = dict(frame.data)
        if frame.metadata:
            bundle["_metadata"] = frame.metadata
        if frame.display_id:
            bundle["_display_id"] = frame.display_id
        if frame.kind == "result":
            bundle["_main"] = True
        if frame.kind == "update":
            self._update(bundle)
            self.events.say("display_update", data=bundle, cost=size)
            return
        self.results.append(bundle)
        self.events.say("result", data=bundle, cost=size)

    @property
    def left_out(self) -> int:
        """How many results were too much."""
        return self._left_out

    def _update(self, bundle: dict[str, Any]) -> None:
        for number, old in enumerate(self.results):
            if old.get("_display_id") == bundle["_display_id"]:
                self.results[number] = bundle

    async def _caller_left(self) -> None:
        await self.asking.withdrawn.wait()
        self.end("cancelled")

    def _ping(self) -> None:
        self.events.say("ping")
        self._timers.append(self._loop.call_later(_PING_SECONDS, self._ping))


def _size(value: Any) -> int:
    """Return about how many bytes a JSON value takes; its depth is bounded by the parser that made it."""
    pending, size = [value], 0
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            size += len(each)
        elif isinstance(each, dict):
            size += sum(len(name) for name in each)
            pending.extend(each.values())
        elif isinstance(each, list):
            pending.extend(each)
        size += 8
    return size
