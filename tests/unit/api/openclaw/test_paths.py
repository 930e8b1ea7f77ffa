"""Paths, methods and values that nobody should send."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from task_plane import TaskPlane


@pytest.mark.parametrize("path", ["/tasks/stats", "/TASKS/STATS", "/tasks/stats/", "/Tasks/Stats/"])
async def test_case_and_a_slash_at_the_end_do_not_matter(plane: TaskPlane, path: str) -> None:
    assert "queue" in (await plane.client().get(path)).json


async def test_ids_keep_their_case(plane: TaskPlane) -> None:
    client = plane.client()
    await client.post("/worker/result", {"taskId": "MiXeD-Case_1", "stdout": "x", "exitCode": 0})
    assert (await client.get("/Tasks/mixed-case_1")).status == 404
    assert (await client.get("/Tasks/MiXeD-Case_1/")).json["taskId"] == "MiXeD-Case_1"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/worker"),
        ("GET", "/worker/nope"),
        ("DELETE", "/tasks"),
        ("PUT", "/claude"),
        ("GET", "/claude"),
        ("POST", "/tasks/abc"),
        ("GET", "/files"),
        ("PATCH", "/events"),
        ("GET", "/tasks/a/b"),
        ("GET", "/tasks//"),
        ("POST", "/tasks//cancel"),
        ("HEAD", "/tasks/a/b"),
        ("DELETE", "/health"),
    ],
)
async def test_unknown_paths_and_methods_are_404_in_json_without_a_token(
    plane: TaskPlane, method: str, path: str
) -> None:
    answer = await plane.client(None).ask(method, path)
    assert answer.status == 404
    assert method == "HEAD" or list(answer.json) == ["error"]
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["/tasks/%", "/tasks/%zz", "/tasks/%e", "/worker/%2"])
async def test_malformed_escapes_are_400(plane: TaskPlane, path: str) -> None:
    answer = await plane.client().get(path)
    assert (answer.status, list(answer.json)) == (400, ["error"])


@pytest.mark.parametrize(
    "id_", ["a%2Fb", "..%2f..%2fetc", "a.b", "a%20b", "%F0%9F%98%80", "%ff", "a" * 201, "99.0", "%00"]
)
async def test_what_is_no_id_of_a_task_is_not_found(plane: TaskPlane, id_: str) -> None:
    answer = await plane.client().get(f"/tasks/{id_}?wait=60000")
    assert (answer.status, answer.json) == (404, {"error": "Task not found"})


async def test_an_unknown_id_is_not_found_at_once(plane: TaskPlane) -> None:
    client = plane.client()
    await client.get("/health")
    async with asyncio.timeout(30):  # the wait is a minute
        assert (await client.get("/tasks/unknown?wait=60000")).status == 404


async def test_head_has_no_side_effects(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "true"})).json["taskId"]
    assert (await client.ask("HEAD", "/worker/poll?wait=60000")).status == 200
    assert (await client.ask("HEAD", f"/tasks/{task}")).status == 200
    assert (await client.get("/tasks/stats")).json["queue"]["byStatus"] == {"pending": 1}
    assert (await client.get("/worker/poll")).json["id"] == task
    await client.post("/worker/result", {"taskId": task, "stdout": "x", "exitCode": 0})
    head = await client.ask("HEAD", f"/tasks/{task}?wait=1")
    result = await client.get(f"/tasks/{task}")
    assert head.headers["content-length"] == str(len(result.raw))
    assert result.json["stdout"] == "x"
    assert (await client.ask("HEAD", f"/tasks/{task}")).status == 404
    assert (await client.ask("HEAD", "/events/stream")).status == 200
    assert (await client.ask("HEAD", "/tasks/unknown")).status == 404


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/tasks", "POST, GET, HEAD"),
        ("/Worker/Poll/", "GET, HEAD"),
        ("/tasks/some-id", "GET, HEAD"),
        ("/tasks/some-id/cancel", "POST"),
        ("/tasks/stats", "GET, HEAD"),
    ],
)
async def test_options_tells_the_methods_and_nothing_of_cors(plane: TaskPlane, path: str, allow: str) -> None:
    preflight = {"Origin": "https://x.example", "Access-Control-Request-Method": "POST"}
    answer = await plane.client(None).ask("OPTIONS", path, headers=preflight)
    assert (answer.status, answer.headers["allow"], answer.raw) == (200, allow, b"")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (await plane.client(None).ask("OPTIONS", "/worker/nope")).status == 404


async def test_requests_to_sandboxes_pass_by(plane: TaskPlane) -> None:
    client = plane.client()
    sandbox = {"E2b-Sandbox-Id": "01JZZZZZZZZZZZZZZZZZZZZZZZ", "E2b-Sandbox-Port": "49983"}
    assert (await client.get("/health", headers=sandbox)).json["error"] == "not_found"
    host = {"Host": "49983-01JZZZZZZZZZZZZZZZZZZZZZZZ.example.com"}
    assert (await client.get("/health", headers=host)).json["error"] == "not_found"
    assert (await client.get("/elsewhere")).json["error"] == "not_found"


async def test_chunked_bodies_are_read(plane: TaskPlane) -> None:
    pieces = b'7\r\n{"comma\r\nD\r\nnd":"echo x"}\r\n0\r\n\r\n'
    answer = await plane.client().post("/tasks", raw=pieces, headers={"Transfer-Encoding": "chunked"})
    assert answer.json["message"] == "Task created, waiting for reconciler"


@pytest.mark.parametrize(
    ("path", "error"),
    [("/tasks", "command is required"), ("/files/write", "path and content are required")]
    + [("/files/read", "path is required"), ("/files/edit", "path, old_string, new_string are required")]
    + [(f"/{cli}", "prompt is required") for cli in ("claude", "codex", "gemini")]
    + [("/notify", "channel and message are required"), ("/worker/result", "taskId is required")]
    + [("/worker/event", "type is required"), ("/worker/heartbeat", "runnerId is required")],
)
@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"", b'{"command":5,"path":5,"prompt":{},"channel":9,"message":"m","taskId":null,"type":1}']
)
async def test_missing_fields_are_named(plane: TaskPlane, path: str, error: str, body: bytes) -> None:
    answer = await plane.client().post(path, raw=body)
    assert (answer.status, answer.json) == (400, {"error": error})


async def test_a_connection_lives_on_after_a_bad_body_and_not_after_one_that_nobody_wanted(plane: TaskPlane) -> None:
    client = plane.client()
    bad = await client.post("/tasks", raw=b"3\r\n{a}\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked"})
    assert (bad.status, "connection" in bad.headers) == (400, False)
    small = await client.post("/tasks", raw=b"x" * 1000, headers={"Content-Type": "text/plain"})
    assert (small.status, "connection" in small.headers) == (400, False)
    assert (await client.get("/tasks/stats")).status == 200
    large = await client.post("/tasks", raw=b"x" * 1_000_000, headers={"Content-Type": "text/plain"})
    assert (large.status, large.headers["connection"]) == (400, "close")


async def test_another_media_type_counts_as_an_empty_body(plane: TaskPlane) -> None:
    answer = await plane.client().post("/tasks", {"command": "x"}, headers={"Content-Type": "text/plain"})
    assert (answer.status, answer.json) == (400, {"error": "command is required"})


@pytest.mark.parametrize("path", ["/worker/result", "/worker/event"])
@pytest.mark.parametrize("task", [1, 99.0, True, False, {}, [], ["a"], {"a": 1}])
async def test_an_id_that_is_no_text_is_400(plane: TaskPlane, path: str, task: Any) -> None:
    answer = await plane.client().post(path, {"taskId": task, "type": "x", "exitCode": 0})
    assert answer.status == 400
    assert answer.json["error"] == "taskId is required"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "5"),
        ("priority", 101),
        ("delay", -1),
        ("env", []),
        ("env", {"A=B": "x"}),
        ("env", {"A": 1}),
        ("env", {"A": "\x00"}),
        ("cwd", 5),
        ("cwd", " "),
        ("labels", ["x"]),
        ("labels", {"a b": "c"}),
        ("onLoss", "maybe"),
        ("target", 5),
        ("target", {"runner": "a@b"}),
        ("target", {"labels": {"a": "b,c=d"}}),
        ("target", {"x": "y"}),
        ("target", {"runner": "a", "labels": {"b": "c"}}),
        ("approval", "maybe"),
        ("callbackUrl", "ftp://x/"),
        ("callbackUrl", "https://user:pw@x/"),
        ("callbackUrl", "https:///x"),
        ("approval", "tools"),
    ],
)
async def test_bad_additive_fields_are_named(plane: TaskPlane, field: str, value: Any) -> None:
    answer = await plane.client().post("/tasks", {"command": "x", field: value})
    assert answer.status == 400
    assert answer.json["error"].startswith(field)
    assert (await plane.client().post("/tasks", {"command": "x", field: None})).status == 200


async def test_lone_surrogates_come_back_as_they_were_sent(plane: TaskPlane) -> None:
    client = plane.client()
    odd = r"\ud83d"
    body = f'{{"prompt":"a{odd}","sessionId":"s{odd}","callbackChannel":"c{odd}","origin":"o{odd}"}}'.encode()
    task = (await client.post("/claude", raw=body)).json["taskId"]
    given = (await client.get("/worker/poll")).json
    assert (given["id"], given["prompt"]) == (task, "a\ud83d")
    report = f'{{"taskId":"{task}","stdout":"out{odd}","exitCode":0,"metadata":{{"sessionId":"p{odd}"}}}}'.encode()
    assert (await client.post("/worker/result", raw=report)).json == {"success": True}
    event = (
        f'{{"taskId":"x{odd}","type":"t{odd}","details":{{"a{odd}":"{odd}"}},"metadata":{{"origin":"{odd}",'
        f'"sessionId":"{odd}"}}}}'
    ).encode()
    assert (await client.post("/worker/event", raw=event)).json["event"]["details"] == {"a\ud83d": "\ud83d"}
    assert (await client.post("/worker/result", raw=f'{{"taskId":"late{odd}","exitCode":0}}'.encode())).status == 200
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "out\ud83d"
    assert json.loads((await client.get("/events")).raw)
    beat = f'{{"runnerId":"mac","name":"m","tasks":[{{"taskId":"{odd}","claim":1}}]}}'.encode()
    assert (await client.post("/worker/heartbeat", raw=beat)).status == 200
    write = f'{{"path":"/tmp/{odd}","content":{{"{odd}":["{odd}"]}}}}'.encode()
    await client.post("/files/write", raw=write)
    assert (await client.get("/worker/poll")).json["content"] == {"\ud83d": ["\ud83d"]}
