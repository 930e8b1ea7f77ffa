"""What a runner that polls a Task API is told by its environment (9.3 of the contract).

What is out of bounds is clamped, what cannot be parsed gives the default. What concerns the tasks themselves (slots,
time-out, shell, agents) is read where it is used: settings.py, shells.py, agents/turn.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from clawplane.callbacks.ways import Ways
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.task_api_variables import clamped, first_of, is_on
from clawplane.domain.worker_tokens import checked_token
from clawplane.runner.host.settings import HostSettings, host_settings

DEFAULT_URL: Final = "http://127.0.0.1:3456"


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """One polling runner. Times in milliseconds; `data` is its own directory.

    direct: whether this runner sends callbacks itself; if not, it asks the server to.
    """

    url: str
    token: str = field(repr=False)
    data: Path
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    busy_ms: int = 500
    """How long to wait when all slots are taken."""
    wait_ms: int = 30_000
    """How long a poll may be open."""
    direct: bool = True
    ways: Ways = field(default_factory=Ways)
    host: HostSettings = field(default_factory=HostSettings)


def poll_settings(
    environ: Mapping[str, str],
    *,
    data: Path,
    name: str,
    labels: Mapping[str, str] | None = None,
    policy: Path | None = None,
) -> PollSettings:
    """Read the environment; raises InvalidArgument for a token that protects nothing and for a bad address."""
    return PollSettings(
        url=_address(environ.get("WORKER_URL") or DEFAULT_URL),
        token=checked_token("WORKER_TOKEN", environ.get("WORKER_TOKEN", "")),
        data=data,
        name=name,
        labels=dict(labels or {}),
        busy_ms=clamped(environ, "POLL_INTERVAL", 500, 50, 60_000),
        wait_ms=clamped(environ, "LONG_POLL_WAIT", 30_000, 1_000, 300_000),
        direct=is_on(environ, "WORKER_DIRECT_CALLBACK", unset=True),
        ways=Ways(
            chat_api=first_of(environ, "CALLBACK_API_BASE_URL", "DISCORD_API_BASE_URL") or Ways().chat_api,
            bot_token=first_of(environ, "CALLBACK_BOT_TOKEN", "DISCORD_BOT_TOKEN"),
            proxy=environ.get("DISCORD_PROXY", ""),
            hooks_url=environ.get("OPENCLAW_HOOKS_URL", ""),
            hooks_token=environ.get("OPENCLAW_HOOKS_TOKEN", ""),
        ),
        host=host_settings(environ, policy),
    )


def _address(text: str) -> str:
    try:
        parts = urlsplit(text.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    else:
        if good and (parts.username is not None or parts.query or parts.fragment):
            good = False
    if not good:
        hint = f"Set it to an address such as {DEFAULT_URL}."
        raise InvalidArgument("WORKER_URL is no http:// or https:// address without user name and query.", hint=hint)
    return text.strip().rstrip("/")
