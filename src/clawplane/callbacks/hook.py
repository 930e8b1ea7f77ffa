"""Tell an OpenClaw gateway through its inbound webhooks (docs.openclaw.ai/automation).

`POST <hooks>/agent` lets an agent turn carry the message to a channel; `POST <hooks>/wake` puts a line into the main
session. Which one is meant is said by the end of the address; an address that names neither means `agent`. The session
key is left to the gateway, which refuses one unless told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from clawplane.callbacks.answers import Answer, plain_client, post
from clawplane.callbacks.chat import segment

DEFAULT_PATH: Final = "/hooks"
_NAME: Final = "clawplane"


class Hook:
    """One gateway. `channel` is the gateway's name for the chat that the callback channels belong to."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        channel: str = "discord",
        client: Callable[..., httpx.AsyncClient] = plain_client,
    ) -> None:
        self._url = hook_url(url)
        self._token = token
        self._channel = channel
        self._client = client()

    async def send(self, to: str, text: str) -> Answer:
        """Hand over a message for a channel; raises NotAllowed for a channel of no allowed shape, CannotSend."""
        segment(to)
        if self._url.endswith("/wake"):
            told: dict[str, object] = {"text": text, "mode": "now"}
        else:
            told = {"message": text, "name": _NAME, "wakeMode": "now", "deliver": True}
            if self._channel:
                told |= {"channel": self._channel, "to": to.removeprefix("slash:")}
        headers = {"Authorization": f"Bearer {self._token}"}
        return await post(self._client, self._url, content=json.dumps(told).encode(), headers=headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def hook_url(url: str) -> str:
    """Return the full address of a hook: with the gateway's default path, and `agent`, where nothing else is said."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") or DEFAULT_PATH
    if not path.endswith(("/agent", "/wake")):
        path = f"{path}/agent"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
