"""Read the JSON lines of `codex exec --json`: thread, turn and item events. No I/O."""

from __future__ import annotations

from typing import Any

from clawplane.runner.host.agents.events import (
    AgentEvent,
    Cost,
    Final,
    Notice,
    Started,
    Text,
    ToolResult,
    ToolUse,
    count_of,
    record_of,
    shortened,
    text_of,
)

_TOOLS = {
    "command_execution": ("shell", "command", "aggregated_output"),
    "file_change": ("edit", "changes", ""),
    "mcp_tool_call": ("mcp", "arguments", "result"),
    "web_search": ("web search", "query", ""),
}
"""Item types that are tools: the name, and the members that hold input and result."""


class CodexStream:
    """Turns objects into events; the last message of a turn is its answer."""

    def __init__(self) -> None:
        self._last: str | None = None
        self._begun: set[str] = set()

    def read(self, said: dict[str, Any]) -> list[AgentEvent]:
        """Turn one object into events; what is unknown gives none."""
        match said.get("type"):
            case "thread.started" if text_of(said.get("thread_id")):
                return [Started(session=said["thread_id"])]
            case "item.started":
                return self._started(record_of(said.get("item")))
            case "item.completed":
                return self._completed(record_of(said.get("item")))
            case "turn.completed":
                usage = record_of(said.get("usage"))
                cost = Cost(
                    input_tokens=count_of(usage.get("input_tokens")), output_tokens=count_of(usage.get("output_tokens"))
                )
                return [cost, Final(ok=True, text=self._last)]
            case "turn.failed":
                problem = text_of(record_of(said.get("error")).get("message")) or "the turn failed"
                return [Final(ok=False, text=self._last, errors=(problem,))]
            case "error":
                return [Notice(text=text_of(said.get("message")))]
        return []

    def _completed(self, item: dict[str, Any]) -> list[AgentEvent]:
        kind = text_of(item.get("type"))
        if kind == "agent_message":
            self._last = text_of(item.get("text"))
            return [Text(text=self._last)] if self._last else []
        if kind == "error":
            return [Notice(text=text_of(item.get("message")))]
        if kind not in _TOOLS:
            return []
        result = item.get(_TOOLS[kind][2]) or ""
        ok = item.get("status") not in ("failed", "declined")
        return [*self._started(item), ToolResult(id=text_of(item.get("id")), ok=ok, detail=shortened(result))]

    def _started(self, item: dict[str, Any]) -> list[AgentEvent]:
        """Tell a tool once, whether its beginning was told or only its end."""
        kind, id_ = text_of(item.get("type")), text_of(item.get("id"))
        if kind not in _TOOLS or id_ in self._begun:
            return []
        self._begun.add(id_)
        name, given, _ = _TOOLS[kind]
        if kind == "mcp_tool_call":
            name = ".".join(filter(None, (text_of(item.get("server")), text_of(item.get("tool"))))) or name
        return [ToolUse(id=id_, tool=name, detail=shortened(item.get(given) or ""))]
