"""Execs that were asked and have not ended: written down before their ends, so that none is forgotten with its process.

Most execs end at once, and cost this a place in a table. What has been under way for a second, running or waiting for
its turn, is put into the history as `running`, and its end replaces that in its place. One timer looks at all of them,
and only while there are any. A history has the order of the beginnings: when an exec ends before an older one of its
session (one that is detached, or whose caller is slow), the older is written down first. A process that is killed loses
what was younger than that.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.session_history import record_of_begun
from clawplane.domain.sessions import ExecRequest
from clawplane.flows.chronicle import Chronicle

LONG_SECONDS: Final = 1.0
"""An exec that has been under way for this long is written down."""
_LOOK_SECONDS: Final = 0.5


class _Begun(msgspec.Struct, gc=False):
    """One exec: `started_at` in ms as its record says it, `since` in seconds of the steady clock."""

    request: ExecRequest
    session: str
    started_at: int
    since: float
    written: bool = False


class Underway:
    """What is under way, by session, in the order of the beginnings."""

    def __init__(self, chronicle: Chronicle, clock: Clock) -> None:
        self._chronicle = chronicle
        self._clock = clock
        self._begun: defaultdict[str, dict[str, _Begun]] = defaultdict(dict)
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, session: str, request: ExecRequest, started_at: int) -> None:
        """Note an exec that was just asked."""
        self._begun[session][request.id] = _Begun(request, session, started_at, self._clock.monotonic())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LONG_SECONDS, self._look_again)

    def end(self, session: str, exec_id: str) -> bool:
        """Forget an exec whose end is about to be recorded; True when the history has it as running."""
        ended = self._begun[session].get(exec_id)
        if ended is not None:
            for older in self._begun[session].values():
                if older is ended:
                    break
                self._write(older)
            del self._begun[session][exec_id]
        if not self._begun[session]:
            del self._begun[session]
        return ended is not None and ended.written

    def look(self) -> bool:
        """Write down what has been under way for long; True while there is something that has not."""
        due = self._clock.monotonic() - LONG_SECONDS
        young = False
        for begun in self._begun.values():
            for each in begun.values():
                if each.since <= due:
                    self._write(each)
                young = young or not each.written
        return young

    def close(self) -> None:
        """Write down everything: nobody will hear its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for begun in self._begun.values():
            for each in begun.values():
                self._write(each)

    def _look_again(self) -> None:
        self._timer = None
        if self.look():
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_again)

    def _write(self, each: _Begun) -> None:
        if not each.written:
            each.written = True
            record = record_of_begun(each.request, each.session, started_at=each.started_at)
            self._chronicle.record(record, self._clock.now_ms())
