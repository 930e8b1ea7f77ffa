"""What agent CLIs say while they work, in one vocabulary for all of them, and the lines it is read from.

Every CLI writes one JSON object a line when asked to; a pure parser per CLI (`*_stream.py`) turns objects into these
events. What is no JSON object is kept as text, so that a version without such a mode works as well, and so that a
warning in between breaks nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

LONGEST_LINE = 16 << 20
"""A longer line is dropped: one tool result may hold a whole file, but memory is not the CLI's to fill."""
LONGEST_DETAIL = 4_000
"""Characters of a tool's input or result that an event carries."""


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all events; `kind` is the tag on the wire."""


class Started(AgentEvent, frozen=True, kw_only=True, tag="started", tag_field="kind"):
    """The conversation that the CLI is in, under its own id."""

    session: str
    model: str = ""


class Text(AgentEvent, frozen=True, kw_only=True, tag="text", tag_field="kind"):
    """What the agent says. `delta` True: the next text continues this one without a break."""

    text: str
    delta: bool = False


class ToolUse(AgentEvent, frozen=True, kw_only=True, tag="tool", tag_field="kind"):
    """A tool that the agent uses; `detail` is its input, shortened."""

    id: str
    tool: str
    detail: str = ""


class ToolResult(AgentEvent, frozen=True, kw_only=True, tag="tool-result", tag_field="kind"):
    """What a tool gave, shortened."""

    id: str
    ok: bool
    detail: str = ""


class Cost(AgentEvent, frozen=True, kw_only=True, tag="cost", tag_field="kind"):
    """What was used so far, as the CLI counts it; `usd` None where the CLI does not say."""

    usd: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0


class Notice(AgentEvent, frozen=True, kw_only=True, tag="notice", tag_field="kind"):
    """Something the CLI or the runner remarks: a warning, an error that may be followed by another try."""

    text: str


class Final(AgentEvent, frozen=True, kw_only=True, tag="final", tag_field="kind"):
    """The end of the turn; `text` None: the texts so far are the answer. `problem` is the CLI's word for a failure."""

    ok: bool
    text: str | None = None
    problem: str = ""
    errors: tuple[str, ...] = ()


class Reads(Protocol):
    """A parser of one CLI's JSON lines."""

    def read(self, said: dict[str, Any]) -> list[AgentEvent]:
        """Turn one object into events; what is unknown gives none."""
        ...


class JsonLines:
    """Cuts a stream of text into JSON objects and the lines that are none; on_object None: all lines are text."""

    def __init__(self, on_object: Callable[[dict[str, Any]], None] | None, on_text: Callable[[str], None]) -> None:
        self._on_object = on_object
        self._on_text = on_text
        self._pieces: list[str] = []
        self._length = 0

    def feed(self, text: str) -> None:
        """Take text as it arrives."""
        *lines, rest = text.split("\n")
        for line in lines:
            self._add(line)
            self._finish("\n")
        self._add(rest)

    def end(self) -> None:
        """Take what is left as a last line."""
        if self._length:
            self._finish("")

    def _add(self, piece: str) -> None:
        if piece:
            self._length += len(piece)
            if self._length <= LONGEST_LINE:
                self._pieces.append(piece)

    def _finish(self, end: str) -> None:
        line, whole = "".join(self._pieces), self._length <= LONGEST_LINE
        self._pieces.clear()
        self._length = 0
        if not whole:
            return
        if self._on_object and line.startswith("{"):
            try:
                said = json.loads(line)
            except (ValueError, RecursionError):
                pass
            else:
                self._on_object(said)
                return
        self._on_text(line + end)


def shortened(value: Any) -> str:
    """Return a tool's input or result as text of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]} ... [{len(text)} characters]"


def text_of(value: Any) -> str:
    """Return a value that ought to be text, or ""."""
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int:
    """Return a value that ought to be a count, or 0."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else 0


def record_of(value: Any) -> dict[str, Any]:
    """Return a value that ought to be an object, or an empty one."""
    return value if isinstance(value, dict) else {}
