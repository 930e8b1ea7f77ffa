"""One call of a tool on its way: who calls, what may be asked, how progress is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from mcp_types import CallToolResult

from clawplane.api.mcp.progress import INTERVAL, Report
from clawplane.api.mcp.sessions import Sessions
from clawplane.domain.access import Caller
from clawplane.domain.asks import METHODS
from clawplane.domain.errors import InternalError
from clawplane.domain.sessions import Session, SessionOptions

if TYPE_CHECKING:
    from clawplane.api.mcp.host_tools import HostDesk

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call by `caller`; `base` is the address under which the caller reaches us, without a slash at its end."""

    sessions: Sessions
    caller: Caller
    base: str
    report: Report
    interval: float = INTERVAL
    host: HostDesk | None = None
    """What the tools for host tasks call; None where there are none."""

    async def session(self, session_id: str | None) -> Session:
        """Return the session with this id, or a new one when there is none."""
        if not session_id:
            return await self.sessions.create(self.caller, SessionOptions(), placed=False)
        return await self.sessions.find(self.caller, session_id)

    async def ask(self, session_id: str, method: str, question: msgspec.Struct, answer: type[T]) -> T:
        """Return the answer to a question about a session."""
        found = await self.sessions.ask(self.caller, session_id, method, question)
        if not isinstance(found, answer):
            raise InternalError(f"{method} is answered by {METHODS[method][2].__name__}, not {answer.__name__}.")
        return found


Handler = Callable[[ToolCall, Any], Awaitable[CallToolResult]]
