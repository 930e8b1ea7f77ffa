"""Gemini CLI: the labelled prompt on standard input, which the CLI puts before the short text of `-p`.

Which conversation. A new one gets the API's id as `--session-id` when that is a UUID, so that the id is known. It is
resumed by id: first as it is (versions that know ids start once), then by its index in `--list-sessions`. `latest` is
what is left when neither works, or when a chat asks for it and nothing is known of it, and only if the latest
conversation of the directory is not known to belong to another chat. When all fail, a new conversation begins, and the
answer says so. (Listing is a whole start of the program, and may ask the provider to title a conversation.)

Permissions: the CLI's default, in which a headless run uses no tool that needs a yes; `tools` allows some, `*` all.
"""

from __future__ import annotations

import re
import uuid
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Final

import msgspec

from clawplane.runner.host.agents.cli import STALE, Scene, Start
from clawplane.runner.host.agents.events import AgentEvent, Reads
from clawplane.runner.host.agents.gemini_stream import GeminiStream, read_answer
from clawplane.runner.host.agents.help_probe import Help
from clawplane.runner.host.agents.listening import Answer
from clawplane.runner.host.agents.sessions_cache import PROVIDER_ID
from clawplane.runner.host.agents.sessions_files import gemini_session

HINT: Final = (
    "Answer the user directly, in the language of the message, as in a chat. "
    "Do not introduce yourself and do not describe the program you run in."
)
_LISTED: Final = re.compile(r"^\s*(\d+)\. .*\[([0-9A-Za-z-]+)\]\s*$", re.MULTILINE)
_NOT_RESUMED: Final = re.compile(
    r"error resuming session|invalid session identifier|no (?:previous )?sessions? found|session not found",
    re.IGNORECASE,
)
_NO_SIGN_IN: Final = 41
"""The exit code of Gemini CLI for everything about signing in."""
_SIGNED_OUT: Final = re.compile(r"invalid auth method|no longer (?:supported|available)|not eligible", re.IGNORECASE)
_SIGN_IN: Final = (
    "Gemini CLI could not sign in on this runner's host. Set GEMINI_API_KEY for the runner, or sign in there once; "
    "personal accounts are not served by this CLI any more."
)
_EXISTS: Final = "already exists"
_OTHER: Final = "[The earlier conversation could not be resumed. This goes on with the latest one of its directory.]"
_LATEST: Final = "latest"


class Gemini:
    """Everything that only Gemini CLI does."""

    key = "gemini"
    label = "Gemini CLI"
    default_models = "gemini-2.5-flash"
    sub_commands: tuple[str, ...] = ("",)

    def refusal(self, scene: Scene) -> str:
        """Return what Gemini CLI cannot do at all."""
        prompt = scene.prompt
        if prompt.budget_usd is not None:
            return "budget_usd: Gemini CLI has no budget in money; leave it out, and limit the task by its timeout."
        if prompt.approval:
            return "approval: Gemini CLI cannot ask about single tool uses; approve the whole task, or use Claude."
        flag = "--approval-mode" if prompt.tools == ("*",) else "--allowed-tools"
        if prompt.tools and flag not in scene.help[""]:
            return f"This version of Gemini CLI has no {flag}: update it, or leave tools out."
        return ""

    async def begin(self, scene: Scene) -> Start:
        """Resume by the known id, by `latest` where that is wanted and nobody else's, or begin."""
        known = self._known(scene)
        if known:
            found = gemini_session(scene.settings.gemini_home, known)
            own = found.cwd if found else None
            return Start(resume=True, session=known, cwd=own or scene.context.cwd, argument=known)
        if scene.prompt.resume_latest and not scene.begun:
            return await self._latest(scene, scene.context.cwd, "", 0) or self._new(scene)
        return self._new(scene)

    async def again(self, scene: Scene, start: Start, answer: Answer) -> Start | None:
        """Go down the ladder: id, index, latest, new."""
        tries = start.tries + 1
        if not start.resume:
            if start.session and _EXISTS in answer.said:
                return Start(resume=True, session=start.session, cwd=start.cwd, argument=start.session, tries=tries)
            return None
        if answer.final is not None or not _NOT_RESUMED.search(answer.said):
            return None
        if start.argument == start.session:
            index = dict(await self._sessions(scene, start.cwd)).get(start.session or "")
            if index:
                return Start(resume=True, session=start.session, cwd=start.cwd, argument=index, tries=tries)
        if start.argument != _LATEST and scene.prompt.resume_latest:
            latest = await self._latest(scene, start.cwd, _OTHER, tries)
            if latest:
                return latest
        stale = scene.mapped() is not None
        return replace(self._new(scene, fresh=True), note=STALE if stale else "", tries=tries)

    def arguments(self, scene: Scene, start: Start, model: str | None) -> tuple[str, ...]:
        """Return what this version understands; a version that could not be asked gets the peer's arguments."""
        help_, tools = scene.help[""], scene.prompt.tools
        made: list[str] = []
        if start.resume:
            made += ["--resume", start.argument]
        elif start.session:
            made += ["--session-id", start.session]
        if model:
            made += ["-m", model]
        made += ["-o", "stream-json" if _streams(help_) else "json"]
        if not help_.known or "--sandbox" in help_:
            made.append("--sandbox=false")
        if "--skip-trust" in help_:
            made.append("--skip-trust")  # else it refuses to run unattended in a directory nobody has confirmed
        if tools == ("*",):
            made += ["--approval-mode", "yolo"]
        elif tools:
            made.append(f"--allowed-tools={','.join(tools)}")
        return (*made, "-p", self._ending(scene))

    def stdin(self, scene: Scene) -> bytes:
        """Return the hint and the labelled prompt; the reply's label is the text of `-p`."""
        hint = scene.settings.gemini_hint
        text = scene.prompt.prompt
        if hint.strip().lower() != "off":
            text = f"[Instructions]\n{hint.strip() or HINT}\n\n[User message]\n{text}"
        return text.encode("utf-8", "replace")

    def reader(self, scene: Scene) -> Reads | None:
        """Return the parser of the stream, if there is one."""
        return GeminiStream() if _streams(scene.help[""]) else None

    def overheard(self, line: str) -> str | None:
        """Gemini CLI tells its id in JSON only."""
        return None

    def plain(self, text: str) -> list[AgentEvent]:
        """Read the one object of `-o json`, whatever was printed around it."""
        begin, end = text.find("{"), text.rfind("}")
        try:
            said = msgspec.json.decode(text[begin : end + 1]) if 0 <= begin < end else None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return []
        return read_answer(said) if isinstance(said, dict) else []

    def around(self, scene: Scene) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Nothing stands beside Gemini CLI."""
        return nullcontext(())

    def note(self, start: Start, answer: Answer) -> str:
        """Everything about the conversation was decided before."""
        return ""

    def metadata(self, answer: Answer) -> dict[str, str]:
        """Gemini CLI tells nothing further."""
        return {}

    def hint(self, answer: Answer) -> str:
        """Say what to do when Gemini CLI may not sign in."""
        return _SIGN_IN if _SIGNED_OUT.search(answer.said) or answer.ended.exit_code == _NO_SIGN_IN else ""

    def remark(self, scene: Scene) -> str:
        """Nothing is other than expected."""
        return ""

    def _known(self, scene: Scene) -> str | None:
        api = scene.prompt.session_id
        mapped = scene.mapped()
        if mapped is None and gemini_session(scene.settings.gemini_home, api):
            mapped = api
        return mapped if mapped and PROVIDER_ID.fullmatch(mapped) and mapped not in scene.begun else None

    def _new(self, scene: Scene, *, fresh: bool = False) -> Start:
        api = scene.prompt.session_id
        wanted = api if _is_uuid(api) and not fresh and api not in scene.begun else str(uuid.uuid4())
        named = "--session-id" in scene.help[""]
        return Start(resume=False, session=wanted if named else None, cwd=scene.context.cwd)

    async def _latest(self, scene: Scene, cwd: str, note: str, tries: int) -> Start | None:
        """Return how to resume the latest conversation, None when it is another chat's or there is none."""
        session: str | None = None
        if "--list-sessions" in scene.help[""]:
            listed = await self._sessions(scene, cwd)
            if not listed:
                return None
            session = listed[-1][0]
            owner = scene.cache.api_of(session)
            if owner is not None and owner != scene.prompt.session_id:
                return None
        return Start(resume=True, session=session, cwd=cwd, argument=_LATEST, note=note, tries=tries)

    async def _sessions(self, scene: Scene, cwd: str) -> list[tuple[str, str]]:
        """Return ids and indices of the directory's conversations, the latest last."""
        if "--list-sessions" not in scene.help[""]:
            return []
        ended = await scene.listed(("--list-sessions",), cwd)
        found = _LISTED.findall(f"{ended.stdout}\n{ended.stderr}") if ended.exit_code == 0 else []
        return [(id_, index) for index, id_ in found]

    def _ending(self, scene: Scene) -> str:
        return "" if scene.settings.gemini_hint.strip().lower() == "off" else "[Your reply]"


def _streams(help_: Help) -> bool:
    return help_.says("stream-json")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
