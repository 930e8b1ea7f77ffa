"""What every kind of job is to the daemon: a `Job`, and what else it says of itself by deriving from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from clawplane.domain.leases import Outcome
from clawplane.link.asking import Asking


class CannotPrepare(Exception):
    """The runner could not get a job ready; another attempt may succeed. The message is for people."""


class Job(Protocol):
    """One attempt's work: `prepare` once, `run` at most once, `close` last; `stop` and `kill` at any time."""

    async def prepare(self) -> None:
        """Get ready without running code of the job's; called before the lease is confirmed. Raises CannotPrepare."""
        ...

    async def run(self) -> Outcome:
        """Do the work and return how it ended. When it returns or raises, nothing of it runs any more."""
        ...

    def stop(self) -> None:
        """Ask what runs to end; `run` then returns an outcome with the reason `aborted`."""
        ...

    def kill(self) -> None:
        """End what runs at once."""
        ...

    async def close(self) -> None:
        """Let go of everything; nothing of the job runs when this is called."""
        ...


class Answering(ABC):
    """A job that is asked questions while it runs; one that is `Endless` while it is prepared, too."""

    @abstractmethod
    def asked(self, asking: Asking) -> None:
        """Take a question; must not wait, and may raise a ClawplaneError to refuse."""


class Endless(Answering):
    """A job that does only what it is asked, begins with its offer, and ends in peace when the runner leaves."""

    @abstractmethod
    def leave(self) -> None:
        """Keep what can be kept and let `run` return soon."""


class Unrepeatable(ABC):
    """A job that nobody may do again unasked: once it runs, it is reported as it ended, also when the runner leaves."""

    @abstractmethod
    def part(self) -> None:
        """End what runs within seconds, because this runner leaves; `run` then returns how it ended."""


class UnreadableJob:
    """Stands in for a job whose description this runner does not understand."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def prepare(self) -> None:
        """Say why nothing can be done."""
        raise CannotPrepare(self._reason)

    async def run(self) -> Outcome:
        """Never get this far."""
        raise CannotPrepare(self._reason)

    def stop(self) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""

    async def close(self) -> None:
        """Nothing is held."""
