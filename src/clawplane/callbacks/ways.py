"""Build a courier from what an operator sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from clawplane.callbacks.chat import DEFAULT_BASE, Chat
from clawplane.callbacks.delivery import Courier
from clawplane.callbacks.hook import Hook
from clawplane.callbacks.webhook import Webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Where callbacks go and with what; empty texts are ways that are not there."""

    chat_api: str = DEFAULT_BASE
    bot_token: str = field(default="", repr=False)
    proxy: str = field(default="", repr=False)
    hooks_url: str = ""
    hooks_token: str = field(default="", repr=False)


def open_courier(ways: Ways, *, webhooks: Webhooks | None = None) -> Courier:
    """Return a courier, to be closed by its `close`; raises ValueError that names the variable of a bad address."""
    _check("CALLBACK_API_BASE_URL", ways.chat_api)
    if ways.proxy:
        _check("DISCORD_PROXY", ways.proxy)
    if ways.hooks_url:
        _check("OPENCLAW_HOOKS_URL", ways.hooks_url)
    hook = Hook(ways.hooks_url, ways.hooks_token) if ways.hooks_url and ways.hooks_token else None
    return Courier(Chat(ways.chat_api, proxy=ways.proxy), token=ways.bot_token.strip(), hook=hook, webhooks=webhooks)


def _check(name: str, address: str) -> None:
    problem = f"{name} is no http:// or https:// address."
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        raise ValueError(problem) from None
    if not good or not address.isprintable() or " " in address:
        raise ValueError(problem)
