"""The onion: request ids, bodies without end, what no route takes, CORS, the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from listening import Server
from plane import ADMIN, Plane, plane

from clawplane.api.calls import HttpLimits

SMALL = HttpLimits(body=10_000, body_seconds=0.3, upload=50_000, upload_seconds=0.5)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path) as opened:
        yield opened


class AccessLog(logging.Handler):
    """Wait for a line of the access log."""

    def __init__(self, needle: str) -> None:
        super().__init__()
        self._needle = needle
        self._seen = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._needle in record.getMessage():
            self._seen.set()

    async def __aenter__(self) -> AccessLog:
        logging.getLogger("clawplane.access").addHandler(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(30):
                await self._seen.wait()
        finally:
            logging.getLogger("clawplane.access").removeHandler(self)


@asynccontextmanager
async def served(here: Plane) -> AsyncIterator[tuple[str, int]]:
    """Yield host and port of the app on a real server."""
    config = uvicorn.Config(here.app, port=0, log_config=None, access_log=False, lifespan="off")
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    await server.listens.wait()
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    await serving


async def talk(address: tuple[str, int], request: bytes, *, until_closed: bool = True) -> bytes:
    """Send bytes and return what comes until the other side closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    await writer.drain()
    async with asyncio.timeout(5):
        answer = await reader.read() if until_closed else await reader.read(65536)
    writer.close()
    return answer


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"api-key: {ADMIN}", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, 11004),
        ("GET", "/api/v2/nonsense", 404, 11004),
        ("GET", "/api/v3/workers", 404, 11004),
        ("GET", "/v1/nonsense", 404, 11004),
        ("POST", "/api/v2/store", 405, 11000),
        ("DELETE", "/api/v2/worker-runs/x", 405, 11000),
        ("OPTIONS", "/api/v2/workers", 405, 11000),
        ("PATCH", "/v1/keys", 405, 11000),
        ("GET", "/api/v2/workers/owner%2Fdemo-worker", 404, 11004),
        ("GET", "/api/v2/workers/x%2finput-schema", 404, 11004),
        ("GET", "/api/v2/workers/..%2f..%2fetc", 404, 11004),
    ],
)
async def test_what_no_route_takes_is_answered_in_the_envelope(
    here: Plane, method: str, path: str, status: int, code: int
) -> None:
    async with here.client() as client:
        answer = await client.request(method, path)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code)
    assert body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert all(isinstance(detail, str) for detail in body["details"])
    if status == 405:
        assert answer.headers["allow"]


async def test_head_answers_like_get_without_a_body(here: Plane) -> None:
    async with served(here) as address:
        answer = await talk(address, b"HEAD /api/v2/proxy/region HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_preflight_allows_what_clients_send(here: Plane) -> None:
    async with here.client(None) as client:
        answer = await client.options(
            "/api/v2/worker-runs",
            headers={"Origin": "https://docs.test", "Access-Control-Request-Method": "GET"},
        )
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == "Authorization, Content-Type, api-key"
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert method in answer.headers["access-control-allow-methods"]


async def test_every_answer_may_be_read_by_any_origin(here: Plane) -> None:
    async with here.client() as client:
        for path in ("/api/v2/workers", "/api/v2/nonsense", "/api/v2/worker-runs/nobody"):
            assert (await client.get(path)).headers["access-control-allow-origin"] == "*"


async def test_a_clients_request_id_is_kept_when_it_is_harmless(here: Plane) -> None:
    async with here.client() as client:
        kept = await client.get("/api/v2/workers", headers={"X-Request-Id": "abc-1"})
        assert kept.json()["request_id"] == "abc-1"
        replaced = await client.get("/api/v2/workers", headers={"X-Request-Id": 'a"; drop'})
        assert replaced.json()["request_id"].startswith("req-")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b"nonsense", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"\xff\xfe", 422),
        (b'{"input":{}', 422),
        (b'{"input":{},"surprise":1}', 422),
        (b'{"input":{},"is_async":"yes"}', 422),
        (b'{"input":{},"limit":0}', 422),
        (b'{"input":{},"limit":101}', 422),
        (b'{"input":{},"offset":-1}', 422),
        (b'{"input":{},"offset":1.5}', 422),
        (b'{"input":{},"version":3}', 422),
        (b'{"input":' + b"[" * 200 + b"]" * 200 + b"}", 422),
        (b"[" * 500_000, 422),
        (b'{"input":{"keyword":"coffee"}}', 400),
        (b'{"input":NaN}', 422),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_with_11000(here: Plane, body: bytes, status: int) -> None:
    runner = here.runner()
    await runner.connect()
    await here.worker(runner)
    async with here.client() as client:
        answer = await client.post("/api/v2/workers/owner~demo-worker/runs", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, 11000)


async def test_a_body_that_announces_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with plane(tmp_path, limits=SMALL) as here, served(here) as address:
        answer = await talk(address, head("/api/v2/workers/x/runs", "Content-Length: 10001"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":11000' in answer
    assert b"connection: close" in answer.lower()


async def test_a_chunked_body_without_end_is_refused_when_it_is_too_large(tmp_path: Path) -> None:
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    async with plane(tmp_path, limits=SMALL) as here, served(here) as address:
        answer = await talk(address, head("/api/v2/workers/x/runs", "Transfer-Encoding: chunked") + chunk * 4)
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_body_that_never_ends_is_refused_when_its_time_is_over(tmp_path: Path) -> None:
    async with plane(tmp_path, limits=SMALL) as here, served(here) as address:
        answer = await talk(address, head("/api/v2/workers/x/runs", "Content-Length: 100") + b'{"input":')
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"did not end within 0.3 s" in answer


async def test_an_upload_that_never_ends_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    async with plane(tmp_path, limits=SMALL) as here, served(here) as address:
        request = head("/v1/workers?name=x", "Content-Type: application/zip", "Content-Length: 40000") + b"PK" * 100
        answer = await talk(address, request)
        assert answer.startswith(b"HTTP/1.1 400")
        assert list((tmp_path / "spool").iterdir()) == []


async def test_an_unread_body_is_never_taken_for_the_next_request(here: Plane) -> None:
    smuggled = b"GET /api/v2/store HTTP/1.1\r\nHost: x\r\n\r\n"
    async with served(here) as address:
        request = b"POST /nonsense HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(smuggled) + 10)
        answer = await talk(address, request + smuggled)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.startswith(b"HTTP/1.1 404")


async def test_a_defect_is_an_envelope_with_its_request_id_and_no_traceback(
    here: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret inner detail")

    monkeypatch.setattr(here.store.workers, "page", broken)
    async with here.client() as client:
        answer = await client.get("/api/v2/workers")
    assert (answer.status_code, answer.json()["code"]) == (500, 10000)
    assert "secret inner detail" not in answer.text
    assert "secret inner detail" in caplog.text
    assert answer.json()["request_id"] in caplog.text


async def test_the_log_shows_requests_without_their_secrets(here: Plane, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clawplane.access")
    async with here.client(None) as client:
        await client.get(f"/api/v2/workers?limit=5&token={ADMIN}&keyword=x")
        await client.get("/v1/downloads/some.token")
    shown = [record.getMessage() for record in caplog.records if record.name == "clawplane.access"]
    assert "GET /api/v2/workers?limit=5&token=(hidden)&keyword=x 200" in shown[0]
    assert "/v1/downloads/(link) 401" in shown[1]
    assert ADMIN not in caplog.text
    assert "some.token" not in caplog.text


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_defect(
    here: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clawplane.access")
    async with served(here) as address:
        _, writer = await asyncio.open_connection(*address)
        async with AccessLog(" 499 "):
            writer.write(head("/api/v2/workers/x/runs", "Content-Length: 100") + b"{")
            await writer.drain()
            writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_client_that_stops_following_leaves_no_listener_behind(
    here: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clawplane.access")
    runner = here.runner()
    await runner.connect()
    await here.worker(runner)
    async with served(here) as address, here.client() as client:
        body = {"input": {"parameters": {"custom": {"keywords": ["a"]}}}}
        run = (await client.post("/api/v2/workers/owner~demo-worker/runs", json=body)).json()["data"]["run_slug"]
        await runner.ship(await runner.take(), 1, logs=["first"])
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head(f"/v1/runs/{run}/log?follow=1").replace(b"POST", b"GET"))
        async with asyncio.timeout(30):
            await reader.readuntil(b"first")
        assert here.store.wakeups._channels[f"log:{run}"]
        async with AccessLog(f"/v1/runs/{run}/log"):
            writer.close()
        assert not here.store.wakeups._channels[f"log:{run}"]


async def test_metrics_count_requests_and_show_the_queue(here: Plane) -> None:
    async with here.client() as client:
        await client.get("/api/v2/workers")
        await client.get("/nonsense")
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'clawplane_http_requests_total{operation="listWorkers",status="200"} 1.0' in answer.text
    assert 'clawplane_http_requests_total{operation="none",status="404"} 1.0' in answer.text
    assert "clawplane_runners_connected 0.0" in answer.text


async def test_two_apps_in_one_process_do_not_share_their_metrics(here: Plane, tmp_path: Path) -> None:
    async with plane(tmp_path / "other") as other, other.client() as client:
        async with here.client() as busy:
            await busy.get("/api/v2/workers")
        assert 'operation="listWorkers"' not in (await client.get("/metrics")).text


async def test_health_is_503_with_the_reason_until_a_runner_is_ready(here: Plane) -> None:
    async with here.client(None) as client:
        before = await client.get("/healthz")
        assert before.status_code == 503
        assert "No runner is connected" in before.json()["reason"]
        await here.runner().connect()
        after = await client.get("/healthz")
    assert (after.status_code, after.json()) == (200, {"ready": True, "reason": "", "sessions": ""})
