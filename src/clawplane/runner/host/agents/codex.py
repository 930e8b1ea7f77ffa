"""Codex: `codex exec`, the prompt on standard input, JSON lines on standard output.

Which conversation: the provider's id that the API's id stands for; else the newest session file of the last 30 days
whose id is the API's id or starts with it; else a new one, whose id comes in the first JSON line (or, from versions
without --json, as `session id: ...` on stderr).

`resume` takes no -C, --cd and -s: the directory is the process's own, and the sandbox is set by `-c`. A conversation
that is gone leads to a new one, and the answer says so.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import Final

from clawplane.runner.host.agents.cli import STALE, Scene, Start
from clawplane.runner.host.agents.codex_stream import CodexStream
from clawplane.runner.host.agents.events import AgentEvent, Reads
from clawplane.runner.host.agents.listening import Answer
from clawplane.runner.host.agents.sessions_cache import PROVIDER_ID
from clawplane.runner.host.agents.sessions_files import codex_session

_SESSION_LINE: Final = re.compile(r"session id:\s*([0-9a-fA-F-]{8,})", re.IGNORECASE)
_GONE: Final = re.compile(
    r"no rollout found|thread/resume failed|no (?:saved )?(?:session|conversation|thread)s?\b.*found"
    r"|(?:session|conversation|thread)\b.* not found",
    re.IGNORECASE,
)
_SANDBOX: Final = 'sandbox_mode="workspace-write"'


class Codex:
    """Everything that only Codex does."""

    key = "codex"
    label = "Codex"
    default_models = ""
    sub_commands: tuple[str, ...] = ("exec", "exec resume")

    def refusal(self, scene: Scene) -> str:
        """Return what Codex cannot do at all."""
        prompt = scene.prompt
        if prompt.budget_usd is not None:
            return "budget_usd: Codex has no budget in money; leave it out, and limit the task by its timeout."
        if prompt.tools:
            return "tools: Codex has no allow list of tools; it runs in its own sandbox. Leave tools out."
        if prompt.approval:
            return "approval: Codex cannot ask about single tool uses; approve the whole task, or use Claude."
        return ""

    async def begin(self, scene: Scene) -> Start:
        """Resume what is known or found, or begin."""
        home, sessions = scene.context.cwd, scene.settings.codex_sessions
        today = datetime.fromtimestamp(scene.context.clock.now_ms() / 1000, UTC).date()
        mapped = scene.mapped()
        if mapped and PROVIDER_ID.fullmatch(mapped):
            found = codex_session(sessions, mapped, today)
        else:
            found = codex_session(sessions, scene.prompt.session_id, today, prefix=True)
            mapped = found.id if found else None
        if mapped is None or mapped in scene.begun:
            return Start(resume=False, session=None, cwd=home)
        own = found.cwd if found and scene.context.spec.cwd is None else None
        return Start(resume=True, session=mapped, cwd=own or home)

    async def again(self, scene: Scene, start: Start, answer: Answer) -> Start | None:
        """Begin a new conversation when the one to resume is gone."""
        if start.resume and answer.final is None and _GONE.search(answer.said):
            return Start(resume=False, session=None, cwd=scene.context.cwd, note=STALE, tries=start.tries + 1)
        return None

    def arguments(self, scene: Scene, start: Start, model: str | None) -> tuple[str, ...]:
        """Return what this version understands; a version that could not be asked gets the peer's arguments."""
        help_ = scene.help["exec resume" if start.resume else "exec"]
        made = ["exec", *(["resume"] if start.resume else [])]
        if "--json" in help_:
            made.append("--json")
        if not help_.known or "--skip-git-repo-check" in help_:
            made.append("--skip-git-repo-check")
        if "--sandbox" in help_ and not start.resume:
            made += ["--sandbox", "workspace-write"]
        elif "--config" in help_ and start.resume:
            made += ["-c", _SANDBOX]
        elif not help_.known or "--full-auto" in help_:
            made.append("--full-auto")
        if model:
            made += ["-m", model]
        if start.resume and start.session:
            made.append(start.session)
        return (*made, "-")

    def stdin(self, scene: Scene) -> bytes:
        """Return the prompt as it is."""
        return scene.prompt.prompt.encode("utf-8", "replace")

    def reader(self, scene: Scene) -> Reads | None:
        """Return the parser of JSON lines; where they were not asked for there are none, and text is the answer."""
        return CodexStream()

    def overheard(self, line: str) -> str | None:
        """Return the id that old versions print on stderr."""
        match = _SESSION_LINE.search(line)
        return match[1].strip("-") if match else None

    def plain(self, text: str) -> list[AgentEvent]:
        """Plain text is the answer."""
        return []

    def around(self, scene: Scene) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Nothing stands beside Codex."""
        return nullcontext(())

    def note(self, start: Start, answer: Answer) -> str:
        """Say when a version that was told to resume has quietly begun anew."""
        other = start.resume and answer.session and answer.session.lower() != (start.session or "").lower()
        return STALE if other else ""

    def metadata(self, answer: Answer) -> dict[str, str]:
        """Codex tells nothing further."""
        return {}

    def hint(self, answer: Answer) -> str:
        """Codex says itself what is wrong."""
        return ""

    def remark(self, scene: Scene) -> str:
        """Nothing is other than expected."""
        return ""
