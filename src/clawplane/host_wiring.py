"""The composition root's part for host tasks: the flow, its loops, and the ways in which callbacks go out."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from clawplane.api.openclaw.visits import TaskApiOptions
from clawplane.callbacks.delivery import Courier
from clawplane.callbacks.ways import Ways, open_courier
from clawplane.callbacks.webhook import Address, Webhooks
from clawplane.domain.access import Scope
from clawplane.domain.clock import Clock
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.ids import JobIds
from clawplane.egress.addresses import why_not_public
from clawplane.flows.access import Access
from clawplane.flows.callbacks import Callbacks
from clawplane.flows.host_tasks import HostRules, HostWork
from clawplane.flows.host_upkeep import HostUpkeep
from clawplane.flows.host_words import Listener
from clawplane.flows.leases import Leases
from clawplane.flows.pollers import Pollers
from clawplane.host_settings import CallbackChoices, HostBounds, HostTokens
from clawplane.settings import ServeSettings
from clawplane.store.sealing import KeyFileSealing
from clawplane.store.store import DATABASE, Store

_SEALING_KEY = "sealing.key"
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class HostPlane:
    """Host tasks that are open."""

    work: HostWork
    callbacks: Callbacks
    options: TaskApiOptions


@asynccontextmanager
async def host_plane(
    settings: ServeSettings, store: Store, *, leases: Leases, access: Access, clock: Clock, ids: JobIds
) -> AsyncIterator[HostPlane]:
    """Open host tasks over a store and close them in order; the leases must be running."""
    bounds = settings.host
    sealing = KeyFileSealing.open(settings.data / _SEALING_KEY)
    trust_tokens(access, bounds.tokens)
    pollers = Pollers(store.host_tasks, store.wakeups, clock)
    work = HostWork(
        tasks=store.host_tasks,
        events=store.task_events,
        conversations=store.agent_sessions,
        outbox=store.outbox,
        pollers=pollers,
        leases=leases,
        sealing=sealing,
        wakeups=store.wakeups,
        clock=clock,
        ids=ids,
        rules=HostRules(
            on_loss=bounds.on_loss,
            server_callbacks=bounds.callbacks.server_callbacks,
            default_channel=bounds.callbacks.default_channel,
            retention=bounds.retention,
            public_url=settings.public_url or "",
            answer_seconds=bounds.answer_seconds,
        ),
    )
    courier = _courier(bounds.callbacks)
    callbacks = Callbacks(
        outbox=store.outbox,
        tasks=store.host_tasks,
        events=store.task_events,
        courier=courier,
        sealing=sealing,
        wakeups=store.wakeups,
        clock=clock,
    )
    upkeep = HostUpkeep(store.host_tasks, store.task_events, store.wakeups, clock, bounds.retention)
    listener = Listener(
        tasks=store.host_tasks,
        conversations=store.agent_sessions,
        outbox=store.outbox,
        questions=work.questions,
        wakeups=store.wakeups,
        clock=clock,
    )
    try:
        leases.listen(listener)
        await pollers.start()
        await callbacks.start()
        await upkeep.start()
        yield HostPlane(work, callbacks, _options(bounds, settings.database or settings.data / DATABASE))
    finally:
        await work.leave()
        await listener.close()
        await upkeep.close()
        await callbacks.close()


def trust_tokens(access: Access, tokens: HostTokens) -> None:
    """Let the Task API's tokens in: the shared one does both, the split ones only their side."""
    both = {Scope.HOST, Scope.HOST_RUNNER}
    for names, scopes, secrets in (
        ("WORKER_TOKEN", both, tokens.shared),
        ("client token", {Scope.HOST}, tokens.client),
        ("runner token", {Scope.HOST_RUNNER}, tokens.runner),
    ):
        for secret in secrets:
            access.trust(secret, name=names, scopes=scopes)


def _options(bounds: HostBounds, database: Path) -> TaskApiOptions:
    plain = TaskApiOptions()
    return TaskApiOptions(
        database=database,
        strict_paths=bounds.strict_paths,
        requests_per_second=bounds.requests_per_minute / _MINUTE,
        claude_root=Path(bounds.claude_projects).expanduser() if bounds.claude_projects else plain.claude_root,
        codex_root=Path(bounds.codex_sessions).expanduser() if bounds.codex_sessions else plain.codex_root,
    )


def _courier(choices: CallbackChoices) -> Courier:
    webhooks = None
    if choices.webhook_secret:
        allow = ("*",) if choices.webhook_private else ()
        webhooks = Webhooks(choices.webhook_secret, judge=why_not_public, lookup=_look_up, allow=allow)
    ways = Ways(
        chat_api=choices.chat_api,
        bot_token=choices.bot_token,
        proxy=choices.proxy,
        hooks_url=choices.hooks_url,
        hooks_token=choices.hooks_token,
    )
    try:
        return open_courier(ways, webhooks=webhooks)
    except ValueError as error:
        raise InvalidArgument(str(error), hint="Set it to an address such as https://chat.example/api.") from None


def _look_up(name: str) -> Sequence[Address]:
    return [ip_address(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
