"""What a session can go back to: a copy of its interpreter from before each of the last execs.

A copy costs a fork of a process with many pages, so it is made when it is needed and not before: after an exec that may
have changed something, once the session has been idle for a moment, or at the latest before the next exec. Execs that
only look share the copy of the next one that does not.
"""

from __future__ import annotations

import contextlib
from collections import deque

from clawplane.domain.errors import Conflict, Unavailable
from clawplane.runner.sessions.copies import CannotCopy, Copy, copied
from clawplane.runner.sessions.residence import Interpreter, Residence

Point = Copy | str | None
"""A copy; the reason why there is none; None: a fresh interpreter."""


class Undo:
    """The points of one session, oldest first."""

    def __init__(self, residence: Residence, most: int) -> None:
        self._residence = residence
        self._most = most
        self._points: deque[tuple[str, Point]] = deque()
        """(exec, what it started from)"""
        self._now: Point = None
        self._stale = False

    @property
    def due(self) -> bool:
        """Tell whether there is no copy yet of the interpreter as it is now."""
        return self._stale and self._most > 0

    async def ensure(self, interpreter: Interpreter) -> None:
        """Have a copy of the interpreter as it is now; raises Gone."""
        if not self.due:
            return
        self._stale = False
        old, self._now = self._now, await self._copied(interpreter)
        await self._drop(old)

    async def ran(self, exec_id: str, *, changed: bool) -> None:
        """Note an exec; `ensure` was called before it."""
        if self._most <= 0:
            return
        self._points.append((exec_id, self._now))
        self._stale = self._stale or changed
        if len(self._points) > self._most:
            await self._drop(self._points.popleft()[1])

    async def back(self, execs: int, before: str) -> tuple[Copy | None, int]:
        """Return the copy to go on with (None: a fresh interpreter) and how many execs are undone.

        The points after it are dropped. Raises Conflict, with the reason, when there is none.
        """
        at = self._find(execs, before)
        found = self._points[at][1]
        if isinstance(found, str):
            raise Conflict(f"There is no copy from before that exec: {found}", hint="")
        for _, point in list(self._points)[: at + 1]:  # the original is about to be killed, and all it copied with it
            if isinstance(point, Copy):
                with contextlib.suppress(Unavailable):
                    await point.adopt()
        undone = len(self._points) - at
        dropped = [*(self._points.pop()[1] for _ in range(undone)), self._now]
        self._now, self._stale = None, False
        for point in dropped:
            if point is not found:
                await self._drop(point)
        # execs before it that only looked started from the same copy, which is used up now
        self._points = deque((name, _USED_UP if point is found and found else point) for name, point in self._points)
        return found, undone

    async def renew(self, interpreter: Interpreter) -> None:
        """Begin anew from an interpreter that is not fresh; raises Gone."""
        self._stale = True
        await self.ensure(interpreter)
        shared = self._now
        self._points = deque((name, shared if point is _USED_UP else point) for name, point in self._points)

    async def clear(self) -> None:
        """Forget all points."""
        points = [*(point for _, point in self._points), self._now]
        self._points.clear()
        self._now, self._stale = None, False
        for point in points:
            await self._drop(point)

    def _find(self, execs: int, before: str) -> int:
        names = [name for name, _ in self._points]
        if before and before not in names:
            raise Conflict(
                f"There is no copy from before the exec {before}.",
                hint=f"Only the last {self._most} Python execs since the last reset can be undone (option `undo`).",
            )
        at = names.index(before) if before else len(names) - execs
        if execs < 1 or at < 0:
            raise Conflict(
                f"Only {len(names)} Python execs can be undone.",
                hint=f"The session keeps copies from before its last {self._most} (option `undo`).",
            )
        return at

    async def _copied(self, interpreter: Interpreter) -> Point:
        try:
            return await copied(self._residence, interpreter, "undo")
        except CannotCopy as refusal:
            return refusal.message

    async def _drop(self, point: Point) -> None:
        """End a copy that no point refers to any more."""
        if isinstance(point, Copy) and point is not self._now and all(other is not point for _, other in self._points):
            await point.drop()


_USED_UP = "the copy was used up by a rollback"
