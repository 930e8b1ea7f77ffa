"""Read the stream-json of Claude Code: system, assistant, user and result objects. No I/O."""

from __future__ import annotations

from typing import Any

from clawplane.runner.host.agents.events import (
    AgentEvent,
    Cost,
    Final,
    Started,
    Text,
    ToolResult,
    ToolUse,
    count_of,
    record_of,
    shortened,
    text_of,
)


class ClaudeStream:
    """Turns objects into events; what sub-agents say is not the agent's own text."""

    def read(self, said: dict[str, Any]) -> list[AgentEvent]:
        """Turn one object into events; what is unknown gives none."""
        match said.get("type"):
            case "system" if said.get("subtype") == "init" and text_of(said.get("session_id")):
                return [Started(session=said["session_id"], model=text_of(said.get("model")))]
            case "assistant":
                return self._assistant(said)
            case "user":
                return _results(said)
            case "result":
                return _result(said)
        return []

    def _assistant(self, said: dict[str, Any]) -> list[AgentEvent]:
        events: list[AgentEvent] = []
        for block in _blocks(said):
            if block.get("type") == "text" and text_of(block.get("text")) and not said.get("parent_tool_use_id"):
                events.append(Text(text=block["text"]))
            elif block.get("type") == "tool_use":
                detail = shortened(block.get("input", {}))
                events.append(ToolUse(id=text_of(block.get("id")), tool=text_of(block.get("name")), detail=detail))
        return events


def _blocks(said: dict[str, Any]) -> list[dict[str, Any]]:
    content = record_of(said.get("message")).get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _results(said: dict[str, Any]) -> list[AgentEvent]:
    return [
        ToolResult(
            id=text_of(block.get("tool_use_id")),
            ok=block.get("is_error") is not True,
            detail=shortened(block.get("content") or ""),
        )
        for block in _blocks(said)
        if block.get("type") == "tool_result"
    ]


def _result(said: dict[str, Any]) -> list[AgentEvent]:
    usage = record_of(said.get("usage"))
    usd = said.get("total_cost_usd")
    subtype = text_of(said.get("subtype"))
    errors = tuple(text_of(each) for each in said["errors"]) if isinstance(said.get("errors"), list) else ()
    good = subtype == "success"
    return [
        Cost(
            usd=float(usd) if isinstance(usd, int | float) and not isinstance(usd, bool) else None,
            input_tokens=count_of(usage.get("input_tokens")),
            output_tokens=count_of(usage.get("output_tokens")),
        ),
        Final(
            ok=good and said.get("is_error") is not True,
            text=said["result"] if isinstance(said.get("result"), str) else None,
            # The name that the contract gives to an end other than success: this is the protocol of the Agent SDK.
            problem="" if good else f"SDK {subtype or 'result without a subtype'}",
            errors=errors,
        ),
    ]
