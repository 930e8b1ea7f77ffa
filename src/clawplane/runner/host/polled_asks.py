"""Ask a person about tool uses over the Task API: the runner that polls asks again until somebody has answered.

Only a server of ours can be asked: one that gives its tasks with claims. What it refuses for good is a no; one that is
away is asked again, for the agent waits as long as its turn lasts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from clawplane.domain.host_tasks import TaskId
from clawplane.runner.host.agents.turn import ToolAnswer, ToolAsk
from clawplane.runner.host.task_api import TaskApi, TaskApiFailed

WAIT_SECONDS: Final = 25.0
_AGAIN_SECONDS: Final = 3.0

_log = logging.getLogger(__name__)


class PolledAsks:
    """The questions of one task; `claim` is the one under which it is held now."""

    def __init__(
        self,
        api: TaskApi,
        task: TaskId,
        claim: Callable[[], int | None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._task = task
        self._claim = claim
        self._pause = pause

    async def ask(self, ask: ToolAsk) -> ToolAnswer:
        """Wait for a person's answer; cancelled, it is no question any more."""
        use = {"id": secrets.token_hex(6), "tool": ask.tool, "detail": ask.detail, "cwd": ask.cwd}
        told = False
        while True:
            body = {"taskId": self._task, "claim": self._claim(), "toolUse": use, "told": told}
            body["wait"] = round(WAIT_SECONDS * 1000)
            try:
                answer = await self._api.ask(json.dumps(body).encode(), seconds=WAIT_SECONDS)
            except TaskApiFailed as error:
                _log.warning("A tool use of task %s could not be asked about: %s", self._task, error)
                if error.final:
                    return ToolAnswer(allowed=False, reason="The server cannot ask anybody about this tool use.")
                await self._pause(_AGAIN_SECONDS)
                continue
            told = True
            if answer.get("decision") in ("allow", "refuse"):
                reason = answer.get("reason")
                return ToolAnswer(
                    allowed=answer["decision"] == "allow", reason=reason if isinstance(reason, str) else ""
                )
