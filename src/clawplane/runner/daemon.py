"""The runner daemon: from settings to a runner that serves, and back to nothing.

Start: own the data directory -> know who we are -> prove that the sandbox works -> open the caches -> connect.
Drain (first signal): ask for no more offers -> wait for what runs, at most `drain_seconds`.
Stop (drained, drain time over, or second signal): kill what still runs and give it back -> wait shortly until the ends
are answered -> close the link -> close caches, then the sandbox -> let go of the data directory.
Stopping twice, or before the start is over, is safe.
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
        stack.enter_context(own(settings.data))
        if isolation is None:
            isolation = await _open_isolation(settings)
            if not isinstance(isolation, Sandbox):
                # without network namespaces the SDK's fixed port is there once
                settings = replace(settings, slots=1, build_slots=1)
            stack.push_async_callback(isolation.close)
        tools = await asyncio.to_thread(find_tools, environ)
        shop = await stack.enter_async_context(workshop(settings, isolation, tools, environ, clock))
        collector = _Collector(shop, settings)
        stack.push_async_callback(collector.close)
        host = None
        if settings.host is not None:
            host = await stack.enter_async_context(host_work(settings, settings.host, environ, clock))
        runner = _runner(settings, shop, clock, collector, host)
        stack.enter_context(_drained_by_signals(runner))
        serving(runner)
        try:
            await runner.serve()
        except LinkRefused as error:
            raise InvalidToken(f"The control plane refuses this runner: {error.reason}") from None


async def _open_isolation(settings: RunnerSettings) -> Isolation:
    try:
        return await Sandbox.open(state_directory=settings.data / "sandbox")
    except SandboxUnavailable as error:
        if not settings.unsafe_no_sandbox:
            raise CannotIsolate(str(error)) from error
        _log.warning("Workers run WITHOUT isolation (--unsafe-no-sandbox): %s", error)
        from clawplane.sandbox.unsafe import UnsafeLauncher  # noqa: PLC0415 - never loaded where isolation works

        return UnsafeLauncher(state_directory=settings.data / "unsafe")


def _runner(
    settings: RunnerSettings, shop: Workshop, clock: Clock, collector: _Collector, host: HostWork | None
) -> Runner:
    identity = _identity(settings, clock, sessions=shop.sessions is not None, host=host)

    def note(offer: Offer) -> Callable[[LiveState], None]:
        return lambda state: runner.link.note(offer.job, offer.fence, state)

    runner = Runner(
        settings,
        identity,
        _jobs(shop, host, note),
        clock=clock,
        ended=collector.ended,
        asked=None if shop.sessions is None else shop.sessions.asked,
        kept=() if host is None else host.kept,
        settled=(lambda job, fence: None) if host is None else host.ends.remove,
    )
    capability = CAPABILITY[JobKind.SESSION]
    if shop.sessions is None and settings.sessions:
        runner.unable(capability, _NOT_ISOLATED)
    if shop.sessions is not None:
        shop.sessions.trial.listen(lambda reason: runner.unable(capability, reason))
    return runner


def _identity(settings: RunnerSettings, clock: Clock, *, sessions: bool, host: HostWork | None) -> Identity:
    runner = runner_id(settings.data, clock)
    slots = {CAPABILITY[JobKind.SUBTASK]: settings.slots, CAPABILITY[JobKind.BUILD]: settings.build_slots}
    if sessions:
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
    shop: Workshop, host: HostWork | None, note: Callable[[Offer], Callable[[LiveState], None]]
) -> Callable[[Offer, Shipper], Job]:
    def make(offer: Offer, shipper: Shipper) -> Job:
        match offer.kind:
            case JobKind.BUILD:
                return BuildJob(offer, shipper, shop)
            case JobKind.SUBTASK:
                return SubtaskJob(offer, shipper, shop)
            case JobKind.SESSION:
                if shop.sessions is None:
                    return UnreadableJob("This runner holds no sessions.")
                return SessionJob(offer, shop.sessions, note(offer))
            case JobKind.HOST:
                if host is None:
                    return UnreadableJob("This runner does no host tasks.")
                return HostJob(offer, shipper, host.house, host.ends)

    return make


class _Collector:
    """Collects old environments after each build: only then they can have become too many."""

    def __init__(self, shop: Workshop, settings: RunnerSettings) -> None:
        self._shop = shop
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def ended(self, kind: JobKind) -> None:
        """Look at the environments when it was a build that ended."""
        if kind is JobKind.BUILD and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._collect())

    async def close(self) -> None:
        """Abandon the work; what it has begun to remove is gone already or whole."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _collect(self) -> None:
        settings = self._settings
        try:
            await self._shop.environments.collect(
                max_age=settings.environment_max_age_days * _DAY,
                max_bytes=settings.environment_max_bytes,
                keep=self._shop.warm.layers()
                | (self._shop.sessions.profiles.fingerprints() if self._shop.sessions else set()),
            )
        except OSError as error:
            _log.warning("Old environments could not be removed: %s", error)


@contextmanager
def _drained_by_signals(runner: Runner) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, runner.drain)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
