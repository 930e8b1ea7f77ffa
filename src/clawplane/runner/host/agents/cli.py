"""What is different about each agent CLI, and nothing else; conducting.py does the rest for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from clawplane.domain.host_tasks import Prompt
from clawplane.runner.host.agents.events import AgentEvent, Reads
from clawplane.runner.host.agents.help_probe import Help
from clawplane.runner.host.agents.listening import Answer
from clawplane.runner.host.agents.sessions_cache import SessionsCache
from clawplane.runner.host.agents.turn import AgentContext, AgentSettings, Ended

STALE = "[The earlier conversation could not be resumed. This is the beginning of a new one.]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How one launch begins: a conversation that is resumed, or a new one.

    session: the provider's id, None when only the CLI will know it. argument: what the CLI is told instead of the id
    when it is resumed. note: what the answer says of it. tries: how many launches came before.
    """

    resume: bool
    session: str | None
    cwd: str
    argument: str = ""
    note: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a CLI looks at to decide how to begin and with which arguments.

    help: by sub-command, "" for the program itself. begun: conversations that this turn has begun and given up.
    listed: run the program with a few arguments for its output.
    """

    prompt: Prompt
    context: AgentContext
    settings: AgentSettings
    cache: SessionsCache
    help: dict[str, Help]
    listed: Callable[[tuple[str, ...], str], Awaitable[Ended]]
    begun: set[str] = field(default_factory=set)

    def mapped(self) -> str | None:
        """Return the provider's id that the API's id is known to stand for."""
        return self.cache.provider_of(self.prompt.session_id) or self.context.spec.provider_session


class Cli(Protocol):
    """One agent CLI."""

    key: str
    label: str
    default_models: str
    """Candidates when neither the task nor the operator names one; "" leaves it to the CLI."""
    sub_commands: tuple[str, ...]
    """Whose help is read: "" or words after the program."""

    def refusal(self, scene: Scene) -> str:
        """Return why this CLI cannot do what the task asks for, with the way out; "" when it can."""
        ...

    async def begin(self, scene: Scene) -> Start:
        """Decide between a conversation that is there and a new one."""
        ...

    async def again(self, scene: Scene, start: Start, answer: Answer) -> Start | None:
        """Return how to begin once more after a launch that failed for its conversation; None: it failed otherwise."""
        ...

    def arguments(self, scene: Scene, start: Start, model: str | None) -> tuple[str, ...]:
        """Return the arguments; never the prompt."""
        ...

    def stdin(self, scene: Scene) -> bytes:
        """Return what is written to standard input: the prompt."""
        ...

    def reader(self, scene: Scene) -> Reads | None:
        """Return the parser of what `arguments` makes the CLI print; None: plain text."""
        ...

    def overheard(self, line: str) -> str | None:
        """Return the provider's id of the conversation if a line of plain text or of stderr tells it."""
        ...

    def plain(self, text: str) -> list[AgentEvent]:
        """Read the whole of standard output where no event came; no events: the text is the answer."""
        ...

    def around(self, scene: Scene) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Set up what a launch needs beside it and yield further arguments."""
        ...

    def note(self, start: Start, answer: Answer) -> str:
        """Return what the answer has to say of its conversation, beyond the start's own note."""
        ...

    def metadata(self, answer: Answer) -> dict[str, str]:
        """Return what the report's metadata say beyond what all CLIs have."""
        ...

    def hint(self, answer: Answer) -> str:
        """Return what to do about a failure that the CLI itself names badly, or ""."""
        ...

    def remark(self, scene: Scene) -> str:
        """Return what people should know of this launch; told on stderr."""
        ...
