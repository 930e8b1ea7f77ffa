"""The runner daemon: from settings to a runner that serves, and back to nothing.

Start: heed signals -> own the data directory -> know who we are -> prove that the sandbox works -> open the caches ->
connect.
Drain (first signal): ask for no more offers -> wait for what runs, at most `drain_seconds`.
Stop (drained, drain time over, or second signal): kill what still runs and give it back -> wait shortly until the ends
are answered -> close the link -> close caches, then the sandbox -> let go of the data directory.
A signal before the start is over abandons it, through every `finally` clause on its way. Stopping twice is safe.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

import clawplane
from clawplane.builder.tools import find_tools
from clawplane.domain.clock import Clock, SystemClock
from clawplane.domain.errors import ClawplaneError, InvalidArgument, InvalidToken
from clawplane.domain.leases import JobKind, Offer
from clawplane.domain.sessions import LiveState
from clawplane.link.connection import LinkRefused, link_url
from clawplane.link.protocol import Identity
from clawplane.runner.host.work import HostWork, host_work
from clawplane.runner.identity import own, runner_id
from clawplane.runner.isolation import Isolation
from clawplane.runner.jobs.build import BuildJob
from clawplane.runner.jobs.host import HostJob
from clawplane.runner.jobs.job import Job, UnreadableJob
from clawplane.runner.jobs.session import SessionJob
from clawplane.runner.jobs.subtask import SubtaskJob
from clawplane.runner.runner import Runner
from clawplane.runner.settings import RunnerSettings
from clawplane.runner.shipping import Shipper
from clawplane.runner.slots import CAPABILITY, bound
from clawplane.runner.workshop import Workshop, workshop
from clawplane.sandbox.launch import Sandbox, SandboxUnavailable

_DAY = 86_400.0
_HOST_ONLY = "This runner does host tasks only: its host cannot isolate Workers and sessions."
_NOT_ISOLATED = "Code sessions are refused on this runner: it works without isolation (--unsafe-no-sandbox)."

_log = logging.getLogger(__name__)


class CannotIsolate(ClawplaneError):
    """This host cannot run Workers isolated."""

    code = "cannot_isolate"
    default_hint = "See `clawplane doctor`; or start with --unsafe-no-sandbox, for code that you wrote yourself only."


async def run_runner(
    settings: RunnerSettings,
    *,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    isolation: Isolation | None = None,
    serving: Callable[[Runner], None] = lambda runner: None,
) -> None:
    """Run one runner until SIGTERM or SIGINT has drained it; a second signal ends it at once.

    `environ` is what builds read their index configuration from; `serving` gets the runner once it begins to connect.
    Raises CannotIsolate, InvalidToken, Conflict and InvalidArgument, each before or when nothing runs any more.
    """
    clock = clock or SystemClock()
    environ = dict(os.environ if environ is None else environ)
    try:
        link_url(settings.url)
    except ValueError as error:
        raise InvalidArgument(str(error), hint="Set CLAWPLANE_URL or --url.") from None
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(_signals())
        stack.enter_context(own(settings.data))
        if isolation is None:
            isolation = await _open_isolation(settings)
            if not isinstance(isolation, Sandbox):
                # without network namespaces the SDK's fixed port is there once
                settings = replace(settings, slots=1, build_slots=1)
            if isolation is not None:
                stack.push_async_callback(isolation.close)
        shop = None
        collector = _Collector(settings)
        if isolation is not None:
            tools = await asyncio.to_thread(find_tools, environ)
            shop = await stack.enter_async_context(workshop(settings, isolation, tools, environ, clock))
            stack.push_async_callback(collector.close)
            collector.watch(shop)
        host = None
        if settings.host is not None:
            host = await stack.enter_async_context(host_work(settings, settings.host, environ, clock))
        runner = _runner(settings, shop, clock, collector, host)
        signals.drain(runner)
        serving(runner)
        try:
            await runner.serve()
        except LinkRefused as error:
            raise InvalidToken(f"The control plane refuses this runner: {error.reason}") from None


async def _open_isolation(settings: RunnerSettings) -> Isolation | None:
    """Return what Workers run in; None on a host that can only do host tasks, which are not isolated anyway."""
    try:
        return await Sandbox.open(state_directory=settings.data / "sandbox")
    except SandboxUnavailable as error:
        if settings.host is not None and not settings.unsafe_no_sandbox:
            _log.warning("This runner does host tasks only: Workers and sessions cannot be isolated here (%s)", error)
            return None
        if not settings.unsafe_no_sandbox:
            raise CannotIsolate(str(error)) from error
        _log.warning("Workers run WITHOUT isolation (--unsafe-no-sandbox): %s", error)
        from clawplane.sandbox.unsafe import UnsafeLauncher  # noqa: PLC0415 - never loaded where isolation works

        return UnsafeLauncher(state_directory=settings.data / "unsafe")


def _runner(
    settings: RunnerSettings, shop: Workshop | None, clock: Clock, collector: _Collector, host: HostWork | None
) -> Runner:
    sessions = None if shop is None else shop.sessions
    identity = _identity(settings, clock, shop=shop, host=host)

    def note(offer: Offer) -> Callable[[LiveState], None]:
        return lambda state: runner.link.note(offer.job, offer.fence, state)

    runner = Runner(
        settings,
        identity,
        _jobs(shop, host, note),
        clock=clock,
        ended=collector.ended,
        asked=None if sessions is None else sessions.asked,
        kept=() if host is None else host.kept,
        settled=(lambda job, fence: None) if host is None else host.ends.remove,
    )
    capability = CAPABILITY[JobKind.SESSION]
    if sessions is None and settings.sessions:
        runner.unable(capability, _NOT_ISOLATED if shop is not None else _HOST_ONLY)
    if sessions is not None:
        sessions.trial.listen(lambda reason: runner.unable(capability, reason))
    return runner


def _identity(settings: RunnerSettings, clock: Clock, *, shop: Workshop | None, host: HostWork | None) -> Identity:
    runner = runner_id(settings.data, clock)
    slots: dict[str, int] = {}
    if shop is not None:
        slots = {CAPABILITY[JobKind.SUBTASK]: settings.slots, CAPABILITY[JobKind.BUILD]: settings.build_slots}
    if shop is not None and shop.sessions is not None:
        capability = CAPABILITY[JobKind.SESSION]
        slots |= {capability: settings.session_slots, bound(capability, runner): settings.session_slots}
    if host is not None:
        slots[CAPABILITY[JobKind.HOST]] = host.house.settings.slots
    return Identity(
        runner=runner,
        name=settings.name,
        version=clawplane.__version__,
        capabilities=(*slots, *(() if host is None else host.capabilities)),
        labels=dict(settings.labels),
        slots=slots,
    )


def _jobs(
    shop: Workshop | None, host: HostWork | None, note: Callable[[Offer], Callable[[LiveState], None]]
) -> Callable[[Offer, Shipper], Job]:
    def make(offer: Offer, shipper: Shipper) -> Job:
        if offer.kind is JobKind.HOST:
            if host is None:
                return UnreadableJob("This runner does no host tasks.")
            return HostJob(offer, shipper, host.house, host.ends)
        if shop is None:
            return UnreadableJob(_HOST_ONLY)
        match offer.kind:
            case JobKind.BUILD:
                return BuildJob(offer, shipper, shop)
            case JobKind.SUBTASK:
                return SubtaskJob(offer, shipper, shop)
            case JobKind.SESSION:
                if shop.sessions is None:
                    return UnreadableJob("This runner holds no sessions.")
                return SessionJob(offer, shop.sessions, note(offer))

    return make


class _Collector:
    """Collects old environments after each build: only then they can have become too many."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._shop: Workshop | None = None
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def watch(self, shop: Workshop) -> None:
        """Begin to look after a workshop."""
        self._shop = shop

    def ended(self, kind: JobKind) -> None:
        """Look at the environments when it was a build that ended."""
        if kind is JobKind.BUILD and self._shop is not None and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._collect(self._shop))

    async def close(self) -> None:
        """Abandon the work; what it has begun to remove is gone already or whole."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _collect(self, shop: Workshop) -> None:
        settings = self._settings
        try:
            await shop.environments.collect(
                max_age=settings.environment_max_age_days * _DAY,
                max_bytes=settings.environment_max_bytes,
                keep=shop.warm.layers() | (shop.sessions.profiles.fingerprints() if shop.sessions else set()),
            )
        except OSError as error:
            _log.warning("Old environments could not be removed: %s", error)


class _Signals:
    """What SIGTERM and SIGINT do: abandon the start; once there is a runner, drain it."""

    def __init__(self, start: asyncio.Task[None] | None) -> None:
        self.abandoned = False
        self._start = start
        self._runner: Runner | None = None

    def drain(self, runner: Runner) -> None:
        """Let signals drain this runner from now on."""
        self._runner = runner

    def heard(self) -> None:
        """Do it."""
        if self._runner is not None:
            self._runner.drain()
        elif self._start is not None and not self.abandoned:
            self.abandoned = True
            self._start.cancel()


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Heed signals to the end of the last `finally` clause; a start that they abandon ends without an error."""
    loop = asyncio.get_running_loop()
    signals, handled = _Signals(asyncio.current_task()), (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, signals.heard)
    try:
        yield signals
    except asyncio.CancelledError:
        if not signals.abandoned:
            raise
        _log.info("Stopped before the start was over")
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
