"""All sessions of this runner: who lives here, where they come from, and what is cleared away after them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from clawplane.domain.asks import Nothing
from clawplane.domain.clock import Clock
from clawplane.domain.errors import Conflict, InvalidArgument, NotFound
from clawplane.domain.runner_asks import RUNNER_METHODS, ForgetSession, ForgetWorkspace
from clawplane.domain.sessions import LiveState, Profile, SessionOptions, SessionSpec
from clawplane.link.asking import Asking
from clawplane.runner.sessions.copies import Copy
from clawplane.runner.sessions.execs import Execs
from clawplane.runner.sessions.file_answers import answered
from clawplane.runner.sessions.host_memory import free_share
from clawplane.runner.sessions.live import Live
from clawplane.runner.sessions.places import Kept, Places
from clawplane.runner.sessions.profiles import Profiles
from clawplane.runner.sessions.python_side import PythonSide
from clawplane.runner.sessions.quiet import Quiet
from clawplane.runner.sessions.residence import Ground, Interpreter, Residence, open_residence
from clawplane.runner.sessions.saving import Memory, Saver, recalled
from clawplane.runner.sessions.shortage import Shortage
from clawplane.runner.sessions.sites import abandoned, begin_site, suits
from clawplane.runner.sessions.supply import Supply
from clawplane.runner.sessions.trial import PROGRESS, Trial
from clawplane.runner.sessions.world import stands_in
from clawplane.runner.settings import RunnerSettings
from clawplane.sandbox.launch import Resident

_BRANCH_SECONDS: Final = 60.0
_READY_FOR_EACH_SITE: Final = 2
_SHORT_SECONDS: Final = 2.0
"""What runs for longer than that is not over soon, and does not keep others from getting ready."""
_SWEEP_SECONDS: Final = 600.0
_DEPARTURE_SECONDS: Final = 15.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A sandbox that waits for a session; `workspace` as records call it."""

    residence: Residence
    interpreter: Interpreter
    workspace: str

    @property
    def alive(self) -> bool:
        return self.residence.alive and self.interpreter.member.end is None


@dataclass(slots=True)
class _Branch:
    """A copy that waits for the session it was made for."""

    residence: Residence
    copy: Copy
    workspace: str
    exec_count: int
    over: asyncio.TimerHandle


class House:
    """The sessions of one runner."""

    def __init__(
        self,
        ground: Ground,
        profiles: Profiles,
        places: Places,
        settings: RunnerSettings,
        *,
        clock: Clock,
        trial: Trial,
    ) -> None:
        """`trial` decides whether anybody's code may run here."""
        self.profiles = profiles
        self.trial = trial
        self._ground = ground
        self._places = places
        self._settings = settings
        self._clock = clock
        self._lives: dict[str, Live] = {}
        self._branches: dict[str, _Branch] = {}
        self._opening = 0
        self._clearing: set[asyncio.Task[None]] = set()
        self._tending: list[asyncio.Task[None]] = []
        quiet, kept = Quiet(self._busy), settings.session_ready
        size = min(settings.session_pool, settings.session_slots)
        self.pool: Supply[_Ready] = Supply(
            self._make_ready,
            self._discard_ready,
            lambda ready: ready.alive,
            lambda options: stands_in(options, SessionOptions(profile=options.profile)),
            quiet,
            profiles=profiles,
            kept=kept,
            size=size,
        )
        self.sites: Supply[Resident] = Supply(
            self._begin_site,
            abandoned,
            lambda site: site.alive,
            suits,
            quiet,
            profiles=profiles,
            kept=kept,
            size=-(-size // _READY_FOR_EACH_SITE),
        )

    async def start(self) -> None:
        """Clear away what an earlier process left, and begin to get ready."""
        kept = await asyncio.to_thread(self._places.sweep, self._clock.now_ms())
        if kept:
            _log.info("%d sessions sleep on this runner's disk", len(kept))
        self.trial.begin()
        self.profiles.begin()
        self.pool.start()
        self.sites.start()
        shortage = Shortage(self._lives.values, (self.pool.shed, self.sites.shed), free_share)
        self._tending = [asyncio.create_task(each) for each in (self._sweep(), shortage.run())]

    async def close(self) -> None:
        """Let go of everything; the sessions have ended before."""
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        await self.trial.close()
        await self.pool.close()
        await self.sites.close()
        for session in list(self._branches):
            self._drop_branch(session)
        await asyncio.gather(*self._clearing, return_exceptions=True)
        await self.profiles.close()

    def progress(self, profile: Profile) -> str:
        """Say what those wait for whose session is not open yet."""
        if self.profiles.at_hand(profile) is None:
            return self.profiles.progress(profile)
        if self.trial.under_way:
            return PROGRESS
        return "The session's sandbox is being opened."

    # A session comes and goes

    async def open(self, spec: SessionSpec, note: Callable[[LiveState], None]) -> Live:
        """Give a session a sandbox; raises a ClawplaneError that says why there is none."""
        await self.trial.passed()
        self._opening += 1
        try:
            await self._departed(spec.session)
            if spec.resume:
                live = await self._resume(spec, note)
            elif spec.branch_of is not None:
                live = await self._adopt_branch(spec, note)
            else:
                live = await self._create(spec, note)
        finally:
            self._opening -= 1
        self._lives[spec.session] = live
        return live

    async def _departed(self, session: str) -> None:
        """Wait until an earlier life of a session is cleared away: its end may overtake the next beginning."""
        earlier = self._lives.get(session)
        if earlier is None:
            return
        try:
            async with asyncio.timeout(_DEPARTURE_SECONDS):
                await earlier.gone.wait()
        except TimeoutError:
            raise Conflict(f"The session {session} lives here already.") from None

    async def left(self, live: Live) -> None:
        """Clear away what a session leaves behind when its life has ended."""
        try:
            await self._clear(live)
        finally:
            self._lives.pop(live.spec.session, None)
            live.gone.set()

    async def _clear(self, live: Live) -> None:
        session, never_ran = live.spec.session, live.reason is None
        live.kill()  # does nothing to what has ended
        await live.stop_processes()
        await live.residence.leave(live)
        if live.reason in ("closed", "expired") or (never_ran and not live.spec.resume):
            await asyncio.to_thread(self._places.forget, session)

    def asked(self, asking: Asking) -> None:
        """Take a question that concerns no living session."""
        self._later(answered(asking, self._answer(asking)))

    async def _answer(self, asking: Asking) -> msgspec.Struct:
        if asking.method not in RUNNER_METHODS:
            raise InvalidArgument(f"A runner cannot be asked to {asking.method!r}.")
        try:
            what: Any = msgspec.msgpack.decode(asking.body, type=RUNNER_METHODS[asking.method][0])
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"The runner cannot read the question {asking.method}: {error}.") from None
        match what:
            case ForgetSession():
                if what.session in self._lives:
                    raise Conflict(f"The session {what.session} lives.", hint="Delete it first.")
                self._drop_branch(what.session)
                await asyncio.to_thread(self._places.forget, what.session)
            case ForgetWorkspace():
                if any(self._uses(live, what) for live in self._lives.values()):
                    raise Conflict(f"The workspace {what.workspace} is in use.", hint="Delete its sessions first.")
                await asyncio.to_thread(self._places.forget_named, what.owner, what.workspace)
        return Nothing()

    @staticmethod
    def _uses(live: Live, what: ForgetWorkspace) -> bool:
        return (live.spec.owner, live.spec.options.workspace) == (what.owner, what.workspace)

    # Ways to come

    async def _create(self, spec: SessionSpec, note: Callable[[LiveState], None]) -> Live:
        options = spec.options
        ready = self.pool.take(options)
        if ready is not None:
            workspace = ready.workspace
        elif options.workspace is not None:
            workspace = self._places.named(spec.owner, options.workspace)
        else:
            workspace = self._places.unnamed()
        with self._discarded_on_failure(workspace):
            if ready is None:
                residence, interpreter = await self._open(options, workspace)
                python = PythonSide(residence, {}, options.undo, interpreter)
            else:
                residence = ready.residence
                python = PythonSide(residence, {}, options.undo, ready.interpreter)
                async with _closed_on_failure(residence, python):
                    residence.govern(self._ground.exits, options.egress)
            kept = Kept(session=spec.session, owner=spec.owner, options=options, workspace=workspace)
            return self._settle(spec, residence, python, kept, memory=Memory(), note=note)

    @contextmanager
    def _discarded_on_failure(self, workspace: str) -> Iterator[None]:
        """Remove a workspace that no session came to have: it was deleted while it began, or could not begin."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the sweep of the next start tries again
                self._places.discard(workspace)  # nobody has written to it: there is little to remove
            raise

    async def _resume(self, spec: SessionSpec, note: Callable[[LiveState], None]) -> Live:
        kept = self._places.read(spec.session)
        if kept is None and spec.options.workspace is not None:
            workspace = self._places.named(spec.owner, spec.options.workspace)
            kept = Kept(session=spec.session, owner=spec.owner, options=spec.options, workspace=workspace)
        if kept is None or not self._places.path(kept.workspace).is_dir():
            raise NotFound("This runner has nothing of the session any more.", hint="Create a new session.")
        kept = msgspec.structs.replace(kept, options=spec.options)
        residence, interpreter = await self._open(spec.options, kept.workspace)
        python = PythonSide(residence, {}, spec.options.undo, interpreter)
        async with _closed_on_failure(residence, python):
            memory = await recalled(self._places, kept, python)
            await python.ready()
        return self._settle(spec, residence, python, kept, memory=memory, note=note)

    async def _adopt_branch(self, spec: SessionSpec, note: Callable[[LiveState], None]) -> Live:
        branch = self._branches.pop(spec.session, None)
        if branch is None:
            raise NotFound(f"The copy of the session {spec.branch_of} is gone.", hint="Branch it again.")
        branch.over.cancel()
        try:
            interpreter: Interpreter = await branch.copy.resume()
        except BaseException:
            self._later(branch.residence.leave(branch.copy))
            raise
        python = PythonSide(branch.residence, {}, spec.options.undo, interpreter)
        kept = Kept(
            session=spec.session,
            owner=spec.owner,
            options=spec.options,
            workspace=branch.workspace,
            exec_count=branch.exec_count,
        )
        memory = Memory(exec_count=branch.exec_count)
        live = self._settle(spec, branch.residence, python, kept, memory=memory, note=note)
        await branch.residence.leave(branch.copy)
        return live

    def _settle(
        self,
        spec: SessionSpec,
        residence: Residence,
        python: PythonSide,
        kept: Kept,
        *,
        memory: Memory,
        note: Callable[[LiveState], None],
    ) -> Live:
        execs = Execs(
            spec,
            residence,
            python,
            {},
            node=self._ground.world.runtimes.node,
            spill_bytes=self._settings.session_spill_bytes,
            clock=self._clock,
        )
        saver = Saver(self._places, kept, self._settings.session_save_seconds)
        live = Live(
            spec,
            residence,
            python,
            execs,
            saver,
            note=note,
            branched=self._hold_branch,
            clock=self._clock,
            memory=memory,
            crowded=lambda: self._opening > 0,
        )
        residence.join(live)
        saver.note(saved=False, names=kept.names, alive=True)
        return live

    async def _open(
        self, options: SessionOptions, workspace: str, *, on_a_site: bool = True
    ) -> tuple[Residence, Interpreter]:
        foundation = await self.profiles.ensure(options.profile)
        site = self.sites.take(options) if on_a_site else None
        return await open_residence(self._ground, foundation, options, self._places.path(workspace), site)

    # What is made ahead

    async def _begin_site(self, profile: Profile) -> Resident | None:
        return await begin_site(self._ground.sandbox, self._ground.world, await self.profiles.ensure(profile))

    async def _make_ready(self, profile: Profile) -> _Ready:
        options = SessionOptions(profile=profile)
        workspace = self._places.unnamed()
        with self._discarded_on_failure(workspace):
            residence, interpreter = await self._open(options, workspace, on_a_site=False)
            async with _closed_on_failure(residence, PythonSide(residence, {}, options.undo, interpreter)):
                await interpreter.warm()
        return _Ready(residence, interpreter, workspace)

    async def _discard_ready(self, ready: _Ready) -> None:
        await ready.residence.close()
        ready.interpreter.close()
        await asyncio.to_thread(self._places.discard, ready.workspace)

    def _busy(self) -> bool:
        if self._opening:
            return True
        running = (live.execs.running for live in self._lives.values())
        return any(each is not None and each.age < _SHORT_SECONDS for each in running)

    # Branches

    def _hold_branch(self, parent: Live, session: str, copy: Copy) -> None:
        """Keep a copy until the session comes that it was made for, but not for long."""
        kept = self._places.read(parent.spec.session)
        parent.residence.join(copy)
        over = asyncio.get_running_loop().call_later(_BRANCH_SECONDS, self._drop_branch, session)
        workspace = kept.workspace if kept is not None else ""
        self._branches[session] = _Branch(parent.residence, copy, workspace, parent.exec_count, over)

    def _drop_branch(self, session: str) -> None:
        branch = self._branches.pop(session, None)
        if branch is not None:
            branch.over.cancel()
            self._later(self._dropped(branch))

    @staticmethod
    async def _dropped(branch: _Branch) -> None:
        await branch.copy.drop()
        await branch.residence.leave(branch.copy)

    # Clearing away

    async def _sweep(self) -> None:
        """Forget saved sessions whose time is over: nobody tells a runner that was away."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            for session in await asyncio.to_thread(self._places.expired, self._clock.now_ms()):
                if session not in self._lives:
                    await asyncio.to_thread(self._places.forget, session)

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)


@asynccontextmanager
async def _closed_on_failure(residence: Residence, python: PythonSide) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await residence.close()
        await python.close()
        raise
