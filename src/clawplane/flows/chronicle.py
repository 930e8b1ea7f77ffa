"""Store what is remembered of sessions beside their answers: execs, and what runners note.

Nobody who executes waits for these writes; who reads the history does (`settle`). They are gathered for a moment, so
that a rush of short execs costs a few commits and not one each: a process that is killed loses at most that moment of
history, and nothing of what the execs did. An exec that takes longer was stored while it ran (flows/underway.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from clawplane.domain.errors import ClawplaneError
from clawplane.domain.ids import JobId
from clawplane.domain.session_history import ExecRecord
from clawplane.domain.session_ports import Sessions
from clawplane.domain.sessions import LiveState

_GATHER_SECONDS: Final = 0.1
_MOST: Final = 500
_MOST_BYTES: Final = 4 << 20

_log = logging.getLogger(__name__)


class Chronicle:
    """What waits to be stored, in the order in which it came."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._bytes = 0
        self._of: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, record: ExecRecord, now: int) -> None:
        """Add to a session's history."""
        self._bytes += len(record.code) + len(record.stdout) + len(record.stderr)
        self._add(record.session, partial(self._sessions.record, record, now=now))

    def note(self, session: str, job: JobId, state: LiveState, now: int) -> None:
        """Keep what a runner says of a session."""
        self._add(session, partial(self._sessions.note, session, job, state, now=now))

    async def settle(self, session: str | None = None) -> None:
        """Wait until everything is stored that came so far, of one session or of all."""
        if session is not None and not self._of[session]:
            return
        self._flush()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _add(self, session: str, write: Callable[[], Awaitable[None]]) -> None:
        self._waiting.append((session, write))
        self._of[session] += 1
        if len(self._waiting) >= _MOST or self._bytes >= _MOST_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        for session, write in waiting:
            task = asyncio.create_task(self._store(session, write))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _store(self, session: str, write: Callable[[], Awaitable[None]]) -> None:
        try:
            await write()
        except ClawplaneError as error:
            _log.warning("beside a session: %s", error.message)
        finally:
            self._of[session] -= 1
            if not self._of[session]:
                del self._of[session]
