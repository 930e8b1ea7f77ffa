"""Commands that run beside the turns of their session: shell and Node execs that were asked for as detached.

They need nothing of the interpreter, so they wait for nobody and nobody waits for them. While one runs, its session is
in use: it does not sleep or expire by itself. What changed in the workspace meanwhile is listed by every exec that was
under way, for nobody can tell who changed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from clawplane.domain.errors import ClawplaneError, Conflict, InternalError, RateLimited
from clawplane.domain.runner_asks import REFUSED
from clawplane.domain.sessions import ExecRequest
from clawplane.link.asking import Asking
from clawplane.runner.sessions.execs import Execs
from clawplane.runner.sessions.running import Cause, Running

_MOST: Final = 100
_END_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


def goes_beside(request: ExecRequest) -> bool:
    """Tell whether an exec takes no turn."""
    return request.detached and request.tool != "python"


class Detached:
    """The detached commands of one session. `awake` lets its processes run, `changed` hears that one has ended."""

    def __init__(self, execs: Execs, awake: Callable[[], Awaitable[None]], changed: Callable[[], None]) -> None:
        self._execs = execs
        self._awake = awake
        self._changed = changed
        self._running: dict[asyncio.Task[None], Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, asking: Asking, request: ExecRequest) -> None:
        """Run a command; raises InvalidArgument, and RateLimited when too many run."""
        if len(self._running) >= _MOST:
            raise RateLimited(
                f"{_MOST} detached commands run in this session.", hint="Interrupt some.", details=(REFUSED,)
            )
        running = self._execs.begin(asking, request)
        task = asyncio.create_task(self._run(running))
        self._running[task] = running
        task.add_done_callback(self._over)

    def end(self, exec_id: str, cause: Cause) -> bool:
        """End one; False when there is none of this id."""
        found = [running for running in self._running.values() if running.request.id == exec_id]
        for running in found:
            running.end(cause)
        return bool(found)

    def end_all(self, cause: Cause) -> None:
        """End all that run."""
        for running in self._running.values():
            running.end(cause)

    async def finish(self) -> None:
        """End what still runs and wait until it is answered, but not for long."""
        self.end_all("killed")
        if self._running:
            asked = {task: running.asking for task, running in self._running.items()}
            _, left = await asyncio.wait(list(asked), timeout=_END_SECONDS)
            for task in left:
                task.cancel()
                # said before the end of this life is: what was begun must not look as if it were not
                asked[task].fail(Conflict("The session ended before the command did."))
            await asyncio.gather(*left, return_exceptions=True)

    async def _run(self, running: Running) -> None:
        asking = running.asking
        try:
            await self._awake()
            await self._execs.through(running, beside=True)
        except ClawplaneError as error:
            asking.fail(error)
        except Exception:  # a defect of ours: whoever asked must not wait for ever
            _log.exception("A detached command failed by a defect")
            asking.fail(InternalError("The runner failed by a defect; its log has the details."))

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._changed()
