"""What a person is asked: may this task start, may this tool be used. Written so that it can be shown anywhere.

Who asked for the task, or the agent that wants the tool, chose the text; it may try to look like something else. So
what cannot be seen is made visible (control characters, marks that turn the direction of writing, lone surrogates),
what is left out is counted and its end is shown, and what the text says of itself stands behind what is known of it.
Values of variables are never shown.
"""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from clawplane.domain.host_results import json_of
from clawplane.domain.host_tasks import (
    Command,
    FileEdit,
    FileRead,
    FileWrite,
    HostTask,
    NewTask,
    Prompt,
    TaskId,
    Work,
)
from clawplane.domain.tool_uses import ToolUse

IN_CHAT: Final = 1_200
IN_WEBHOOK: Final = 16_000
ON_PAGE: Final = 60_000
_IN_FACT: Final = 400
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_AGENTS: Final = {"claude": "Claude Code", "codex": "Codex", "gemini": "Gemini CLI"}

Kind = Literal["task", "tool"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question; `use` is the tool use that it is about, "" for the task itself.

    title: what is to be allowed, in a few words. facts: what is known about it, name and value. text: what the caller
    or the agent wrote, not bounded, see `shown`.
    """

    task: TaskId
    kind: Kind
    use: str
    title: str
    facts: tuple[tuple[str, str], ...]
    text: str


def of_task(task: NewTask | HostTask) -> Question:
    """Return the question whether a task may start."""
    title, facts, text = _of_work(task.work)
    target = task.target
    where = target.runner or ", ".join(f"{name}={value}" for name, value in sorted(target.labels.items()))
    facts += [("directory", task.cwd or ""), ("runner", where or "any"), ("variables", _names(task.env))]
    return Question(task=task.id, kind="task", use="", title=title, facts=_facts(facts), text=text)


def of_tool(task: HostTask, use: ToolUse) -> Question:
    """Return the question whether an agent may use a tool."""
    agent = _agent_of(task.work)
    facts = [
        ("tool", use.tool),
        ("directory", use.cwd),
        ("runner", task.runner or ""),
        ("session", task.session_id or ""),
    ]
    return Question(
        task=task.id, kind="tool", use=use.id, title=f"Let {agent} use a tool", facts=_facts(facts), text=use.detail
    )


def shown(text: str, most: int) -> str:
    """Return a text to be read by a person: nothing invisible in it, and of at most about `most` characters.

    Of a longer one the beginning and the end are shown, and between them how much is not.
    """
    return both_ends(_visible(both_ends(text, most)), 2 * most)


def both_ends(text: str, most: int) -> str:
    """Return a text, or of a longer one about `most` characters: its beginning, how much is left out, its end."""
    if len(text) <= most:
        return text
    end = most // 4
    left_out = len(text) - most
    return f"{text[: most - end]}\n[... {left_out} characters are not shown here ...]\n{text[-end:]}"


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_seen, text))


def _seen(char: str) -> str:
    if char in "\n\t" or unicodedata.category(char) not in _INVISIBLE:
        return char
    number = ord(char)
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def _of_work(work: Work) -> tuple[str, list[tuple[str, str]], str]:
    match work:
        case Command():
            return "Run a command", [], work.command
        case FileWrite():
            return "Write a file", [("file", work.path)], _text(work.content)
        case FileRead():
            return "Read a file", [("file", work.path)], ""
        case FileEdit():
            how = "everywhere" if work.replace_all else "once"
            text = f"{_text(work.old_string)}\n--- becomes ---\n{_text(work.new_string)}"
            return "Edit a file", [("file", work.path), ("replace", how)], text
    facts = [("session", work.session_id), ("model", work.model or ""), ("tools", ", ".join(work.tools))]
    if work.approval == "tools":
        facts.append(("tool uses", "are asked about one by one"))
    return f"Give {_agent_of(work)} a prompt", facts, work.prompt


def _agent_of(work: Work) -> str:
    return _AGENTS.get(work.cli, work.cli) if isinstance(work, Prompt) else "an agent"


def _names(variables: dict[str, str]) -> str:
    return f"{', '.join(sorted(variables))} (values are not shown)" if variables else ""


def _facts(facts: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, shown(value, _IN_FACT).replace("\n", "\\n")) for name, value in facts if value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_of(value)


def chat_question(question: Question, *, link: str, until: int) -> str:
    """Return the message that a chat gets; `until` in milliseconds. The link is not followed by previews of Discord's.

    What was asked stands in one block of code; it cannot end the block.
    """
    lines = [f"{name}: {value}" for name, value in question.facts]
    text = shown(question.text, IN_CHAT)
    block = "\n".join([*lines, "", text] if text.strip() else lines).replace("```", "`\u200b`\u200b`")
    word = f"clawplane task approve {question.task}" + (f" --tool-use {question.use}" if question.use else "")
    parts = [f"**❓ {question.title}?** It waits for a yes."]
    if block.strip():
        parts.append(f"```\n{block}\n```")
    if link:
        parts.append(f"Yes or no: <{link}> (until {when(until)}; whoever has this link decides)")
    parts.append(f"Or in a terminal: `{word}`")
    return "\n".join(parts)


def webhook_question(question: Question, task: NewTask | HostTask, *, link: str, until: int) -> bytes:
    """Return the body of the notice `task.approval-needed`; `until` in milliseconds."""
    text = shown(question.text, IN_WEBHOOK)
    told = {
        "type": "task.approval-needed",
        "task": {
            "id": task.id,
            "type": task.type.value,
            "status": task.status.value if isinstance(task, HostTask) else "pending",
            "createdAt": task.created_at,
            "sessionId": task.session_id,
            "labels": task.labels,
        },
        "question": {
            "kind": question.kind,
            "toolUse": question.use or None,
            "title": question.title,
            "facts": dict(question.facts),
            "text": text,
            "characters": len(question.text),
        },
        "answerUrl": link or None,
        "expiresAt": until,
    }
    return json.dumps(told, ensure_ascii=True).encode()


def when(at: int) -> str:
    """Return a time, in milliseconds, for people."""
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M} UTC"
