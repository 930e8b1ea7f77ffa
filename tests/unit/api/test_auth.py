"""Who may come in, in each of the three modes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from plane import ADMIN, RUNNER, Plane, plane

from clawplane.domain.access import Scope


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path) as opened:
        yield opened


PUBLIC = ["/api/v2/proxy/region", "/api/v2/store", "/healthz", "/openapi.json"]
CLOSED = [
    ("GET", "/api/v2/users/account"),
    ("GET", "/api/v2/workers"),
    ("GET", "/api/v2/workers/x"),
    ("POST", "/api/v2/workers/x/runs"),
    ("POST", "/api/v2/workers/x/versions"),
    ("PUT", "/api/v2/workers/x/versions/v1.0.1"),
    ("GET", "/api/v2/worker-runs"),
    ("GET", "/api/v2/worker-runs/last"),
    ("GET", "/api/v2/worker-tasks"),
    ("GET", "/api/v2/run-queue/items"),
    ("POST", "/v1/workers"),
    ("GET", "/v1/keys"),
    ("GET", "/v1/events"),
    ("GET", "/v1/runners"),
    ("GET", "/v1/runs/last/log"),
    ("GET", "/v1/runner/blobs/packages/x"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize("mode", ["bearer", "lower-case bearer", "api-key", "query", "n8n"])
async def test_each_mode_suffices(here: Plane, mode: str) -> None:
    headers, query = {
        "bearer": ({"Authorization": f"Bearer {ADMIN}"}, ""),
        "lower-case bearer": ({"authorization": f"bearer  {ADMIN}"}, ""),
        "api-key": ({"api-key": ADMIN}, ""),
        "query": ({}, f"?token={ADMIN}"),
        "n8n": ({"api-key": ADMIN, "Authorization": f"Bearer {ADMIN}"}, ""),
    }[mode]
    async with here.client(None) as client:
        answer = await client.get(f"/api/v2/users/account{query}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (200, 0)


async def test_one_valid_key_among_several_suffices(here: Plane) -> None:
    async with here.client(None) as client:
        headers = {"Authorization": "Bearer nonsense", "api-key": ADMIN}
        assert (await client.get("/api/v2/workers", headers=headers)).status_code == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_without_a_key_everything_else_is_401_with_12001(here: Plane, method: str, path: str) -> None:
    async with here.client(None) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (401, 12001)
    assert answer.json()["message"]


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_with_an_unknown_key_it_is_401_with_12002(here: Plane, method: str, path: str) -> None:
    async with here.client("scraper_api_nobody") as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (401, 12002)


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "nonsense"])
async def test_a_header_that_holds_no_token_is_malformed_rather_than_missing(here: Plane, header: str) -> None:
    async with here.client(None) as client:
        answer = await client.get("/api/v2/workers", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, 12002)


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_operations_ignore_credentials_of_any_kind(here: Plane, path: str) -> None:
    async with here.client("nonsense") as client:
        answer = await client.get(path, params={"token": "nonsense"}, headers={"api-key": "nonsense"})
    assert answer.status_code in (200, 503)


async def test_a_reader_may_look_and_not_touch(here: Plane) -> None:
    async with here.client(await here.key(Scope.READ)) as client:
        assert (await client.get("/api/v2/workers")).status_code == 200
        refused = await client.post("/api/v2/workers/x/runs", json={})
        assert (refused.status_code, refused.json()["code"]) == (403, 12002)
        assert any("workers" in detail for detail in refused.json()["details"])
        assert (await client.get("/v1/keys")).status_code == 403


async def test_a_runners_token_opens_nothing_but_blobs(here: Plane) -> None:
    async with here.client(RUNNER) as client:
        assert (await client.get("/api/v2/workers")).status_code == 403
        assert (await client.get("/v1/runner/blobs/packages/x")).status_code == 404


async def test_not_even_an_admin_reads_blobs_as_a_runner(here: Plane) -> None:
    async with here.client() as client:
        assert (await client.get("/v1/runner/blobs/packages/x")).status_code == 403


async def test_keys_are_created_listed_and_revoked(here: Plane) -> None:
    async with here.client() as client:
        created = await client.post("/v1/keys", json={"name": "ci", "scopes": ["workers"]})
        assert created.status_code == 201
        secret, key_id = created.json()["data"]["key"], created.json()["data"]["id"]
        listed = (await client.get("/v1/keys")).json()["data"]["list"]
        assert next(key for key in listed if key["id"] == key_id)["scopes"] == ["workers"]
        assert secret not in str(listed)
        async with here.client(secret) as other:
            assert (await other.get("/api/v2/workers")).status_code == 200
            assert (await client.delete(f"/v1/keys/{key_id}")).json()["code"] == 0
            refused = await other.get("/api/v2/workers")
            assert (refused.status_code, refused.json()["code"]) == (401, 12002)
        assert (await client.delete("/v1/keys/nobody")).status_code == 404


@pytest.mark.parametrize("body", [{"name": "x"}, {"name": "x", "scopes": ["god"]}, {"name": "", "scopes": ["read"]}])
async def test_a_key_that_makes_no_sense_is_refused(here: Plane, body: dict[str, object]) -> None:
    async with here.client() as client:
        assert (await client.post("/v1/keys", json=body)).status_code in (400, 422)
