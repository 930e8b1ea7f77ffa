"""Send messages to channels of a chat API of Discord's form.

The channel comes from whoever submitted a task. It becomes one percent-encoded segment of the path, or nothing is sent:
the bot token must reach `<base>/channels/<channel>/messages` and no other address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from clawplane.callbacks.answers import Answer, NotAllowed, plain_client, post

DEFAULT_BASE: Final = "https://discord.com/api/v10"

_PREFIX: Final = re.compile(r"(?:slash|channel):")
_SHAPE: Final = re.compile(r"(?!\.+\Z)[\w@#+=!:.-]{1,200}\Z")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+\Z")
_NONCE: Final = 25


class Chat:
    """One chat API. `base` keeps its path; `proxy` is an HTTP CONNECT proxy for HTTPS, "" for none."""

    def __init__(
        self, base: str = DEFAULT_BASE, *, proxy: str = "", client: Callable[..., httpx.AsyncClient] = plain_client
    ) -> None:
        self._base = base.rstrip("/")
        # Discord drops a message that repeats a nonce, such as one whose answer was lost with this process
        self._nonces = (urlsplit(self._base).hostname or "") == "discord.com"
        self._client = client(proxy=proxy)

    async def send(self, channel: str, content: str, token: str, *, nonce: str = "") -> Answer:
        """Post one message; raises NotAllowed for a channel or token of no allowed shape, CannotSend."""
        url = f"{self._base}/channels/{segment(channel)}/messages"
        if not _TOKEN.match(token):
            raise NotAllowed("the bot token is empty or holds characters that no token has")
        told: dict[str, object] = {"content": content}
        if nonce and self._nonces:
            told |= {"nonce": nonce[-_NONCE:], "enforce_nonce": True}
        headers = {"Authorization": f"Bot {token}"}
        return await post(self._client, url, content=json.dumps(told).encode(), headers=headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def segment(channel: str) -> str:
    """Return a channel as one segment of a path, `slash:` or `channel:` stripped; raises NotAllowed."""
    bare = _PREFIX.sub("", channel.strip(), count=1) if _PREFIX.match(channel.strip()) else channel.strip()
    if not _SHAPE.match(bare):
        raise NotAllowed("the channel is not of an allowed shape: letters, digits and _ - . : @ # + = !, at most 200")
    return quote(bare, safe="")
