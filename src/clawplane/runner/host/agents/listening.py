"""Listen to one launch of an agent CLI: tell what it says live, and gather its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from clawplane.runner.host.agents.events import AgentEvent, Cost, JsonLines, Notice, Reads, Started, Text, ToolUse
from clawplane.runner.host.agents.events import Final as FinalEvent
from clawplane.runner.host.agents.live_log import LiveLog
from clawplane.runner.host.agents.turn import AgentContext, Ended
from clawplane.runner.host.output import OUTPUT_BYTES

_MOST_NOTICES: Final = 100


@dataclass(slots=True)
class Answer:
    """What one launch came to; `session` is the id that the CLI itself has said."""

    session: str | None = None
    model: str = ""
    texts: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    cost: Cost | None = None
    final: FinalEvent | None = None
    events: int = 0
    ended: Ended = field(default_factory=lambda: Ended(exit_code=-1))

    @property
    def good(self) -> bool:
        """Tell whether the CLI did what it was asked to."""
        return self.ended.exit_code == 0 and (self.final.ok if self.final else not self.events)

    @property
    def errors(self) -> tuple[str, ...]:
        """Return what went wrong, in the CLI's words."""
        return self.final.errors if self.final and self.final.errors else tuple(self.notices)

    @property
    def text(self) -> str:
        """Return the answer: what the CLI calls final, else all that the agent said, else the plain output."""
        if self.final and self.final.text is not None:
            return self.final.text
        if self.texts:
            return "".join(self.texts)
        return "" if self.events else self.ended.stdout

    @property
    def said(self) -> str:
        """Return everything in which a known error may stand."""
        return "\n".join((self.text, *self.errors, self.ended.stderr, self.ended.error or ""))


class Listener:
    """Hears one launch; `on_session` is called with every provider id that the CLI says, at once."""

    def __init__(
        self,
        context: AgentContext,
        log: LiveLog,
        reader: Reads | None,
        overheard: Callable[[str], str | None],
        on_session: Callable[[str], None],
    ) -> None:
        self.answer = Answer()
        self._context = context
        self._log = log
        self._reader = reader
        self._overheard = overheard
        self._on_session = on_session
        self._kept = 0
        self._lines = {
            "stdout": JsonLines(self._object, self._plain) if reader else JsonLines(None, self._plain),
            "stderr": JsonLines(None, self._stderr),
        }

    def heard(self, stream: str, text: str) -> None:
        """Take output as it arrives."""
        self._lines[stream].feed(text)

    def end(self, ended: Ended, plain: Callable[[str], list[AgentEvent]]) -> Answer:
        """Take the end, and what is read from plain output only when it is whole."""
        for lines in self._lines.values():
            lines.end()
        self.answer.ended = ended
        if not self.answer.events:
            for event in plain(ended.stdout):
                self._event(event, live=False)
        return self.answer

    def _object(self, said: dict[str, Any]) -> None:
        for event in self._reader.read(said) if self._reader else ():
            self._event(event)

    def _plain(self, line: str) -> None:
        self._context.tell("stdout", line)
        self._log.write(line)
        self._listen_for_session(line)

    def _stderr(self, line: str) -> None:
        self._context.tell("stderr", line)
        self._listen_for_session(line)

    def _listen_for_session(self, line: str) -> None:
        session = self._overheard(line)
        if session and self.answer.session is None:
            self._session(session)

    def _session(self, session: str) -> None:
        self.answer.session = session
        self._on_session(session)

    def _event(self, event: AgentEvent, *, live: bool = True) -> None:
        self.answer.events += 1
        match event:
            case Started():
                self.answer.model = event.model or self.answer.model
                self._session(event.session)
            case Text():
                self._text(event, live)
            case ToolUse():
                self._log.write(f"[{event.tool}] {event.detail}\n")
            case Cost():
                self.answer.cost = event
            case Notice() if event.text and len(self.answer.notices) < _MOST_NOTICES:
                self.answer.notices.append(event.text)
                self._context.tell("stderr", f"{event.text}\n")
            case FinalEvent():
                self.answer.final = event
        self._context.told(event)

    def _text(self, event: Text, live: bool) -> None:
        said = event.text if event.delta else f"{event.text}\n"
        if self._kept < OUTPUT_BYTES:
            self.answer.texts.append(said)
            self._kept += len(said)
        if live:
            self._context.tell("stdout", said)
            self._log.write(said)
