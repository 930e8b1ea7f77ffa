"""One sandbox that sessions live in: its processes, its workspace, and its way out.

As a rule one session lives in a residence. A branch is a fork of its parent's interpreter, so it lives in its parent's
sandbox, too; the residence is closed when the last of them leaves, and frozen when all of them sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clawplane.domain.errors import InvalidArgument, Unavailable
from clawplane.domain.sessions import EgressEntry, EgressRules, SessionOptions
from clawplane.egress.ledger import Mark
from clawplane.egress.relay import Relay
from clawplane.runner.egress import Exits, entries_since
from clawplane.runner.sessions.interpreter import READY_SECONDS, Conversation, Gone
from clawplane.runner.sessions.pipes import Pipes, make_pipes
from clawplane.runner.sessions.profiles import ENTRY_POINT, Foundation
from clawplane.runner.sessions.sites import abandoned
from clawplane.runner.sessions.world import HTTP, SOCKS, WORKSPACE, World
from clawplane.runner.workspace_files import WorkspaceFiles
from clawplane.sandbox.cgroups import Usage
from clawplane.sandbox.launch import Sandbox, SandboxUnavailable, Zygote, ZygoteError
from clawplane.sandbox.policy import MIB, Policy
from clawplane.sandbox.repl_wire import MAIN
from clawplane.sandbox.resident import Member, Resident, ResidentError

_INODES_FOR_EACH_MB: Final = 64
_LEAST_INODES: Final = 10_000


class Interpreter:
    """A Python interpreter that takes requests."""

    def __init__(self, member: Member, talk: Conversation, pipes: Pipes) -> None:
        self.member = member
        self.talk = talk
        self.pipes = pipes
        self.fresh = True
        """Nothing of a user's ran in it yet."""

    async def warm(self) -> None:
        """Run a cell that leaves nothing behind: a user's first one finds its way faster. Raises Unavailable."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self.talk.run("1", MAIN, lambda frame: None, lambda size: True)
                await self.talk.forget(MAIN)
        except (Gone, TimeoutError):
            raise Unavailable("An interpreter that was to wait for a session has ended.") from None

    def close(self) -> None:
        """Let go of our ends; whoever ends the process does that first."""
        self.talk.close()
        self.pipes.close()


class Residence:
    """One open sandbox."""

    def __init__(self, resident: Resident, foundation: Foundation, relay: Relay, files: WorkspaceFiles) -> None:
        """Use `open_residence`."""
        self.resident = resident
        self.foundation = foundation
        self.files = files
        self._relay = relay
        self._holders: set[object] = set()
        self._asleep: set[object] = set()
        self._closing: asyncio.Task[None] | None = None

    # Who lives here

    def join(self, holder: object) -> None:
        """Live here."""
        self._holders.add(holder)

    async def leave(self, holder: object) -> None:
        """Live here no more; the last one closes the sandbox."""
        self._holders.discard(holder)
        self._asleep.discard(holder)
        if not self._holders:
            await self.close()

    @property
    def shared(self) -> bool:
        """Tell whether more than one session lives here."""
        return len(self._holders) > 1

    @property
    def alive(self) -> bool:
        """Tell whether the sandbox still stands."""
        return self.resident.alive and self._closing is None

    async def sleep(self, holder: object) -> None:
        """Need no processor; when that is so for everybody here, all processes are stopped."""
        self._asleep.add(holder)
        if self._asleep >= self._holders:
            await self.resident.freeze()

    async def wake(self, holder: object) -> None:
        """Need the processor again."""
        self._asleep.discard(holder)
        if self.resident.frozen:
            await self.resident.thaw()

    async def close(self) -> None:
        """End everything in the sandbox; safe to call twice."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def kill(self) -> None:
        """End everything at once, without waiting."""
        self.resident.kill()

    async def _close(self) -> None:
        await self._relay.close()
        await self.resident.close()
        self.files.close()

    # What runs here

    async def start_python(self, environment: Mapping[str, str]) -> Interpreter:
        """Fork an interpreter and wait until it takes requests; raises Unavailable."""
        self.files.let_owner_in()
        return await _start_python(self.resident, environment)

    async def start_program(
        self, argv: Sequence[str], *, stdin: bytes, environment: Mapping[str, str], directory: str
    ) -> tuple[Member, Pipes]:
        """Start a program with `stdin` to read; raises InvalidArgument when it cannot be started."""
        self.files.let_owner_in()
        pipes, out, err = make_pipes()
        given = _sealed(stdin)
        try:
            member = await self.resident.execute(
                argv, stdin=given, stdout=out, stderr=err, environment=environment, working_directory=directory
            )
        except ResidentError as error:
            pipes.close()
            if not self.resident.alive:
                raise Unavailable(f"The session's sandbox has ended: {error}.") from None
            raise InvalidArgument(f"The command could not be started: {error}.") from None
        finally:
            for descriptor in (out, err, given):
                os.close(descriptor)
        return member, pipes

    def usage(self) -> Usage:
        """Measure what the sandbox used so far."""
        return self.resident.usage()

    # The way out

    def govern(self, exits: Exits, rules: EgressRules) -> None:
        """Let a session's rules decide where it may connect to; raises InvalidArgument."""
        self._relay.rules = exits.for_session(rules).rules

    def mark(self) -> Mark:
        """Return where the ledger of connections stands."""
        return self._relay.ledger.mark()

    def connections(self, mark: Mark) -> tuple[EgressEntry, ...]:
        """Return what was connected to since a mark."""
        return entries_since(self._relay.ledger, mark)


@dataclass(frozen=True, slots=True)
class Ground:
    """What every residence of one runner is built on."""

    sandbox: Sandbox
    world: World
    exits: Exits


async def open_residence(
    ground: Ground, foundation: Foundation, options: SessionOptions, workspace: Path, site: Resident | None = None
) -> tuple[Residence, Interpreter]:
    """Open a sandbox with a workspace, a way out and an interpreter, on a `site` if there is one (see sites.py).

    Raises Unavailable, InvalidArgument for bad egress rules.
    """
    try:
        relay = ground.exits.for_session(options.egress)
    except BaseException:
        if site is not None:
            await abandoned(site)
        raise
    policy = ground.world.policy(options, foundation.site_directories, workspace)
    resident, starting = await _opened(ground.sandbox, foundation.zygote, policy, site)
    try:
        files = WorkspaceFiles(
            workspace,
            max_bytes=options.disk * MIB,
            max_inodes=max(_LEAST_INODES, options.disk * _INODES_FOR_EACH_MB) if options.disk else 0,
        )
        await relay.serve_socks(resident.listeners[SOCKS])
        await relay.serve_http(resident.listeners[HTTP])
        interpreter = await starting
    except BaseException:
        await relay.close()
        await abandoned(resident)
        await _forgotten(starting)
        raise
    return Residence(resident, foundation, relay, files), interpreter


async def _opened(
    sandbox: Sandbox, zygote: Zygote, policy: Policy, site: Resident | None
) -> tuple[Resident, asyncio.Task[Interpreter]]:
    """Open a sandbox; its interpreter is asked for at once and forked as soon as it stands."""
    starting: list[asyncio.Task[Interpreter]] = []

    def meanwhile(resident: Resident) -> None:
        starting.append(asyncio.create_task(_start_python(resident, {})))

    if site is None:
        opening = asyncio.ensure_future(sandbox.open_resident(zygote, policy, meanwhile=meanwhile))
    else:
        opening = asyncio.ensure_future(site.move_in(policy, meanwhile=meanwhile))
    try:
        return await asyncio.shield(opening), starting[0]
    except (ResidentError, ZygoteError, SandboxUnavailable) as error:
        await _forgotten(*starting)
        if site is not None:
            await abandoned(site)
        raise Unavailable(f"The session's sandbox could not be set up: {error}.") from error
    except asyncio.CancelledError:  # let it be whole before it is thrown away: half of it cannot be closed
        with contextlib.suppress(ResidentError, ZygoteError, SandboxUnavailable):
            await abandoned(await opening)
        await _forgotten(*starting)
        raise


async def _start_python(resident: Resident, environment: Mapping[str, str]) -> Interpreter:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pipes, out, err = make_pipes()
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    talk = Conversation(ours)
    try:
        try:
            member = await resident.fork_python(
                stdin=nothing,
                stdout=out,
                stderr=err,
                control=theirs.fileno(),
                environment=environment,
                working_directory=WORKSPACE,
                entry_point=ENTRY_POINT,
            )
        finally:  # the interpreter alone holds its ends now, so we hear when it ends
            theirs.close()
            for descriptor in (out, err, nothing):
                os.close(descriptor)
        await talk.ready()
    except BaseException as error:  # whoever asked may have gone away, too
        talk.close()
        pipes.close()
        if isinstance(error, ResidentError | Gone):
            raise Unavailable(f"The session's interpreter could not be started: {error}.") from None
        raise
    return Interpreter(member, talk, pipes)


async def _forgotten(*starting: asyncio.Task[Interpreter]) -> None:
    """Let go of an interpreter whose sandbox has ended."""
    for each in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(each, Interpreter):
            each.close()


def _sealed(content: bytes) -> int:
    """Return a descriptor to read `content` from, which whoever gets it can neither change nor grow."""
    if not content:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
