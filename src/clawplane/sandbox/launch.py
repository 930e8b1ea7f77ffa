"""Open the sandbox of one runner daemon and start process trees in it.

A launch: lend an identity, make a cgroup, write the request into a memory file, hand it to a zygote with the pipes
(none for a resident) and a report socket, and follow that socket. Everything that touches the disk or the cgroup file
system runs on a small executor; the event loop only moves descriptors.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from clawplane.sandbox import cgroup_files, namespaces
from clawplane.sandbox.cgroups import Cgroups, Group
from clawplane.sandbox.guest import GuestProcess
from clawplane.sandbox.identity import INNER_ID, Identities, IdentitiesExhaustedError, Identity
from clawplane.sandbox.output import Stream
from clawplane.sandbox.policy import EndReason, Limits, Policy, Writable
from clawplane.sandbox.probe import Finding, probe, refusals
from clawplane.sandbox.process import Process
from clawplane.sandbox.reclaim import reclaim
from clawplane.sandbox.request import Command, Program, Request, Residence, Script, encode, memory_file
from clawplane.sandbox.resident import Resident, ResidentError
from clawplane.sandbox.zygote import Recipe, Terms, Zygote, ZygoteError

__all__ = ["Process", "Resident", "ResidentError", "Sandbox", "SandboxUnavailable", "Zygote", "ZygoteError"]

_NEEDED_CAPABILITIES: Final = (1 << 21) | (1 << 6) | (1 << 7) | (1 << 12) | (1 << 8)  # ADMIN SETGID SETUID NET SETPCAP
_BARE: Final = "bare"
_WORKERS: Final = 4
_TICK: Final = 1.0
_POLLED_TICK: Final = 0.2
_REAPER: Final = 1  # counts as a process of the guest
_Followed = TypeVar("_Followed", bound=GuestProcess)


class SandboxUnavailable(Exception):
    """This host cannot isolate; `findings` say what is missing and how to mend it."""

    def __init__(self, sentence: str, findings: Sequence[Finding] = ()) -> None:
        lines = [sentence, *(f"- {each.title}: {each.cause} {each.remedy}" for each in findings)]
        super().__init__("\n".join(lines))
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True)
class _Rights:
    """How this process came by the right to isolate."""

    privileged: bool
    identities: Identities | None

    def lend(self) -> Identity:
        return self.identities.lend() if self.identities else Identity(INNER_ID, INNER_ID)

    def take_back(self, identity: Identity) -> None:
        if self.identities:
            self.identities.take_back(identity)


@dataclass(frozen=True, slots=True)
class _Seat:
    """What one launch was lent, and the supervisor's ends of what it was given."""

    identity: Identity
    group: Group
    channel: socket.socket
    outputs: dict[Stream, int]


class Sandbox:
    """The isolation of one runner: its cgroups, its identities and its zygotes."""

    def __init__(self, directory: Path, rights: _Rights, cgroups: Cgroups, executor: ThreadPoolExecutor) -> None:
        """Use `open`."""
        self._cgroups = cgroups
        self._rights = rights
        self._executor = executor
        self._terms = Terms(directory, rights.privileged, cgroups.mode != "none")
        self._zygotes: dict[Recipe, Zygote] = {}
        self._numbers = itertools.count(1)
        self._following: dict[GuestProcess, asyncio.Task[None]] = {}
        self._busy = asyncio.Event()
        self._watching = asyncio.ensure_future(self._watch())

    @classmethod
    async def open(cls, *, state_directory: Path, first_uid: int = 200_000, uid_count: int = 4096) -> Sandbox:
        """Find out how this host isolates and prove it with one guest; raises SandboxUnavailable.

        `state_directory` is made if needed and holds mount points only. As root, guests take turns in the uid range.
        """
        rights = _rights(first_uid, uid_count)
        executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="sandbox")
        ground = executor.submit(lambda: (_made(state_directory), Cgroups.detect()))
        try:
            directory, cgroups = await asyncio.wrap_future(ground)
        except BaseException:
            executor.shutdown()  # nothing is made any more once whoever asked clears away
            if not ground.cancelled() and ground.exception() is None:
                ground.result()[1].close()
            raise
        sandbox = cls(directory, rights, cgroups, executor)
        try:
            await sandbox._prove()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    @property
    def cgroup_mode(self) -> str:
        """Say where memory and process limits come from: v2, v1 or none."""
        return self._cgroups.mode

    async def zygote(
        self, *, key: str, python: str, preload: Sequence[str] = (), site_directories: Sequence[str] = ()
    ) -> Zygote:
        """Return the running zygote for this recipe, started on the first call; raises ZygoteError."""
        zygote = self._zygote(Recipe(key, python, tuple(preload), tuple(site_directories)))
        await zygote.start()
        return zygote

    async def run(self, policy: Policy, argv: Sequence[str]) -> Process:
        """Start a program in a tree of its own; argv[0] is looked up in the guest's PATH.

        Never raises for what the guest or its policy does wrong: that is a verdict with reason `setup`.
        """
        if not argv:
            raise ValueError("argv is empty: name the program to run")
        return await self._start(self._bare(), policy, Command(tuple(argv)))

    async def run_python(
        self,
        zygote: Zygote,
        policy: Policy,
        script: str,
        *,
        interpreter: str,
        site_directories: Sequence[str],
        arguments: Sequence[str] = (),
    ) -> Process:
        """Fork the zygote and run `script` (a path the guest sees) in it as `interpreter script` would."""
        program = Script(script, tuple(arguments), interpreter, tuple(site_directories))
        return await self._start(zygote, policy, program)

    async def open_resident(
        self, zygote: Zygote, policy: Policy, *, meanwhile: Callable[[Resident], None] = lambda resident: None
    ) -> Resident:
        """Fork the zygote into a sandbox that stays until it is closed; members are started in it later.

        Of the limits, wall bounds its whole life and processes all its members; output and grace mean nothing.
        `meanwhile` is called before set-up, when members can be asked for already: they start right after it.
        Raises ResidentError with the reason when it cannot be set up.
        """

        resident = await self._reside(zygote, policy, meanwhile, waits=False)
        return await resident.standing()

    async def begin_resident(self, zygote: Zygote, policy: Policy) -> Resident:
        """Do what a resident's set-up can do before it is known who lives there; `Resident.move_in` does the rest.

        Its listeners are there when this returns. Raises ResidentError with the reason when it cannot be begun.
        """
        resident = await self._reside(zygote, policy, lambda resident: None, waits=True)
        if not resident.alive:
            raise ResidentError((await resident.wait()).detail or "the sandbox ended in set-up")
        return resident

    async def _reside(
        self, zygote: Zygote, policy: Policy, meanwhile: Callable[[Resident], None], *, waits: bool
    ) -> Resident:
        def follower(seat: _Seat) -> Resident:
            resident = Resident(
                policy,
                seat.channel,
                seat.group,
                self._executor,
                identity=seat.identity,
                recipe=zygote.recipe,
                waits=waits,
            )
            meanwhile(resident)
            return resident

        return await self._launch(zygote, policy, Residence(waits), follower)

    async def retire(self, zygote: Zygote) -> None:
        """End a zygote that is not needed any more, and with it the guests it has forked."""
        self._zygotes.pop(zygote.recipe, None)
        await zygote.close()

    async def close(self) -> None:
        """End every guest and every zygote; safe to call twice."""
        for process in list(self._following):
            process.kill()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        await asyncio.gather(*(zygote.close() for zygote in self._zygotes.values()))
        self._zygotes.clear()
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        self._cgroups.close()
        self._executor.shutdown(wait=False)

    def _bare(self) -> Zygote:
        return self._zygote(Recipe(_BARE, sys.executable, (), ()))

    def _zygote(self, recipe: Recipe) -> Zygote:
        if recipe not in self._zygotes:
            self._zygotes[recipe] = Zygote(recipe, self._terms, self._executor, next(self._numbers))
        return self._zygotes[recipe]

    async def _prove(self) -> None:
        """Run one guest that does nothing; what keeps it from running is what this host lacks."""
        try:
            process = await self.run(Policy(limits=Limits(wall=20.0)), ["true"])
        except ZygoteError as problem:
            raise SandboxUnavailable(f"this host cannot isolate programs: {problem}", self._refusals()) from problem
        verdict = await process.wait()
        if not verdict.succeeded:
            sentence = f"this host cannot isolate programs: {verdict.detail or verdict}"
            raise SandboxUnavailable(sentence, self._refusals())

    def _refusals(self) -> list[Finding]:
        return refusals(probe(cgroups=self._cgroups))

    async def _start(self, zygote: Zygote, policy: Policy, program: Program) -> Process:
        def follower(seat: _Seat) -> GuestProcess:
            return GuestProcess(policy, seat.outputs, seat.channel, seat.group, self._executor)

        return await self._launch(zygote, policy, program, follower)

    async def _launch(
        self, zygote: Zygote, policy: Policy, program: Program, follower: Callable[[_Seat], _Followed]
    ) -> _Followed:
        loop = asyncio.get_running_loop()
        identity = self._lend()
        bounds = _with_reaper(policy.limits)
        resides = isinstance(program, Residence)
        try:
            group, procs = await loop.run_in_executor(self._executor, self._make_group, bounds, not resides)
        except BaseException:
            self._rights.take_back(identity)
            raise
        request = Request(replace(policy, limits=bounds), program, identity, self._terms.cgroups)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        outputs, ends = ({}, []) if resides else _output_pipes()
        handed = [memory_file(encode(request)), theirs.detach(), *ends, *procs]
        process = follower(_Seat(identity, group, ours, outputs))
        self._follow(process, identity)
        try:
            await self._submit(zygote, process, handed, len(ends))
            await asyncio.shield(process.prepared)
        except BaseException:
            process.kill()  # whoever called has gone away
            raise
        return process

    async def _submit(self, zygote: Zygote, process: GuestProcess, handed: Sequence[int], outputs: int) -> None:
        """Hand the request over; when that fails the report socket closes, and the process ends with `setup`."""
        try:
            async with zygote.slots:
                try:
                    await zygote.submit(handed, outputs=outputs)
                except ZygoteError as problem:
                    process.fail(str(problem))
                finally:
                    for descriptor in handed:
                        os.close(descriptor)
                    handed = ()
                process.submitted()
                await asyncio.shield(process.born)
        finally:
            for descriptor in handed:
                os.close(descriptor)

    def _lend(self) -> Identity:
        try:
            return self._rights.lend()
        except IdentitiesExhaustedError as problem:
            raise SandboxUnavailable(str(problem)) from None

    def _follow(self, process: GuestProcess, identity: Identity) -> None:
        def give_back() -> None:
            for each in process.policy.mounts:
                if isinstance(each, Writable):
                    reclaim(each.source)

        task = asyncio.ensure_future(process.follow(give_back))
        self._following[process] = task
        self._busy.set()

        def done(_: object) -> None:
            self._rights.take_back(identity)
            del self._following[process]
            if not self._following:
                self._busy.clear()

        task.add_done_callback(done)

    def _make_group(self, limits: Limits, oom_together: bool) -> tuple[Group, list[int]]:
        group = self._cgroups.create(f"guest-{next(self._numbers)}", limits, oom_together=oom_together)
        return group, cgroup_files.opened(group.entrances)

    async def _watch(self) -> None:
        """Look at every live guest from time to time: the kernel does not punish everything by itself."""
        loop = asyncio.get_running_loop()
        pause = _TICK if self._terms.cgroups else _POLLED_TICK
        while True:
            await self._busy.wait()
            await asyncio.sleep(pause)
            seen = await loop.run_in_executor(self._executor, _look, list(self._following))
            for process, cause in seen:
                process.punish(cause)


def _made(directory: Path) -> Path:
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    return directory


def _with_reaper(limits: Limits) -> Limits:
    return limits if limits.processes is None else replace(limits, processes=limits.processes + _REAPER)


def _look(processes: Sequence[GuestProcess]) -> list[tuple[GuestProcess, EndReason]]:
    return [(each, cause) for each in processes if (cause := each.watch()) is not None]


def _rights(first_uid: int, uid_count: int) -> _Rights:
    if os.geteuid() != 0:
        return _Rights(False, None)
    if namespaces.effective_capabilities() & _NEEDED_CAPABILITIES != _NEEDED_CAPABILITIES:
        raise SandboxUnavailable(
            "this process is root without the rights of root (SYS_ADMIN, NET_ADMIN, SETUID, SETGID, SETPCAP): "
            "start the runner as an ordinary user, or give the container these capabilities"
        )
    return _Rights(True, Identities(first_uid, uid_count))


def _output_pipes() -> tuple[dict[Stream, int], list[int]]:
    """Return reading ends that do not wait and writing ends that do, of standard output and error."""
    readings: dict[Stream, int] = {}
    writings = []
    names: tuple[Stream, ...] = ("stdout", "stderr")
    for name in names:
        readings[name], writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(readings[name], False)
        writings.append(writing)
    return readings, writings
