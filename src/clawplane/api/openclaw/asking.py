"""Let runners that poll ask a person about tool uses of their agents (additive; openclaw's own runner never asks)."""

from __future__ import annotations

import re
from typing import Any, Final

from clawplane.api.openclaw.values import bounded_int, text_of
from clawplane.api.openclaw.visits import Reply, Visit, answer
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_tasks import TaskId
from clawplane.domain.tool_uses import ToolUse

_WAIT_MS: Final = 25_000
_MAX_WAIT_MS: Final = 60_000
_MOST_CLAIM: Final = (1 << 53) - 1
_ID: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
_LONGEST: Final = 8_192


async def ask(visit: Visit) -> Reply:
    """Answer with a person's `decision` about a tool use, allow or refuse, or null when there is none within `wait` ms.

    `claim` is the one under which the task was given. With `told` the runner says that it has asked before: people are
    not told again.
    """
    body = await visit.json()
    task, claim = text_of(body.get("taskId")), bounded_int(body.get("claim"), 0, 0, _MOST_CLAIM)
    if not task or not claim:
        raise InvalidArgument("taskId and claim are required")
    word = await visit.house.runners.ask(
        TaskId(task),
        claim,
        _tool_use(body.get("toolUse"), visit.house.clock.now_ms()),
        told=body.get("told") is True,
        seconds=bounded_int(body.get("wait"), _WAIT_MS, 0, _MAX_WAIT_MS) / 1000,
        gone=visit.gone(),
    )
    decision = None if word is None else "allow" if word.allowed else "refuse"
    return answer({"success": True, "decision": decision, "reason": "" if word is None else word.reason})


def _tool_use(value: Any, now: int) -> ToolUse:
    problem = InvalidArgument("toolUse: use an object with id (letters, digits, - and _), tool, detail and cwd")
    if not isinstance(value, dict):
        raise problem
    id_, tool = text_of(value.get("id")), text_of(value.get("tool"))
    detail, cwd = value.get("detail", ""), value.get("cwd", "")
    fits = all(isinstance(each, str) and len(each) <= _LONGEST for each in (tool, detail, cwd))
    if not fits or not tool or _ID.fullmatch(id_) is None:
        raise problem
    return ToolUse(id=id_, tool=tool, detail=detail, cwd=cwd, asked_at=now)
