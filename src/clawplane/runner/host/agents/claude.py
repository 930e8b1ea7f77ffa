"""Claude Code: `claude --print`, the prompt on standard input, stream-json on standard output.

Which conversation. The transcript on the disk decides: the API's id itself, else the provider's id that it stands for,
else, for a short id, the newest transcript whose id starts so; and it is resumed in the directory that it belongs to,
for Claude Code finds no other project's conversations. (A mapping goes before a prefix: it is certain, and a short API
id would otherwise catch a stranger's conversation.) A new conversation gets the API's id when that is a UUID.

Where the disk was wrong, the CLI says "already in use" or "No conversation found", and the turn is taken once more with
the other flag.

Permissions. Nobody can be asked by a headless run, so by default permission checks are off, as in the peer; with an
allow list (`tools`) only that is allowed; with `approval: tools` every tool use asks a person (approvals.py). Claude
Code refuses to run without checks as root: then only file edits go unasked, and the answer's stderr says so.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from clawplane.runner.host.agents.approvals import approving
from clawplane.runner.host.agents.claude_stream import ClaudeStream
from clawplane.runner.host.agents.cli import STALE, Scene, Start
from clawplane.runner.host.agents.events import AgentEvent, Reads
from clawplane.runner.host.agents.help_probe import Help
from clawplane.runner.host.agents.listening import Answer
from clawplane.runner.host.agents.sessions_files import Found, claude_session

_MISSING: Final = "no conversation found"
_IN_USE: Final = "already in use"
_SCREENSHOT: Final = re.compile(r"PLEASE_UPLOAD_TO_DISCORD:\s*(\S[^\n]*?\.png)")
_AS_ROOT: Final = (
    "Claude Code refuses to skip its permission checks for root, so only file edits go unasked. "
    "Run the runner as an ordinary user, or set IS_SANDBOX=1 for it where root is confined."
)


class Claude:
    """Everything that only Claude Code does."""

    key = "claude"
    label = "Claude Code"
    default_models = ""
    sub_commands: tuple[str, ...] = ("",)

    def refusal(self, scene: Scene) -> str:
        """Return what this version or this runner cannot do."""
        prompt, help_ = scene.prompt, scene.help[""]
        if prompt.budget_usd is not None and "--max-budget-usd" not in help_:
            return "This version of Claude Code has no --max-budget-usd: update it, or leave budget_usd out."
        if prompt.tools and not _allow_flag(help_):
            return "This version of Claude Code has no --allowedTools: update it, or leave tools out."
        if prompt.tools and any(not each or each.startswith("-") for each in prompt.tools):
            return "tools: each entry is a tool of Claude Code, such as Read or Bash(git log:*), and no flag."
        if prompt.approval not in ("", "tools"):
            return f'approval: "{prompt.approval}" is not known; use "tools", or leave it out.'
        if prompt.approval == "tools" and "--settings" not in help_:
            return "This version of Claude Code has no --settings: update it, or leave approval out."
        if prompt.approval == "tools" and scene.context.ask is None:
            return "approval: nobody can be asked about tool uses on this runner; have the whole task approved instead."
        return ""

    async def begin(self, scene: Scene) -> Start:
        """Resume the conversation whose transcript is there, or begin one."""
        api, mapped = scene.prompt.session_id, scene.mapped()
        found = self._found(scene, api, mapped)
        if found:
            return Start(resume=True, session=found.id, cwd=found.cwd or scene.context.cwd)
        new = next((id_ for id_ in (mapped, api) if id_ and _is_uuid(id_) and id_ not in scene.begun), None)
        stale = mapped is not None and mapped not in scene.begun
        return self._new(scene, new, note=STALE if stale else "")

    async def again(self, scene: Scene, start: Start, answer: Answer) -> Start | None:
        """Take the other flag when the conversation is there, or is not, against what the disk said."""
        said = answer.said.lower()
        if start.resume and _MISSING in said:
            # With a fresh id when this one was refused as new already: it is somewhere that cannot be reached.
            return self._new(scene, None if start.tries else start.session, note=STALE, tries=start.tries + 1)
        if not start.resume and _IN_USE in said and start.session:
            found = claude_session(scene.settings.claude_projects, start.session)
            cwd = found.cwd if found and found.cwd else scene.context.cwd
            return Start(resume=True, session=start.session, cwd=cwd, tries=start.tries + 1)
        return None

    def arguments(self, scene: Scene, start: Start, model: str | None) -> tuple[str, ...]:
        """Return what this version understands; a version that could not be asked gets the oldest form."""
        prompt, help_ = scene.prompt, scene.help[""]
        made = ["--print"]
        if _structured(help_):
            made += ["--output-format", "stream-json", "--verbose"]
        if model:
            made += ["--model", model]
        if start.session:
            made += ["--resume" if start.resume else "--session-id", start.session]
        if prompt.budget_usd is not None:
            made += ["--max-budget-usd", f"{prompt.budget_usd:g}"]
        return (*made, *self._permissions(scene))

    def stdin(self, scene: Scene) -> bytes:
        """Return the prompt as it is."""
        return scene.prompt.prompt.encode("utf-8", "replace")

    def reader(self, scene: Scene) -> Reads | None:
        """Return the parser of stream-json, if it was asked for."""
        return ClaudeStream() if _structured(scene.help[""]) else None

    def overheard(self, line: str) -> str | None:
        """Claude Code tells its id in the stream only."""
        return None

    def plain(self, text: str) -> list[AgentEvent]:
        """Plain text is the answer."""
        return []

    @asynccontextmanager
    async def around(self, scene: Scene) -> AsyncIterator[tuple[str, ...]]:
        """Have tool uses ask a person, if the task wants that."""
        ask = scene.context.ask
        if scene.prompt.approval != "tools" or ask is None:
            yield ()
            return
        async with approving(scene.settings.private, ask, seconds=scene.prompt.timeout / 1000) as settings:
            yield ("--settings", str(settings))

    def note(self, start: Start, answer: Answer) -> str:
        """Everything about the conversation was decided before."""
        return ""

    def metadata(self, answer: Answer) -> dict[str, str]:
        """Return the screenshot that the answer asks to be uploaded."""
        match = _SCREENSHOT.search(answer.text)
        return {"screenshotPath": match[1]} if match else {}

    def hint(self, answer: Answer) -> str:
        """Claude Code says itself what is wrong."""
        return ""

    def remark(self, scene: Scene) -> str:
        """Say when permissions are not what the task could expect."""
        return _AS_ROOT if self._unasked(scene) and _guarded(scene) else ""

    def _found(self, scene: Scene, api: str, mapped: str | None) -> Found | None:
        projects = scene.settings.claude_projects
        exact = (claude_session(projects, each) for each in (api, mapped) if each)
        found = next(filter(None, exact), None)
        if found is None and mapped is None and api:
            found = claude_session(projects, api, prefix=True)
        return found if found and found.id not in scene.begun else None

    def _new(self, scene: Scene, session: str | None, *, note: str = "", tries: int = 0) -> Start:
        help_ = scene.help[""]
        named = not help_.known or "--session-id" in help_
        id_ = (session if session and _is_uuid(session) else str(uuid.uuid4())) if named else None
        return Start(resume=False, session=id_, cwd=scene.context.cwd, note=note, tries=tries)

    def _permissions(self, scene: Scene) -> list[str]:
        prompt, help_ = scene.prompt, scene.help[""]
        made: list[str] = []
        if self._unasked(scene):
            if _guarded(scene):
                return ["--permission-mode", "acceptEdits"] if "--permission-mode" in help_ else []
            return ["--dangerously-skip-permissions"]
        if prompt.tools:
            if help_.says("dontAsk") and not prompt.approval:
                made += ["--permission-mode", "dontAsk"]
            made += [_allow_flag(help_), *prompt.tools]
        return made

    def _unasked(self, scene: Scene) -> bool:
        return not scene.prompt.tools and not scene.prompt.approval


def _structured(help_: Help) -> bool:
    return "--output-format" in help_ and "--verbose" in help_ and help_.says("stream-json")


def _allow_flag(help_: Help) -> str:
    return next((flag for flag in ("--allowedTools", "--allowed-tools") if flag in help_), "")


def _guarded(scene: Scene) -> bool:
    return os.geteuid() == 0 and scene.context.env.get("IS_SANDBOX", "") not in ("1", "true")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
