"""Make and check the tokens that open one session to whoever holds them, as the E2B wire wants it.

A token is the HMAC-SHA-256 of the session's id under a secret that is made once per installation: the same at every
time, so that every replica can show it again, and worth nothing when its session has ended. It opens files, code and
commands of that session; it creates, lists and deletes nothing.

A file address carries, instead of the token, a SHA-256 that its holder's client made of path, operation and token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final, Literal

from clawplane.domain.clock import Clock
from clawplane.domain.errors import InvalidToken
from clawplane.domain.ports import Keys

_SETTING: Final = "sandbox_token_secret"
_PREFIX: Final = "sandbox_"
_SIGNED: Final = "v1_"
_RECONNECT: Final = "Connect to the sandbox again with an API key."


class SandboxTokens:
    """Tokens of sessions; `prepare` comes before everything else."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._secret = b""

    async def prepare(self) -> None:
        """Make the installation's secret unless it has one."""
        kept = await self._keys.setting(_SETTING)
        if kept is None:
            kept = await self._keys.set_setting_once(_SETTING, secrets.token_hex(32))
        self._secret = bytes.fromhex(kept)

    def issue(self, session_id: str) -> str:
        """Return the token of a session."""
        if not self._secret:
            raise AssertionError("tokens were used before they were prepared")
        return _PREFIX + hmac.new(self._secret, _raw(session_id), hashlib.sha256).hexdigest()

    def check(self, session_id: str, token: str) -> None:
        """Raise InvalidToken unless `token` is the session's."""
        if not hmac.compare_digest(_raw(self.issue(session_id)), _raw(token)):
            raise InvalidToken("The sandbox's access token is missing or not valid.", hint=_RECONNECT)

    def check_address(
        self,
        session_id: str,
        *,
        signature: str,
        path: str,
        operation: Literal["read", "write"],
        user: str,
        expires: str,
    ) -> None:
        """Raise InvalidToken unless a file address is signed; `expires` as written there: Unix seconds, "" = never."""
        signed = f"{path}:{operation}:{user}:{self.issue(session_id)}" + (f":{expires}" if expires else "")
        expected = _SIGNED + base64.b64encode(hashlib.sha256(_raw(signed)).digest()).rstrip(b"=").decode()
        if not hmac.compare_digest(_raw(expected), _raw(signature)):
            raise InvalidToken("The address's signature is not valid.", hint=_RECONNECT)
        if expires and not (len(expires) <= 12 and expires.isdecimal() and int(expires) * 1000 > self._clock.now_ms()):
            raise InvalidToken("The address has expired.", hint="Make a new one with the client.")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
