"""Uploading versions as publishing clients do, and forms that are none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from plane import Plane, ScriptedRunner, package, plane

from clawplane.domain.access import Scope

V2 = "/api/v2"
VERSIONS = f"{V2}/workers/owner~demo-worker/versions"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path) as opened:
        yield opened


@pytest.fixture
async def runner(here: Plane) -> ScriptedRunner:
    connected = here.runner()
    await connected.connect()
    await here.worker(connected)
    return connected


@pytest.fixture
async def client(here: Plane, runner: ScriptedRunner) -> AsyncIterator[httpx.AsyncClient]:
    async with here.client() as opened:
        yield opened


def form(content: bytes, **fields: Any) -> dict[str, Any]:
    return {"data": fields, "files": {"scraper_file": ("worker.zip", content, "application/zip")}}


async def publish(client: httpx.AsyncClient, method: str, path: str, content: bytes, **fields: Any) -> dict[str, Any]:
    answer = await client.request(method, path, **form(content, **fields))
    return {"status": answer.status_code, **answer.json()}


async def test_a_version_is_uploaded_as_publishing_clients_do(
    client: httpx.AsyncClient, runner: ScriptedRunner
) -> None:
    fields = {"title": "Google Maps Scraper", "description": "…", "categories": "56", "icon": "https://oss.test/x.png"}
    answer = await publish(client, "POST", VERSIONS, package(main="a = 1\n"), **fields)
    assert (answer["status"], answer["code"], answer["message"]) == (200, 0, "success")
    assert "data" not in answer
    await runner.build()
    data = (await client.get(f"{V2}/workers/owner~demo-worker/internal")).json()["data"]
    assert (data["title"], data["categories"], data["version"]) == ("Google Maps Scraper", [56], "v1.0.2")
    same = await publish(client, "PUT", f"{VERSIONS}/v1.0.2", package(main="a = 1\n"), **fields)
    assert (same["status"], same["code"], same["message"]) == (400, 11000, "Script package is unchanged")


async def test_uploads_that_make_no_sense(client: httpx.AsyncClient, here: Plane) -> None:
    assert (await publish(client, "POST", f"{V2}/workers/nobody/versions", package()))["code"] == 11004
    broken = await publish(client, "POST", VERSIONS, b"no zip")
    assert (broken["status"], broken["code"]) == (400, 11000)
    assert any("package_not_a_zip" in detail for detail in broken["details"])
    bad = await publish(client, "POST", VERSIONS, package(), categories="fifty")
    assert (bad["status"], bad["code"]) == (422, 11000)
    endless = await publish(client, "POST", VERSIONS, package(), categories="9" * 5000)
    assert (endless["status"], endless["code"]) == (422, 11000)
    assert (await publish(client, "PUT", f"{VERSIONS}/latest", package(main="a=1\n")))["code"] == 11000
    async with here.client(await here.key(Scope.WORKERS, owner="stranger")) as stranger:
        answer = await stranger.post(VERSIONS, **form(package()))
        assert (answer.status_code, answer.json()["code"]) == (404, 11004)


@pytest.mark.parametrize("categories", [["1", "2"], ["1,2"], ["[1, 2]"]])
async def test_categories_come_in_the_forms_that_clients_use(
    client: httpx.AsyncClient, here: Plane, categories: list[str]
) -> None:
    await publish(client, "POST", VERSIONS, package(main="a = 1\n"), categories=categories)
    assert (await here.flows.packages.find("owner~demo-worker")).categories == (1, 2)


@pytest.mark.parametrize(
    ("media", "content"),
    [
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb"),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: " + b"y" * 100_000 + b"\r\n\r\n\r\n--x--\r\n"),
        ("text/plain", b"x"),
        ("application/json", b"{}"),
    ],
)
async def test_forms_that_are_none(client: httpx.AsyncClient, here: Plane, media: str, content: bytes) -> None:
    answer = await client.post(VERSIONS, content=content, headers={"Content-Type": media})
    assert (answer.status_code, answer.json()["code"]) == (422, 11000)
    assert list((here.directory / "spool").iterdir()) == []


async def test_a_form_field_without_end_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(VERSIONS, **form(b"PK", title="x" * 100_000))
    assert (answer.status_code, answer.json()["code"]) == (413, 11000)
