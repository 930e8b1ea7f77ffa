"""Read what Gemini CLI prints: the lines of `-o stream-json`, or the one object of `-o json`. No I/O.

A leading sentence in which the model introduces itself as a command line agent is replaced by a neutral one: the reader
of a chat talks to an assistant, not to a program.
"""

from __future__ import annotations

import re
from typing import Any, Final

from clawplane.runner.host.agents.events import (
    AgentEvent,
    Cost,
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
from clawplane.runner.host.agents.events import Final as FinalEvent

_INTRODUCTIONS: Final = (
    (
        re.compile(
            r"^\s*(?:(?:hello|hi)[!,.]?\s+)?(?:i am|i['\u2019]m)\s+(?:gemini(?:\s+cli)?\b,?\s*)?"
            r"(?:(?:an?|your)\s+)?(?:interactive\s+)?(?:ai\s+)?(?:cli|command[- ]line)\s+(?:agent|assistant|tool)"
            r"[^.!\n]*[.!]?\s*",
            re.IGNORECASE,
        ),
        "I am your AI assistant. ",
    ),
    (
        re.compile(r"^\s*(?:hello|hi)?[!,.]?\s*(?:i am|i['\u2019]m)\s+gemini cli\b[^.!\n]*[.!]?\s*", re.IGNORECASE),
        "I am your AI assistant. ",
    ),
    (
        re.compile(
            "^\\s*(?:你好[,!\uff0c\uff01。]?\\s*)?我是[^。!\uff01\\n]{0,40}(?:CLI|命令行)[^。!\uff01\\n]{0,40}[。!\uff01]?\\s*",
            re.IGNORECASE,
        ),
        "我是你的 AI 助手。",
    ),
)


def without_introduction(text: str) -> str:
    """Return an answer whose leading self-description as a command line agent is replaced."""
    for pattern, neutral in _INTRODUCTIONS:
        match = pattern.match(text)
        if match:
            return (neutral + text[match.end() :]).rstrip()
    return text


class GeminiStream:
    """Turns the objects of stream-json into events."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def read(self, said: dict[str, Any]) -> list[AgentEvent]:
        """Turn one object into events; what is unknown gives none."""
        match said.get("type"):
            case "init" if text_of(said.get("session_id")):
                return [Started(session=said["session_id"], model=text_of(said.get("model")))]
            case "message" if said.get("role") == "assistant" and text_of(said.get("content")):
                self._said.append(said["content"])
                return [Text(text=said["content"], delta=said.get("delta") is True)]
            case "tool_use":
                detail = shortened(said.get("parameters") or {})
                self._said.append("\n")
                return [ToolUse(id=text_of(said.get("tool_id")), tool=text_of(said.get("tool_name")), detail=detail)]
            case "tool_result":
                detail = shortened(said.get("output") or record_of(said.get("error")).get("message") or "")
                ok = said.get("status") != "error"
                return [ToolResult(id=text_of(said.get("tool_id")), ok=ok, detail=detail)]
            case "error":
                return [Notice(text=text_of(said.get("message")))]
            case "result":
                return self._result(said)
        return []

    def _result(self, said: dict[str, Any]) -> list[AgentEvent]:
        stats = record_of(said.get("stats"))
        cost = Cost(
            input_tokens=count_of(stats.get("input_tokens")), output_tokens=count_of(stats.get("output_tokens"))
        )
        problem = text_of(record_of(said.get("error")).get("message"))
        text = without_introduction("".join(self._said).strip())
        ok = said.get("status") == "success"
        return [cost, FinalEvent(ok=ok, text=text, errors=(problem,) if problem else ())]


def read_answer(said: dict[str, Any]) -> list[AgentEvent]:
    """Turn the one object of `-o json` into events; no events: it is something else."""
    events: list[AgentEvent] = []
    if text_of(said.get("session_id")):
        events.append(Started(session=said["session_id"]))
    error = record_of(said.get("error"))
    if isinstance(said.get("response"), str):
        events.append(Text(text=said["response"]))
        events.append(FinalEvent(ok=not error, text=without_introduction(said["response"].strip())))
    elif error:
        events.append(FinalEvent(ok=False, errors=(text_of(error.get("message")) or "an error without a message",)))
    return events
