"""The tools for host tasks, listed for keys with the scope `host`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clawplane.api.mcp import host_arguments as arguments
from clawplane.api.mcp import host_tools as tools
from clawplane.api.mcp.entries import ToolEntry
from clawplane.domain.access import Scope

_LATER = (
    " The answer names a task_id. When the wait is over first, status is pending or running: call task_result then. "
    "This is a real machine with its owner's rights, not a sandbox."
)


def host_table() -> Sequence[ToolEntry]:
    """Return the tools."""
    return (
        _entry(
            "run_command",
            "Run a command on a machine",
            "Run a command in the shell of a machine that somebody owns. exit_code 0 is success." + _LATER,
            takes=arguments.RunCommand,
            handler=tools.run_command,
            destroys=True,
            open_world=True,
        ),
        _entry(
            "file_read",
            "Read a file of a machine",
            "Read a file of a machine that somebody owns; its content is in stdout." + _LATER,
            takes=arguments.FileRead,
            handler=tools.file_read,
            reads=True,
            repeats=True,
        ),
        _entry(
            "file_write",
            "Write a file of a machine",
            "Write a file on a machine that somebody owns; it is replaced as a whole." + _LATER,
            takes=arguments.FileWrite,
            handler=tools.file_write,
            destroys=True,
            repeats=True,
        ),
        _entry(
            "file_edit",
            "Edit a file of a machine",
            "Replace text in a file on a machine that somebody owns." + _LATER,
            takes=arguments.FileEdit,
            handler=tools.file_edit,
            destroys=True,
        ),
        *_agents(),
        _entry(
            "task_result",
            "Get a task's result",
            "Wait for a task that an earlier call named, and get its result; it can be asked for again.",
            takes=arguments.TaskResult,
            handler=tools.task_result,
            reads=True,
            repeats=True,
        ),
        _entry(
            "task_cancel",
            "Cancel a task",
            "End a task that waits, or stop one that runs with everything that it started.",
            takes=arguments.TaskOnly,
            handler=tools.task_cancel,
            destroys=True,
        ),
    )


def _agents() -> Sequence[ToolEntry]:
    made = (
        ("claude", "Claude Code", tools.ask_claude),
        ("codex", "Codex", tools.ask_codex),
        ("gemini", "Gemini CLI", tools.ask_gemini),
    )
    return tuple(
        _entry(
            f"ask_{name}",
            f"Ask {title}",
            f"Give a prompt to {title} on a machine that somebody owns; the answer is in stdout. Pass its session_id "
            "to go on in the same conversation." + _LATER,
            takes=arguments.Ask,
            handler=handler,
            destroys=True,
            open_world=True,
        )
        for name, title, handler in made
    )


def _entry(name: str, title: str, description: str, *, takes: type[Any], **more: Any) -> ToolEntry:
    return ToolEntry(
        name=name,
        title=title,
        description=description,
        arguments=takes,
        answer=tools.HostAnswer,
        scope=Scope.HOST,
        **more,
    )
