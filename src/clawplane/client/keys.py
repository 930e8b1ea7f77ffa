"""API keys as a client sees them."""

from __future__ import annotations

from typing import TypedDict

from clawplane.client.http import Http, segment


class Key(TypedDict):
    """A key without its secret; times in milliseconds."""

    id: str
    name: str
    scopes: list[str]
    created_at: int
    revoked_at: int | None


class NewKey(TypedDict):
    """A key with its secret as `key`."""

    id: str
    key: str


class _Keys(TypedDict):
    list: list[Key]


class KeysClient:
    """Keys over HTTP; needs the admin scope."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(self, name: str, scopes: list[str], *, runner: str | None = None) -> NewKey:
        """Create a key; its secret is in this answer and nowhere else. `runner` has to use it from now on."""
        more = {} if runner is None else {"runner": runner}
        return await self._http.ask("POST", "/v1/keys", NewKey, body={"name": name, "scopes": scopes, **more})

    async def all(self) -> list[Key]:
        """Return every key, newest first, without secrets."""
        return (await self._http.ask("GET", "/v1/keys", _Keys))["list"]

    async def revoke(self, key_id: str) -> None:
        """Revoke a key at once."""
        await self._http.request("DELETE", f"/v1/keys/{segment(key_id)}")
