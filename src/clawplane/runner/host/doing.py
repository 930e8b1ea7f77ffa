"""One execution of a host task: what is asked for, the means, and those who hear of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from clawplane.domain.host_tasks import HostSpec
from clawplane.runner.host.agents.events import AgentEvent
from clawplane.runner.host.agents.turn import AskPerson
from clawplane.runner.host.house import HostHouse
from clawplane.runner.host.output import Tell, nobody
from clawplane.runner.host.stopping import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """What a turn of an agent says besides its text: structured events, its conversation's id, questions to a person.

    channel: where the callback goes, kept beside the conversation's id.
    """

    told: Callable[[AgentEvent], None] = lambda event: None
    bind: Callable[[str], None] = lambda provider: None
    ask: AskPerson | None = None
    channel: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """A task under way; see execute.execute."""

    spec: HostSpec
    house: HostHouse
    tell: Tell = nobody
    stop: Stop = field(default_factory=Stop)
    voices: Voices = field(default_factory=Voices)
