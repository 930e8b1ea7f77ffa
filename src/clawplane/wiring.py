"""The composition root: here, and nowhere else, ports meet their implementations.

`control_plane` is what `serve` runs and what tests open; `run_runner` is what `runner` runs. Start in the order of
need, stop in the reverse: the listener closes first, then the loops of the leases, then the store, which finishes
what it has accepted.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvicorn
import uvloop
from starlette.types import ASGIApp

import clawplane
from clawplane import exports
from clawplane.api.app import build_app
from clawplane.api.calls import Flows, HttpLimits
from clawplane.api.heads import protocol
from clawplane.domain.access import Scope, new_secret
from clawplane.domain.archives import ArchiveLimits
from clawplane.domain.clock import Clock, SystemClock
from clawplane.domain.errors import AuthenticationRequired, InvalidArgument, InvalidToken
from clawplane.domain.ids import JobIds
from clawplane.flows.access import Access
from clawplane.flows.environments import Environments
from clawplane.flows.host_tasks import HostWork
from clawplane.flows.leases import Leases
from clawplane.flows.links import Links
from clawplane.flows.packages import PackageLimits, Packages
from clawplane.flows.results import Results
from clawplane.flows.runs import RunLimits, RunStarts
from clawplane.flows.sandbox_tokens import SandboxTokens
from clawplane.flows.session_places import Patience
from clawplane.flows.sessions import SessionLimits, Sessions
from clawplane.flows.steady_clock import SteadyClock
from clawplane.flows.upkeep import clear_spool
from clawplane.host_wiring import host_plane
from clawplane.link.frames import MAX_FRAME
from clawplane.link.server import link_endpoint
from clawplane.runner.daemon import run_runner as run_runner_daemon
from clawplane.runner.host.environment import wipe_secrets
from clawplane.runner.host.settings import host_settings
from clawplane.runner.sessions.supply import fitting_size
from clawplane.runner.sessions.trial import finding_of, remembered
from clawplane.runner.settings import EgressSettings, RunnerSettings
from clawplane.sandbox.probe import probe
from clawplane.sdk.scaffold import ScaffoldError
from clawplane.sdk.scaffold import scaffold as write_scaffold
from clawplane.settings import Connection, RunnerDaemonSettings, Secret, ServeSettings, write_connection
from clawplane.store.store import Store, open_store

T = TypeVar("T")

_UPLOAD_FIELDS = 1_000_000
_GRACEFUL_SECONDS = 2


class Exporter:
    """The exports leaf as flows see it."""

    def formats(self) -> Sequence[str]:
        """Return the formats that are offered."""
        return tuple(exports.FORMATS)

    def media_type(self, format_: str) -> str:
        """Return a format's media type."""
        return exports.FORMATS[format_].media_type

    def needs_columns(self, format_: str) -> bool:
        """Tell whether a format is written by columns, so that they must be known before the first row."""
        return format_ == "csv"

    def export(
        self, format_: str, keys: Sequence[str] | None, rows: AsyncIterator[list[bytes]]
    ) -> AsyncIterator[bytes]:
        """Yield the file."""
        return exports.export(format_, rows, keys)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A control plane that is open: its application, and the admin key when this start generated one."""

    app: ASGIApp
    access: Access
    leases: Leases
    host: HostWork
    generated_key: str | None


@asynccontextmanager
async def control_plane(settings: ServeSettings) -> AsyncIterator[ControlPlane]:
    """Open the store and the flows in `settings.data`, and close them in order."""
    clock = SteadyClock(SystemClock())
    async with AsyncExitStack() as stack:
        store = await open_store(settings.data, clock=clock, file=settings.database)
        stack.push_async_callback(store.close)
        ids = JobIds()
        ids.advance_past(await store.queue.highest_job())
        spool = settings.data / "spool"
        await clear_spool(spool)
        access = Access(store.keys, clock, owner=settings.owner)
        generated = await access.bootstrap(settings.admin_key)
        environments = Environments(store.workers, store.blobs, store.wakeups, clock)
        leases = Leases(store.queue, store.runs, environments, store.host_tasks, wakeups=store.wakeups, clock=clock)
        sessions = _sessions(settings, store, leases, clock, ids)
        packages = _packages(settings, store, clock, ids)
        runs = _runs(settings, store, leases, clock, ids)
        links = Links(store.keys, clock, lifetime_seconds=settings.link_lifetime)
        await links.prepare()
        sandbox_tokens = SandboxTokens(store.keys, clock)
        await sandbox_tokens.prepare()
        await leases.start()
        stack.push_async_callback(leases.close)
        host = await stack.enter_async_context(
            host_plane(settings, store, leases=leases, access=access, clock=clock, ids=ids)
        )
        flows = Flows(
            host=host.work,
            notifier=host.callbacks,
            task_api=host.options,
            packages=packages,
            runs=runs,
            sessions=sessions,
            sandbox_tokens=sandbox_tokens,
            results=Results(store.workers, store.runs, links, Exporter(), store.wakeups),
            leases=leases,
            access=access,
            blobs=store.blobs,
            queue=store.queue,
            events=store.events,
            wakeups=store.wakeups,
            clock=clock,
            spool=spool,
            limits=HttpLimits(settings.max_body, settings.body_seconds, settings.max_package + _UPLOAD_FIELDS),
            public_url=settings.public_url,
            month_rule=settings.month_rule,
            version=clawplane.__version__,
        )

        async def authenticate(secret: str) -> str | None:
            try:
                caller = await access.authenticate(secret)
            except (InvalidToken, AuthenticationRequired):
                return None
            return caller.key_id if caller.may(Scope.RUNNER) else None

        app = build_app(flows, link_endpoint(leases, authenticate, access.claim_runner))
        await sessions.start()
        stack.push_async_callback(sessions.close)
        yield ControlPlane(app, access, leases, host.work, generated)


def _packages(settings: ServeSettings, store: Store, clock: Clock, ids: JobIds) -> Packages:
    archive = ArchiveLimits(compressed=settings.max_package, expanded=settings.max_expanded)
    return Packages(
        workers=store.workers,
        blobs=store.blobs,
        wakeups=store.wakeups,
        clock=clock,
        ids=ids,
        limits=PackageLimits(archive=archive),
    )


def _runs(settings: ServeSettings, store: Store, leases: Leases, clock: Clock, ids: JobIds) -> RunStarts:
    return RunStarts(
        workers=store.workers,
        runs=store.runs,
        queue=store.queue,
        leases=leases,
        wakeups=store.wakeups,
        clock=clock,
        ids=ids,
        limits=RunLimits(max_running=settings.max_running_runs, max_subtasks=settings.max_subtasks),
    )


def _sessions(settings: ServeSettings, store: Store, leases: Leases, clock: Clock, ids: JobIds) -> Sessions:
    bounds = settings.sessions
    return Sessions(
        sessions=store.sessions,
        leases=leases,
        wakeups=store.wakeups,
        clock=clock,
        ids=ids,
        limits=SessionLimits(live_per_owner=bounds.per_owner, waiting=bounds.waiting, history_days=bounds.history_days),
        patience=Patience(placing=bounds.placing, linking=bounds.linking),
    )


def serve(settings: ServeSettings, *, runner_token: str | None, announce: Callable[[str, str | None], None]) -> None:
    """Run the control plane until SIGINT or SIGTERM.

    `announce` hears the address and, at the very first start, the generated admin key. Raises ClawplaneError or OSError
    when it cannot start.
    """
    os.umask(0o077)
    settings.data.mkdir(parents=True, exist_ok=True)
    _run(_serve(settings, runner_token, announce))


async def _serve(
    settings: ServeSettings, runner_token: str | None, announce: Callable[[str, str | None], None]
) -> None:
    async with control_plane(settings) as plane:
        with _listener(settings.bind, settings.port) as listener:
            if runner_token:
                await plane.access.admit(runner_token, name="runner of this host", scopes={Scope.RUNNER})
            await _admit_local(settings, plane.access)
            server = _Server(
                plane.host,
                uvicorn.Config(
                    plane.app,
                    http=protocol(unread_seconds=settings.unread_seconds),
                    ws="websockets-sansio",
                    ws_max_size=MAX_FRAME,
                    ws_per_message_deflate=False,
                    lifespan="off",
                    access_log=False,
                    log_config=None,
                    server_header=False,
                    timeout_keep_alive=30,
                    timeout_graceful_shutdown=_GRACEFUL_SECONDS,
                ),
            )
            calm_collector()
            announce(settings.url, plane.generated_key)
            await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Answers open long polls before it closes connections, so that nobody's wait is cut."""

    def __init__(self, host: HostWork, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._host = host

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave: first what waits, then the connections."""
        await self._host.leave()
        await super().shutdown(sockets)


async def _admit_local(settings: ServeSettings, access: Access) -> None:
    """Let the command line of the user who started this server in, through a key in files that only this user reads."""
    try:
        left = msgspec.json.decode((settings.data / "connection.json").read_bytes(), type=Connection)
        key = left.key
    except (OSError, msgspec.DecodeError):
        key = new_secret()
    await access.admit(key, name="command line of this host", scopes={Scope.ADMIN})
    write_connection(Connection(url=settings.url, key=key), settings.data, os.environ)


def _listener(bind: str, port: int) -> socket.socket:
    """Return a listening socket; raises OSError when the address is taken, InvalidArgument when it is none."""
    try:
        found = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        raise InvalidArgument(
            f"{bind!r} is no address to listen on.", hint="Use --bind 127.0.0.1, for example."
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def run_runner(settings: RunnerDaemonSettings) -> None:
    """Run a runner until it has drained after a signal; raises ClawplaneError when it cannot start."""
    os.umask(0o077)
    calm_collector()
    wipe_secrets()
    _run(
        run_runner_daemon(
            RunnerSettings(
                url=settings.url,
                token=settings.token,
                data=settings.data / "runner",
                name=settings.name,
                slots=settings.slots,
                build_slots=settings.build_slots,
                labels=settings.labels,
                unsafe_no_sandbox=settings.unsafe_no_sandbox,
                drain_seconds=settings.drain_seconds,
                environment_max_bytes=settings.environment_max_bytes,
                environment_max_age_days=settings.environment_max_age_days,
                egress=EgressSettings(
                    mode=settings.egress.mode,
                    allow=settings.egress.allow,
                    deny=settings.egress.deny,
                    upstreams=settings.egress.upstreams,
                ),
                sessions=settings.sessions.enabled,
                session_slots=settings.sessions.slots,
                session_pool=fitting_size() if settings.sessions.pool is None else settings.sessions.pool,
                session_profiles=settings.sessions.profiles,
                session_ready=settings.sessions.ready,
                session_spill_bytes=settings.sessions.spill,
                session_save_seconds=settings.sessions.save_seconds,
                host=host_settings(os.environ, settings.host_policy) if settings.host_tasks else None,
                protected=(settings.data, *([settings.token_file] if settings.token_file else [])),
            )
        )
    )


def doctor(data: Path) -> list[dict[str, Any]]:
    """Return what this host offers for isolation, one finding a line; `data` holds a runner's verdict on it."""
    verdict = remembered(data / "runner" / "selftest.json")
    return [asdict(finding) for finding in [*probe(), *([] if verdict is None else [finding_of(verdict)])]]


def scaffold(language: str, name: str, target: Path) -> list[Path]:
    """Write a new Worker; raises InvalidArgument when that would overwrite something."""
    try:
        return write_scaffold(language, name, target)
    except ScaffoldError as error:
        raise InvalidArgument(f"{error}.") from None


def calm_collector() -> None:
    """Let the garbage collector look at what lives for ever no more, and at the rest less often.

    Daemons make few cycles and many short-lived values; with Python's own thresholds the collector costs the queue a
    sixth of its speed (bench.jobs).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


__all__ = ["ControlPlane", "Secret", "control_plane", "doctor", "run_runner", "scaffold", "serve"]
