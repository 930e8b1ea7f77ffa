"""What an operator can set about host tasks on the control plane: the Task API's own variables, and ours beside them.

The Task API's variables keep their rules: what is out of bounds is clamped, what cannot be parsed gives the default.
Ours are refused by name, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_ports import Retention
from clawplane.domain.host_tasks import OnLoss, TaskType
from clawplane.domain.task_api_variables import clamped, first_of, is_on
from clawplane.domain.worker_tokens import checked_token
from clawplane.variables import entries, whole_number

CHAT_API: Final = "https://discord.com/api/v10"
_PORT: Final = 3456
_LAST_PORT: Final = 65_535


class HostTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Bearer tokens of the Task API, in clear: they become keys at the start. Tuples hold one or two, for rotation."""

    shared: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "HostTokens(***)"


class CallbackChoices(msgspec.Struct, frozen=True, kw_only=True):
    """Where callbacks go and with what."""

    chat_api: str = CHAT_API
    bot_token: str = ""
    default_channel: str = ""
    server_callbacks: bool = False
    proxy: str = ""
    hooks_url: str = ""
    hooks_token: str = ""
    webhook_secret: str = ""
    webhook_private: bool = False
    """Whether webhooks may go to private addresses."""

    def __repr__(self) -> str:
        return f"CallbackChoices(chat_api={self.chat_api!r}, bot_token=***, hooks_url={self.hooks_url!r})"


class HostBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane's side of host tasks."""

    tokens: HostTokens = HostTokens()
    callbacks: CallbackChoices = CallbackChoices()
    retention: Retention = Retention()
    on_loss: dict[TaskType, OnLoss] = {}
    strict_paths: bool = False
    requests_per_minute: int = 0
    """Per key, for everything but polls; 0 is no limit."""
    answer_seconds: int = 86_400
    """How long the link in a question is good for."""
    claude_projects: str = ""
    codex_sessions: str = ""


def host_bounds(environment: Mapping[str, str]) -> HostBounds:
    """Read the control plane's side; raises InvalidArgument for tokens that protect nothing."""
    return HostBounds(
        tokens=_tokens(environment),
        callbacks=_callbacks(environment),
        retention=_retention(environment),
        on_loss=_on_loss(environment),
        strict_paths=is_on(environment, "CLAWPLANE_HOST_STRICT_PATHS"),
        requests_per_minute=whole_number(environment, "CLAWPLANE_HOST_RATE", 0, low=0, high=10_000_000),
        answer_seconds=whole_number(environment, "CLAWPLANE_HOST_ANSWER_SECONDS", 86_400, low=60, high=30 * 86_400),
        claude_projects=environment.get("CLAUDE_PROJECTS_DIR", ""),
        codex_sessions=environment.get("CODEX_SESSIONS_DIR", ""),
    )


def task_api_port(environment: Mapping[str, str]) -> int:
    """Return the port of a Task API: WORKER_PORT, else PORT, else 3456; what names none is passed over."""
    for name in ("WORKER_PORT", "PORT"):
        port = clamped(environment, name, 0, 0, _LAST_PORT + 1)
        if 0 < port <= _LAST_PORT:
            return port
    return _PORT


def _tokens(environment: Mapping[str, str]) -> HostTokens:
    return HostTokens(
        shared=_pair(environment, "WORKER_TOKEN"),
        client=_pair(environment, "CLAWPLANE_HOST_CLIENT_TOKEN"),
        runner=_pair(environment, "CLAWPLANE_HOST_RUNNER_TOKEN"),
    )


def _pair(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return a token and, while it is being replaced, the one before it (NAME_PREVIOUS)."""
    tokens = []
    for variable in (name, f"{name}_PREVIOUS"):
        token = environment.get(variable, "")
        if not token:
            continue
        tokens.append(checked_token(variable, token))
    return tuple(tokens)


def _callbacks(environment: Mapping[str, str]) -> CallbackChoices:
    return CallbackChoices(
        chat_api=first_of(environment, "CALLBACK_API_BASE_URL", "DISCORD_API_BASE_URL") or CHAT_API,
        bot_token=first_of(environment, "CALLBACK_BOT_TOKEN", "DISCORD_BOT_TOKEN"),
        default_channel=first_of(environment, "CALLBACK_CHANNEL", "DEFAULT_CALLBACK_CHANNEL"),
        server_callbacks=is_on(environment, "CLAWPLANE_SERVER_CALLBACKS"),
        proxy=environment.get("DISCORD_PROXY", ""),
        hooks_url=environment.get("OPENCLAW_HOOKS_URL", ""),
        hooks_token=environment.get("OPENCLAW_HOOKS_TOKEN", ""),
        webhook_secret=environment.get("CLAWPLANE_WEBHOOK_SECRET", ""),
        webhook_private=is_on(environment, "CLAWPLANE_WEBHOOK_PRIVATE"),
    )


def _retention(environment: Mapping[str, str]) -> Retention:
    return Retention(
        task_ms=clamped(environment, "WORKER_TASK_RETENTION_MS", 1_200_000, 60_000, 604_800_000),
        result_ms=clamped(environment, "WORKER_RESULT_RETENTION_MS", 1_800_000, 60_000, 604_800_000),
        session_ms=clamped(environment, "WORKER_SESSION_RETENTION_MS", 1_800_000, 60_000, 2_592_000_000),
        grace_ms=clamped(environment, "CLAWPLANE_HOST_GRACE_MS", 1_800_000, 0, 604_800_000),
        event_days=clamped(environment, "WORKER_EVENT_RETENTION_DAYS", 14, 1, 3650),
        max_events=clamped(environment, "WORKER_MAX_EVENTS", 2000, 100, 500_000),
    )


def _on_loss(environment: Mapping[str, str]) -> dict[TaskType, OnLoss]:
    """Read entries such as `hold`, for all types, or `command=fail`."""
    name = "CLAWPLANE_HOST_ON_LOSS"
    chosen: dict[TaskType, OnLoss] = {}
    for entry in entries(environment, name):
        type_, _, policy = entry.rpartition("=")
        try:
            types = [TaskType(type_)] if type_ else list(TaskType)
            chosen |= dict.fromkeys(types, OnLoss(policy))
        except ValueError:
            hint = (
                f"Write TYPE=POLICY with a policy of {', '.join(OnLoss)}, such as command=fail, or one for all types."
            )
            raise InvalidArgument(f"{name} has an unknown entry: {entry[:60]!r}.", hint=hint) from None
    return chosen
