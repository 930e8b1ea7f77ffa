"""Send one request and judge the answer: what all receivers have in common.

Redirects are not followed (the token would go along), the environment's proxies are not used, cookies are not kept, and
of an answer no more is read than is shown. Nothing that is raised here holds a header or a user name of a proxy.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

SECONDS: Final = 15.0
MOST_SHOWN: Final = 4096
LONGEST_WAIT: Final = 3600.0

_IN_WORDS: Final = (
    (httpx.ProxyError, "the proxy refused the connection"),
    (httpx.TimeoutException, "no answer in time"),
    (httpx.RemoteProtocolError, "the connection ended without an answer"),
)


class CannotSend(Exception):
    """No answer came; the message is for people and holds no secret. Trying again may help."""


class CannotConnect(CannotSend):
    """... and nothing was sent."""


class NotAllowed(Exception):
    """It must not be sent, now or ever; the message is for people and holds no secret."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered; `retry_after` in seconds, None when it named no time."""

    status: int
    body: str
    retry_after: float | None = None

    @property
    def good(self) -> bool:
        """Tell whether it was taken."""
        return 200 <= self.status < 300

    @property
    def limited(self) -> bool:
        """Tell whether it was only too early."""
        return self.status == httpx.codes.TOO_MANY_REQUESTS

    @property
    def permanent(self) -> bool:
        """Tell whether asking again would change nothing."""
        return not self.good and self.status < 500 and self.status not in (408, 425, 429)


async def post(
    client: httpx.AsyncClient,
    url: httpx.URL | str,
    *,
    content: bytes,
    headers: Mapping[str, str],
    extensions: dict[str, Any] | None = None,
    seconds: float = SECONDS,
) -> Answer:
    """Post JSON and return the answer, whatever its status; raises CannotSend."""
    sent = {**headers, "Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "clawplane"}
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream("POST", url, content=content, headers=sent, extensions=extensions) as response,
        ):
            body = await _beginning(response)
            return Answer(response.status_code, body, retry_after(response.headers, body))
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise CannotConnect("the connection failed") from None
    except TimeoutError:
        raise CannotSend(f"no answer within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        words = next((words for kind, words in _IN_WORDS if isinstance(error, kind)), "the request failed")
        raise CannotSend(words) from None


async def _beginning(response: httpx.Response) -> str:
    kept = bytearray()
    async for piece in response.aiter_raw():
        kept += piece[: MOST_SHOWN - len(kept)]
        if len(kept) >= MOST_SHOWN:
            break
    return bytes(kept).decode("utf-8", "replace")


def retry_after(headers: Mapping[str, str], body: str = "", *, now: datetime | None = None) -> float | None:
    """Return the seconds that an answer asks to wait: by Retry-After (a number or a date), or in a JSON body."""
    named = headers.get("retry-after", "").strip()
    if named:
        seconds = _number(named)
        if seconds is None:
            seconds = _until(named, now or datetime.now(UTC))
        if seconds is not None:
            return seconds
    try:
        told = json.loads(body)
    except ValueError:
        return None
    return _number(told.get("retry_after")) if isinstance(told, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None


def _until(named: str, now: datetime) -> float | None:
    try:
        at = parsedate_to_datetime(named)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), LONGEST_WAIT)


def plain_client(*, proxy: str = "", kept: int = 8) -> httpx.AsyncClient:
    """Return a client that follows nothing and heeds no variable.

    proxy: an HTTP CONNECT proxy, used for HTTPS only; kept: how many connections stay open for the next request.
    """
    mounts = {"https://": httpx.AsyncHTTPTransport(proxy=httpx.Proxy(proxy))} if proxy else None
    return httpx.AsyncClient(
        follow_redirects=False,
        trust_env=False,
        mounts=mounts,
        timeout=httpx.Timeout(SECONDS),
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=kept),
    )
