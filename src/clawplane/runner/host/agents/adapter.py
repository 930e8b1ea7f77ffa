"""One adapter per agent CLI. A fourth CLI is a new file like codex.py and a row in CLIS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from clawplane.domain.host_tasks import Prompt, TaskReport
from clawplane.runner.host.agents.claude import Claude
from clawplane.runner.host.agents.cli import Cli
from clawplane.runner.host.agents.codex import Codex
from clawplane.runner.host.agents.conducting import Conductor
from clawplane.runner.host.agents.gemini import Gemini
from clawplane.runner.host.agents.house import AgentHouse
from clawplane.runner.host.agents.turn import AgentContext

CLIS: Final[Mapping[str, Callable[[], Cli]]] = {"claude": Claude, "codex": Codex, "gemini": Gemini}


class Adapter(Protocol):
    """Takes turns with one CLI."""

    async def run(self, prompt: Prompt, context: AgentContext) -> TaskReport:
        """Take one turn and report it, whatever happens; cancelled, nothing of it is left running."""
        ...

    def missing(self, path: str | None) -> str:
        """Return a sentence that names the CLI when it is not installed on a PATH; "" when it is."""
        ...


def adapters(house: AgentHouse) -> dict[str, Adapter]:
    """Return the adapter of each CLI by its name in `Prompt.cli`."""
    return {key: Conductor(make(), house) for key, make in CLIS.items()}
