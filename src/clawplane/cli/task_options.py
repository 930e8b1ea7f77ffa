"""What `clawplane task run` and `submit` are told: the work, and where, when and by whose leave it is done."""

from __future__ import annotations

import base64
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from clawplane.cli.pairs import pairs_of
from clawplane.domain.errors import InvalidArgument

Kind = Literal["command", "file-read", "file-write", "file-edit", "claude", "codex", "gemini"]
_AGENTS: Final = ("claude", "codex", "gemini")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options of a new task."""

    type_: Annotated[
        Kind, Parameter(name=["--type", "-t"], help="What to do; the words are a command, a path or a prompt.")
    ] = "command"
    stdin: Annotated[
        bool, Parameter(negative="", help="Read the command or prompt from standard input, instead of words.")
    ] = False
    runner: Annotated[str | None, Parameter(help="Name or id of the runner that shall do it.")] = None
    where: Annotated[
        list[str] | None,
        Parameter(negative="", help="NAME=VALUE: only on runners with this label; repeat for several."),
    ] = None
    cwd: Annotated[str | None, Parameter(help="Directory on that machine; default: the home directory.")] = None
    env: Annotated[
        list[str] | None, Parameter(name=["--env", "-e"], negative="", help="NAME=VALUE for the task's environment.")
    ] = None
    timeout: Annotated[
        float | None, Parameter(help="Seconds after which it is ended; default: 30, for prompts 600, at most a day.")
    ] = None
    content: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="For file-write: the new content; `-` reads standard input."),
    ] = None
    old: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="For file-edit: the text to replace, exactly.")
    ] = None
    new: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="For file-edit: the text to put in its place.")
    ] = None
    everywhere: Annotated[bool, Parameter(negative="", help="For file-edit: replace every occurrence.")] = False
    binary: Annotated[bool, Parameter(negative="", help="For file-read: write the file's very bytes.")] = False
    session: Annotated[str | None, Parameter(help="For prompts: the conversation to go on in.")] = None
    model: Annotated[str | None, Parameter(help="For prompts: the model.")] = None
    budget: Annotated[float | None, Parameter(help="For prompts: dollars that may be spent.")] = None
    tool: Annotated[
        list[str] | None, Parameter(negative="", help="For prompts: a tool that may be used; repeat for several.")
    ] = None
    approval: Annotated[bool, Parameter(negative="", help="Wait for `clawplane task approve` before it starts.")] = (
        False
    )
    approve_tools: Annotated[
        bool, Parameter(name="--approve-tools", negative="", help="For Claude: every tool use waits for an approval.")
    ] = False
    priority: Annotated[int, Parameter(help="-100 to 100; one step is worth ten minutes of waiting.")] = 0
    delay: Annotated[float, Parameter(help="Seconds until it may start.")] = 0
    on_loss: Annotated[
        Literal["requeue", "fail", "hold"] | None,
        Parameter(name="--on-loss", help="When its runner is lost: again (requeue, the default), fail, or hold."),
    ] = None
    label: Annotated[
        list[str] | None, Parameter(negative="", help="NAME=VALUE to remember of the task; repeat for several.")
    ] = None
    key: Annotated[str | None, Parameter(help="Idempotency key: the same key makes one task, however often sent.")] = (
        None
    )
    callback_url: Annotated[
        str | None, Parameter(name="--callback-url", help="Address that is told of the end by a signed POST.")
    ] = None
    channel: Annotated[str | None, Parameter(help="For prompts: chat channel that is told the answer.")] = None

    @property
    def agent(self) -> bool:
        """Tell whether the words are a prompt."""
        return self.type_ in _AGENTS


def body_of(words: Sequence[str], options: TaskOptions) -> dict[str, Any]:
    """Return the request; raises InvalidArgument. Reads standard input when it is told to."""
    file = options.type_.startswith("file-")
    if bool(words) is options.stdin or (options.stdin and file):
        hint = "For example: clawplane task run 'uname -a'; with --stdin a command or prompt is read, and no words."
        raise InvalidArgument("Say what to do.", hint=hint)
    body = _work(words, options) | {
        "priority": options.priority,
        "delay_ms": _milliseconds("--delay", options.delay, low=0),
        "labels": pairs_of("--label", options.label),
        "env": pairs_of("--env", options.env),
    }
    if options.timeout is not None:
        if file:
            raise InvalidArgument("--timeout does not go with file operations.")
        body["timeout_ms"] = _milliseconds("--timeout", options.timeout, low=1)
    if options.runner or options.where:
        body["target"] = {"runner": options.runner or "", "labels": pairs_of("--where", options.where)}
    if options.approval or options.approve_tools:
        body["approval"] = "tools" if options.approve_tools else True
    more = {"cwd": options.cwd, "on_loss": options.on_loss, "idempotency_key": options.key}
    more["callback_url"] = options.callback_url
    return body | {name: value for name, value in more.items() if value is not None}


def _work(words: Sequence[str], options: TaskOptions) -> dict[str, Any]:
    if options.agent:
        return _prompt(words, options)
    for name in ("session", "model", "budget", "tool", "channel", "approve_tools"):
        if getattr(options, name):
            raise InvalidArgument(
                f"--{name.replace('_', '-')} goes with prompts.", hint="Add --type claude, for example."
            )
    if options.type_ == "command":
        text = words[0] if len(words) == 1 else shlex.join(words)
        return {"type": "command", "command": _read() if options.stdin else text}
    if len(words) != 1:
        raise InvalidArgument(f"--type {options.type_} takes one path.", hint="Quote a path that holds spaces.")
    return _FILES[options.type_](words[0], options)


def _prompt(words: Sequence[str], options: TaskOptions) -> dict[str, Any]:
    text = _read() if options.stdin else " ".join(words)
    body: dict[str, Any] = {"type": f"{options.type_}-cli", "prompt": text}
    more: dict[str, Any] = {"session_id": options.session, "model": options.model, "budget_usd": options.budget}
    more |= {"tools": options.tool, "callback_channel": options.channel}
    return body | {name: value for name, value in more.items() if value is not None}


def _file_read(path: str, options: TaskOptions) -> dict[str, Any]:
    return {"type": "file-read", "path": path, "encoding": "base64" if options.binary else "utf8"}


def _file_write(path: str, options: TaskOptions) -> dict[str, Any]:
    if options.content is None:
        raise InvalidArgument("--type file-write needs --content.", hint="`--content -` reads standard input.")
    if options.content != "-":
        return {"type": "file-write", "path": path, "content": options.content}
    data = sys.stdin.buffer.read()
    try:
        return {"type": "file-write", "path": path, "content": data.decode()}
    except UnicodeDecodeError:
        return {
            "type": "file-write",
            "path": path,
            "content": base64.b64encode(data).decode(),
            "encoding": "base64",
        }


def _file_edit(path: str, options: TaskOptions) -> dict[str, Any]:
    if options.old is None or options.new is None:
        raise InvalidArgument("--type file-edit needs --old and --new.")
    edit = {"old": options.old, "new": options.new, "everywhere": options.everywhere}
    return {"type": "file-edit", "path": path, **edit}


_FILES: Final = {"file-read": _file_read, "file-write": _file_write, "file-edit": _file_edit}


def _read() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"Standard input is no UTF-8 at byte {error.start}.", hint="Send text.") from None


def _milliseconds(name: str, seconds: float, *, low: float) -> int:
    if not math.isfinite(seconds) or seconds < low:
        raise InvalidArgument(f"{name} {seconds:g} is too little.", hint=f"Use at least {low:g} seconds.")
    return round(seconds * 1000)
