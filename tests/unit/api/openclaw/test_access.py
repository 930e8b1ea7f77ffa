"""Who may ask what: auth comes first, roles, limits, and errors that tell nothing of the inside."""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path

import pytest
from task_plane import CLIENT, RUNNER, TOKEN, TaskPlane, task_plane

from clawplane.api.openclaw.limits import RateLimit
from clawplane.api.openclaw.routes import lines
from clawplane.api.openclaw.visits import TaskApiOptions
from clawplane.domain.clock import ManualClock
from clawplane.flows import access as access_flow

PATHS = [(line.method, line.path.replace("{}", "some-id")) for line in lines() if line.scope is not None]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_every_path_but_health_needs_a_token(plane: TaskPlane, method: str, path: str) -> None:
    client = plane.client(None)
    for told in (None, "wrong-token", ""):
        answer = await client.ask(method, path, raw=b"{not json", token=None if told is None else told or " ")
        assert (answer.status, answer.raw) == (401, b'{"error":"Unauthorized"}')


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bEARER {TOKEN}", 200),
        (f"Bearer    {TOKEN}  ", 200),
        (TOKEN, 401),
        ("Bearer", 401),
        (f"Bearer{TOKEN}", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN.upper()}", 401),
    ],
)
async def test_the_word_bearer_is_read_in_any_case_and_the_token_exactly(
    plane: TaskPlane, value: str, status: int
) -> None:
    assert (await plane.client(None).get("/tasks/stats", headers={"Authorization": value})).status == status


async def test_tokens_elsewhere_than_in_the_authorization_header_do_not_count(plane: TaskPlane) -> None:
    client = plane.client(None)
    assert (await client.get(f"/tasks/stats?token={TOKEN}")).status == 401
    assert (await client.get("/tasks/stats", headers={"api-key": TOKEN})).status == 401


async def test_health_is_open_and_tells_paths_to_holders_of_a_token_only(plane: TaskPlane) -> None:
    stranger = (await plane.client(None).get("/health", token="wrong")).json
    assert stranger["status"] == "ok"
    assert stranger["taskDb"]["path"] == stranger["eventDb"]["path"] == "clawplane.db"
    assert (await plane.client().get("/health")).json["taskDb"]["path"] == str(plane.house.options.database)


async def test_a_large_body_without_a_token_is_refused_without_being_read(plane: TaskPlane) -> None:
    client = plane.client(None)
    _, writer = await client.open()
    writer.write(
        b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n"
    )
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (401, "close")


async def test_a_client_that_sends_all_of_a_refused_body_still_reads_why(plane: TaskPlane) -> None:
    big = b'{"command":"' + b"x" * (6 << 20) + b'"}'
    client = plane.client()
    _, writer = await client.open()
    head = b"POST /tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
    writer.write(head % TOKEN.encode() + b"Content-Length: %d\r\n\r\n" % len(big) + big)
    await writer.drain()
    answer = await client.answer()
    assert (answer.status, answer.json) == (413, {"error": "The request body is larger than 5 MiB"})
    chunked = plane.client()
    _, writer = await chunked.open()
    pieces = b"".join(b"10000\r\n" + big[at : at + 65536] + b"\r\n" for at in range(0, 6 << 20, 65536))
    writer.write(head % TOKEN.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
    await writer.drain()
    assert (await chunked.answer()).status == 413


@pytest.mark.parametrize("line", lines(), ids=lambda line: line.name)
async def test_clients_and_runners_have_their_own_paths(plane: TaskPlane, line: object) -> None:
    method, path = line.method, line.path.replace("{}", "some-id")  # type: ignore[attr-defined]
    if path in ("/events/stream", "/health"):
        return
    of_runner = path.startswith("/worker/")
    query = "?wait=1000" if path == "/worker/poll" else ""
    as_client = (await plane.client(CLIENT).ask(method, path + query, {})).status
    as_runner = (await plane.client(RUNNER).ask(method, path + query, {})).status
    assert (as_client == 403) == of_runner
    assert (as_runner == 403) == (not of_runner)


async def test_a_revoked_token_is_refused_and_its_successor_is_not(plane: TaskPlane) -> None:
    access = plane.house.access
    key, old = await access.create(name="old", scopes=(await access.authenticate(TOKEN)).scopes)
    _, new = await access.create(name="new", scopes=key.scopes)
    assert (await plane.client(old).get("/tasks/stats")).status == 200
    assert (await plane.client(new).get("/tasks/stats")).status == 200
    await access.revoke(key.id)
    assert (await plane.client(old).get("/tasks/stats")).status == 401
    assert (await plane.client(new).get("/tasks/stats")).status == 200


def test_keys_are_compared_in_constant_time() -> None:
    tree = ast.parse(inspect.getsource(access_flow))
    calls = [
        node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert "compare_digest" in {call.attr for call in calls}


async def test_beyond_the_rate_requests_are_refused_but_polls_and_reports_never(tmp_path: Path) -> None:
    clock = ManualClock()
    options = TaskApiOptions(requests_per_second=1.0, burst=3)
    async with task_plane(tmp_path, clock=clock, options=options) as plane:
        client = plane.client()
        assert [(await client.get("/tasks/stats")).status for _ in range(4)] == [200, 200, 200, 429]
        assert (await client.get("/tasks/stats")).json["error"].startswith("Too many requests")
        assert (await client.post("/tasks", {"command": "x"})).status == 429
        for _ in range(5):
            await client.send("GET", "/worker/poll?wait=60000")
            await plane.until_parked(1)
            await client.close()
            await plane.until_parked(0)
        assert (await client.post("/worker/result", {"taskId": "late", "exitCode": 0})).status == 200
        stranger = plane.client("wrong-token")
        assert [(await stranger.get("/tasks/stats")).status for _ in range(4)] == [401, 401, 401, 429]
        clock.advance(1.0)
        assert (await client.get("/tasks/stats")).status == 200


def test_without_a_rate_everything_passes() -> None:
    limit = RateLimit(ManualClock(), burst=1)
    assert [limit.wait("a") for _ in range(100)] == [0.0] * 100


async def test_a_failure_inside_says_nothing_of_the_inside(plane: TaskPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(plane.house.host, "counts", fail)
    answer = await plane.client().get("/tasks/stats")
    assert (answer.status, answer.raw) == (500, b'{"error":"Internal server error"}')
    assert (await plane.client().get("/sessions/stats")).status == 200


async def test_a_poll_is_answered_with_null_whatever_fails(plane: TaskPlane) -> None:
    assert (await plane.client().get("/worker/poll?wait=1")).raw == b"null"
    await plane.store.close()
    async with asyncio.timeout(20):
        for query in ("?wait=1000", "?wait=1000&runnerId=mac", "?runnerId=%20b%C3%BCro%2F", "?capabilities=juggling"):
            answer = await plane.client().get(f"/worker/poll{query}")
            assert (answer.status, answer.raw) == (200, b"null")
