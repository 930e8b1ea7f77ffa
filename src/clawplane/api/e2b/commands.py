"""Commands that run in sandboxes: what E2B calls processes, with process ids that we give.

Theory of operation. A command is one shell exec, and the replica that started it holds its end: it reads what the
command says and hands it to everybody who listens at that moment (its starter, and who connected to it later); what
nobody listens to is dropped, as in E2B. A listener that does not read is let go with an error when a bounded number of
pieces waits for it, so that one stuck client holds up neither the others nor the command. A command goes on when its
listeners leave, and ends at its time limit at the latest. The list holds what runs, and nothing afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from clawplane.api.e2b.sessions import Sessions
from clawplane.domain.access import Caller
from clawplane.domain.errors import ClawplaneError, ConcurrencyLimited, InternalError, NotFound, RateLimited
from clawplane.domain.sessions import ExecEvent, ExecRequest, ExecResult

FIRST_PID: Final = 1000
_MOST: Final = 100
"""Commands of one sandbox at a time."""
_MOST_PIECES: Final = 1024
_MOST_LISTENERS: Final = 16

Piece = ExecEvent | ExecResult | ClawplaneError


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to run: the program as it was asked for, and the exec that it becomes."""

    program: str
    arguments: list[str]
    tag: str
    request: ExecRequest


@dataclass(slots=True, eq=False)
class Command:
    """One command that runs, and who listens to it."""

    pid: int
    session_id: str
    order: Order
    listeners: list[asyncio.Queue[Piece]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    killed: bool = False


class Commands:
    """The commands that this replica has started."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._running: dict[tuple[str, int], Command] = {}
        self._pids = itertools.count(FIRST_PID)

    def start(self, caller: Caller, session_id: str, order: Order) -> Command:
        """Start a command; listen to it before the event loop runs again, or its first words are lost."""
        if len(self.all(session_id)) >= _MOST:
            raise ConcurrencyLimited(f"The sandbox runs {_MOST} commands.", hint="Kill some, or wait for their ends.")
        command = Command(next(self._pids), session_id, order)
        self._running[session_id, command.pid] = command
        command.task = asyncio.create_task(self._run(caller, command))
        return command

    def all(self, session_id: str) -> list[Command]:
        """Return the commands of a sandbox that run."""
        return [command for (owner, _), command in self._running.items() if owner == session_id]

    def find(self, session_id: str, *, pid: int | None, tag: str | None) -> Command:
        """Return a command by its process id or tag; raises NotFound when none of the sandbox's runs."""
        for command in self.all(session_id):
            if command.pid == pid or (tag and command.order.tag == tag):
                return command
        raise NotFound(f"There is no process {pid if pid is not None else tag!r:.80} in the sandbox.")

    async def interrupt(self, caller: Caller, command: Command, *, kill: bool) -> None:
        """End a command and all that it started."""
        command.killed = command.killed or kill
        await self._sessions.interrupt(caller, command.session_id, command.order.request.id)

    async def heard(
        self, command: Command, heard: asyncio.Queue[Piece]
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        """Yield what is heard of a command, its end last; raises how it failed."""
        try:
            while True:
                piece = await heard.get()
                if isinstance(piece, ClawplaneError):
                    raise piece
                yield piece
                if isinstance(piece, ExecResult):
                    return
        finally:
            self.leave(command, heard)

    def join(self, command: Command) -> asyncio.Queue[Piece]:
        """Return a queue that gets what a command says from now on."""
        if len(command.listeners) >= _MOST_LISTENERS:
            raise ConcurrencyLimited(f"{_MOST_LISTENERS} clients listen to this process already.")
        heard: asyncio.Queue[Piece] = asyncio.Queue()
        command.listeners.append(heard)
        return heard

    def leave(self, command: Command, heard: asyncio.Queue[Piece]) -> None:
        """Listen no more."""
        if heard in command.listeners:
            command.listeners.remove(heard)

    async def _run(self, caller: Caller, command: Command) -> None:
        end: Piece = InternalError("The command ended without an answer.")
        try:
            events = self._sessions.execute(caller, command.session_id, command.order.request)
            async with aclosing(events) as said:
                async for piece in said:
                    if isinstance(piece, ExecResult):
                        end = piece
                    else:
                        self._tell(command, piece)
        except ClawplaneError as error:
            end = error
        finally:
            del self._running[command.session_id, command.pid]
            for heard in command.listeners:
                heard.put_nowait(end)

    def _tell(self, command: Command, piece: ExecEvent) -> None:
        for heard in list(command.listeners):
            if heard.qsize() >= _MOST_PIECES:
                command.listeners.remove(heard)
                heard.put_nowait(RateLimited("The client does not read what the process says.", hint="Connect again."))
            else:
                heard.put_nowait(piece)
