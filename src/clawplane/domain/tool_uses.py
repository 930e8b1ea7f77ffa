"""Tool uses of a running agent that wait for a person: what is asked of the runner about them, and what is told.

The runner keeps the question open; the control plane looks and decides over the link, as it asks a live session. The
runner tells of a new one in the task's live output, as one line of the source `sdk`: the JSON of a `ToolUse`.
"""

from __future__ import annotations

import msgspec


class ToolUse(msgspec.Struct, frozen=True, kw_only=True, tag="approval", tag_field="kind"):
    """A tool that an agent wants to use; `detail` is its input as bounded JSON text, `asked_at` in milliseconds."""

    id: str
    tool: str
    detail: str
    cwd: str
    asked_at: int


class ToolUses(msgspec.Struct, frozen=True, kw_only=True):
    """What waits, oldest first."""

    waiting: tuple[ToolUse, ...] = ()


class Decide(msgspec.Struct, frozen=True, kw_only=True):
    """A person's word about one of them; `reason` is told to the agent."""

    id: str
    allowed: bool
    reason: str = ""


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it still waited; False: it was answered, or gave up, before."""

    taken: bool
