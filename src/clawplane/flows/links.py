"""Make and read download links: whoever holds one may fetch what it names until it expires, without a key.

A link is `<payload>.<signature>`, both base64url; the payload is a small JSON array, the signature its HMAC-SHA-256
under a secret that is made once per installation. The signature is checked before anything in the payload is looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final, Literal

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.errors import InvalidToken
from clawplane.domain.ports import Keys

_SETTING: Final = "link_secret"
_MAX_LINK: Final = 8192

LinkKind = Literal["export", "log"]


class Link(msgspec.Struct, frozen=True, array_like=True):
    """What a link gives: an export of a run in `format` with these `columns` (empty = all), or a whole log."""

    kind: LinkKind
    subject: str
    expires_at: int
    format: str = ""
    columns: tuple[str, ...] = ()


class Links:
    """Sign links and read them back."""

    def __init__(self, keys: Keys, clock: Clock, *, lifetime_seconds: int = 3600) -> None:
        self._keys = keys
        self._clock = clock
        self._lifetime_ms = lifetime_seconds * 1000
        self._secret: bytes | None = None

    async def sign(self, kind: LinkKind, subject: str, *, format_: str = "", columns: tuple[str, ...] = ()) -> str:
        """Return a link's token, valid for the configured lifetime."""
        link = Link(kind, subject, self._clock.now_ms() + self._lifetime_ms, format_, columns)
        payload = msgspec.json.encode(link)
        return f"{_text(payload)}.{_text(await self._mac(payload))}"

    async def read(self, token: str) -> Link:
        """Return what a token gives; raises InvalidToken when it is forged, damaged or expired."""
        payload_text, _, mac_text = token.partition(".")
        if len(token) > _MAX_LINK:
            raise _refusal("is not one of ours")
        payload, mac = _bytes(payload_text), _bytes(mac_text)
        if not hmac.compare_digest(await self._mac(payload), mac):
            raise _refusal("is not one of ours")
        try:
            link = msgspec.json.decode(payload, type=Link)
        except msgspec.MsgspecError:  # signed by an older release
            raise _refusal("is of an older form") from None
        if link.expires_at <= self._clock.now_ms():
            raise _refusal("has expired")
        return link

    async def prepare(self) -> None:
        """Make the installation's secret unless it has one, so that no link needs a write when the disk is full."""
        await self._own_secret()

    async def _mac(self, payload: bytes) -> bytes:
        return hmac.new(await self._own_secret(), payload, hashlib.sha256).digest()

    async def _own_secret(self) -> bytes:
        if self._secret is None:
            kept = await self._keys.setting(_SETTING)
            if kept is None:
                kept = await self._keys.set_setting_once(_SETTING, secrets.token_hex(32))
            self._secret = bytes.fromhex(kept)
        return self._secret


def _refusal(why: str) -> InvalidToken:
    return InvalidToken(f"This download link {why}.", hint="Ask for a new link.")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        raw = text.encode("ascii")
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return b""
