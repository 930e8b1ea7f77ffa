"""Who asks, and what they may do."""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum

import msgspec

KEY_PREFIX = "scraper_api_"


class Scope(StrEnum):
    """What a key may do; `admin` includes all but `runner` and `host_runner`, which are for daemons; `read` only looks.

    `host` submits and fetches host tasks; `host_runner` polls for them and reports them over the Task API.
    """

    ADMIN = "admin"
    WORKERS = "workers"
    SESSIONS = "sessions"
    HOST = "host"
    READ = "read"
    RUNNER = "runner"
    HOST_RUNNER = "host_runner"


_DAEMONS = frozenset({Scope.RUNNER, Scope.HOST_RUNNER})


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The holder of a valid key."""

    key_id: str
    owner: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Tell whether this caller has `scope`; every scope but those of daemons includes reading."""
        if scope in self.scopes:
            return True
        if scope in _DAEMONS:
            return False
        return Scope.ADMIN in self.scopes or (scope is Scope.READ and bool(self.scopes - _DAEMONS))


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A stored key: its hash, never the key itself. Times in milliseconds."""

    id: str
    name: str
    owner: str
    scopes: frozenset[Scope]
    digest: bytes
    created_at: int
    revoked_at: int | None = None
    expires_at: int | None = None


def new_secret() -> str:
    """Return a new API key."""
    return KEY_PREFIX + secrets.token_hex(24)


def digest_of(secret: str) -> bytes:
    """Return what is stored of a key: keys are long and random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
