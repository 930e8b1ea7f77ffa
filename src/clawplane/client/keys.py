"""API keys as a client sees them."""

from __future__ import annotations

from typing import Any

from clawplane.client.http import Http


class KeysClient:
    """Keys over HTTP; needs the admin scope."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(self, name: str, scopes: list[str]) -> dict[str, Any]:
        """Create a key; its secret is in this answer and nowhere else."""
        answer: dict[str, Any] = await self._http.request("POST", "/v1/keys", body={"name": name, "scopes": scopes})
        return answer

    async def all(self) -> list[dict[str, Any]]:
        """Return every key, newest first, without secrets."""
        answer: list[dict[str, Any]] = (await self._http.request("GET", "/v1/keys"))["list"]
        return answer

    async def revoke(self, key_id: str) -> None:
        """Revoke a key at once."""
        await self._http.request("DELETE", f"/v1/keys/{key_id}")
