"""What the tools for host tasks take."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, field

from clawplane.api.mcp.arguments import Arguments

LONGEST_WAIT: Final = 600
DEFAULT_WAIT: Final = 60
MOST_SHOWN: Final = 64 << 10
"""Characters of one stream that an answer shows."""

_Wait = Annotated[
    float,
    Meta(ge=0, le=LONGEST_WAIT, description="Seconds to wait for the end; task_result goes on where this gives up."),
]
_Runner = Annotated[str, Meta(max_length=200, description="Name of the machine's runner; empty for any that can.")]
_Cwd = Annotated[str, Meta(max_length=4096, description="Directory on that machine; empty for the home directory.")]
_Timeout = Annotated[float, Meta(ge=1, le=86_400, description="Seconds after which it is ended.")]
_Path = Annotated[str, Meta(min_length=1, max_length=4096, description="Path on that machine; `~` and relative work.")]
_TaskId = Annotated[str, Meta(min_length=1, max_length=200, description="The task, as an earlier answer named it.")]


class RunCommand(Arguments, frozen=True):
    """Arguments of `run_command`."""

    command: Annotated[str, Meta(min_length=1, description="What the shell of that machine runs.")]
    timeout: _Timeout = 30
    cwd: _Cwd = ""
    env: Annotated[dict[str, str], Meta(description="Variables for its environment.")] = field(default_factory=dict)
    runner: _Runner = ""
    wait: _Wait = DEFAULT_WAIT


class FileRead(Arguments, frozen=True):
    """Arguments of `file_read`."""

    path: _Path
    encoding: Annotated[Literal["text", "base64"], Meta(description="base64 for anything but text.")] = "text"
    runner: _Runner = ""
    wait: _Wait = DEFAULT_WAIT


class FileWrite(Arguments, frozen=True):
    """Arguments of `file_write`."""

    path: _Path
    content: Annotated[str, Meta(description="The whole new content of the file.")]
    encoding: Annotated[Literal["text", "base64"], Meta(description="How `content` is written.")] = "text"
    runner: _Runner = ""
    wait: _Wait = DEFAULT_WAIT


class FileEdit(Arguments, frozen=True):
    """Arguments of `file_edit`."""

    path: _Path
    old: Annotated[str, Meta(min_length=1, description="The text to replace, exactly as it stands in the file.")]
    new: Annotated[str, Meta(description="The text to put in its place.")]
    everywhere: Annotated[bool, Meta(description="Replace every occurrence instead of the first.")] = False
    runner: _Runner = ""
    wait: _Wait = DEFAULT_WAIT


class Ask(Arguments, frozen=True):
    """Arguments of `ask_claude`, `ask_codex` and `ask_gemini`."""

    prompt: Annotated[str, Meta(min_length=1, description="What the agent shall do or answer.")]
    session_id: Annotated[
        str, Meta(max_length=200, description="The conversation to go on in, as an earlier answer named it.")
    ] = ""
    model: Annotated[str, Meta(max_length=200, description="The agent's model; empty for its own choice.")] = ""
    timeout: _Timeout = 600
    cwd: _Cwd = ""
    runner: _Runner = ""
    wait: _Wait = DEFAULT_WAIT


class TaskResult(Arguments, frozen=True):
    """Arguments of `task_result`."""

    task_id: _TaskId
    wait: _Wait = DEFAULT_WAIT
    offset: Annotated[int, Meta(ge=0, description="First character of stdout to show, for long output.")] = 0


class TaskOnly(Arguments, frozen=True):
    """Arguments of `task_cancel`."""

    task_id: _TaskId
