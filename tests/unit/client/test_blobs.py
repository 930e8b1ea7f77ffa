"""A runner fetches blobs with its token, in bounded size and time."""

from __future__ import annotations

import asyncio
import hashlib
import io

import pytest

from clawplane.client import blobs
from clawplane.client.blobs import BlobClient
from clawplane.domain.errors import InvalidToken, NotFound, TooLarge, Unavailable

TOKEN = "runner-token-of-the-tests"


@pytest.fixture
async def client(server):
    made = BlobClient(server.url, TOKEN)
    yield made
    await made.close()


async def test_a_blob_arrives_with_its_hash(client, plane) -> None:
    key, digest = plane.put_blob(b"x" * 1_000_000)
    arrived = io.BytesIO()
    assert await client.download(key, arrived, within=10) == digest
    assert hashlib.sha256(arrived.getvalue()).hexdigest() == digest


async def test_a_blob_that_is_not_there_is_not_found(client) -> None:
    with pytest.raises(NotFound):
        await client.download("packages/none", io.BytesIO(), within=10)


async def test_another_token_gets_nothing(server, plane) -> None:
    key, _ = plane.put_blob(b"x")
    client = BlobClient(server.url, "wrong")
    with pytest.raises(InvalidToken):
        await client.download(key, io.BytesIO(), within=10)
    await client.close()


async def test_a_download_that_takes_too_long_is_given_up(client, plane) -> None:
    key, _ = plane.put_blob(b"x")
    gate = asyncio.Event()
    plane.before_download = gate.wait
    with pytest.raises(Unavailable, match="did not arrive within"):
        await client.download(key, io.BytesIO(), within=0.05)
    gate.set()


async def test_a_blob_beyond_the_limit_is_not_written(client, plane, monkeypatch) -> None:
    monkeypatch.setattr(blobs, "LARGEST_BLOB", 100)
    key, _ = plane.put_blob(b"x" * 200)
    arrived = io.BytesIO()
    with pytest.raises(TooLarge):
        await client.download(key, arrived, within=10)
    assert arrived.getvalue() == b""
