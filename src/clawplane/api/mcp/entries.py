"""One line of the table of tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp_types import Tool, ToolAnnotations

from clawplane.api.mcp import arguments
from clawplane.api.mcp.calls import Handler
from clawplane.domain.access import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEntry:
    """One line of the table; the three words are the hints of MCP, `code` marks the tools that answer as code does.

    Only keys with `scope` see it.
    """

    name: str
    title: str
    description: str
    arguments: type[Any]
    answer: type[Any]
    handler: Handler
    reads: bool = False
    destroys: bool = False
    repeats: bool = False
    code: bool = False
    open_world: bool = False
    scope: Scope = Scope.SESSIONS

    def described(self) -> Tool:
        """Return the tool as MCP lists it."""
        return Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=arguments.schema_of(self.arguments),
            output_schema=arguments.schema_of(self.answer),
            annotations=ToolAnnotations(
                title=self.title,
                read_only_hint=self.reads,
                destructive_hint=self.destroys,
                idempotent_hint=self.repeats,
                open_world_hint=self.open_world,
            ),
        )
