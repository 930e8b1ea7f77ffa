"""Fetch packages for a runner; the control plane serves them to runner tokens only."""

from __future__ import annotations

import asyncio
import hashlib
from typing import BinaryIO, Final
from urllib.parse import quote

from clawplane.client.http import Http
from clawplane.domain.errors import TooLarge, Unavailable

BLOB_PATH: Final = "/v1/runner/blobs/"
LARGEST_BLOB: Final = 1 << 30


class BlobClient:
    """Download blobs with a runner's token."""

    def __init__(self, url: str, token: str) -> None:
        self._http = Http(url, token)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def download(self, key: str, to: BinaryIO, *, within: float) -> str:
        """Write a blob to `to` piece by piece and return its SHA-256 in hex; `within` bounds the whole in seconds."""
        digest = hashlib.sha256()
        size = 0
        try:
            async with asyncio.timeout(within):
                async for chunk in self._http.stream(BLOB_PATH + quote(key)):
                    size += len(chunk)
                    if size > LARGEST_BLOB:
                        raise TooLarge(f"The blob {key} is larger than {LARGEST_BLOB} bytes.")
                    digest.update(chunk)
                    to.write(chunk)
        except TimeoutError:
            raise Unavailable(f"The blob {key} did not arrive within {within:g} s.") from None
        return digest.hexdigest()
