"""Our own API: pushing, builds, log streams, custody, runners, events, files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from plane import RUNNER, Plane, ScriptedRunner, package, plane

from clawplane.domain.access import Scope
from clawplane.domain.clock import ManualClock

INPUT = {"parameters": {"custom": {"keywords": ["a"]}}}


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path) as opened:
        yield opened


async def ready(here: Plane) -> ScriptedRunner:
    runner = here.runner()
    await runner.connect()
    await here.worker(runner)
    return runner


async def start(here: Plane) -> str:
    async with here.client() as client:
        answer = await client.post("/api/v2/workers/owner~demo-worker/runs", json={"input": INPUT})
    return str(answer.json()["data"]["run_slug"])


async def lines(here: Plane, path: str, **headers: str) -> list[str]:
    async with here.client() as client:
        return (await client.get(path, headers=headers)).text.splitlines()


async def test_a_push_creates_the_worker_and_later_ones_add_versions(here: Plane) -> None:
    async with here.client() as client:
        first = await client.post(
            "/v1/workers", data={"name": "demo"}, files={"scraper_file": ("w.zip", package(), "application/zip")}
        )
        assert first.status_code == 201
        body = first.json()["data"]
        assert (body["path"], body["version"], body["status"]) == ("owner~demo", "v1.0.1", "building")
        assert all({"code", "severity", "message"} <= set(item) for item in body["diagnostics"])
        again = await client.post("/v1/workers", data={"name": "demo"}, files={"f": ("w.zip", package())})
        assert (again.status_code, again.json()["data"]["unchanged"]) == (200, True)
        bare = await client.post(
            "/v1/workers?name=demo&version=v3.0.0",
            content=package(main="a = 1\n"),
            headers={"Content-Type": "application/zip"},
        )
        assert bare.json()["data"]["version"] == "v3.0.0"
        shown = (await client.get("/v1/workers/owner~demo")).json()["data"]
        assert [version["version"] for version in shown["versions"]] == ["v3.0.0", "v1.0.1"]
        listed = (await client.get("/v1/workers/owner~demo/versions")).json()["data"]["list"]
        assert listed == shown["versions"]
        diagnostics = (await client.get("/v1/workers/owner~demo/versions/v1.0.1/diagnostics")).json()["data"]["list"]
        assert diagnostics == body["diagnostics"]


async def test_a_worker_can_be_created_without_a_package_and_removed(here: Plane) -> None:
    async with here.client() as client:
        created = await client.post("/v1/workers", json={"title": "Maps", "categories": [56]})
        assert created.json()["data"]["path"] == "owner~maps"
        assert (await client.post("/v1/workers", json={"title": "Maps"})).status_code == 409
        assert (await client.get("/api/v2/workers/owner~maps")).json()["data"]["version"] == ""
        assert (await client.get("/api/v2/workers/owner~maps/input-schema")).status_code == 404
        refused = await client.post("/api/v2/workers/owner~maps/runs", json={"input": INPUT})
        assert (refused.status_code, refused.json()["code"]) == (400, 50003)
        assert (await client.delete("/v1/workers/owner~maps")).json()["code"] == 0
        assert (await client.get("/v1/workers/owner~maps")).status_code == 404


async def test_a_builds_end_is_waited_for_and_its_log_followed(here: Plane) -> None:
    runner = here.runner()
    await runner.connect()
    async with here.client() as client:
        await client.post("/v1/workers", data={"name": "demo"}, files={"f": ("w.zip", package())})
        waiting = asyncio.create_task(client.get("/v1/workers/owner~demo/versions/v1.0.1?wait=30"))
        following = asyncio.create_task(lines(here, "/v1/workers/owner~demo/versions/v1.0.1/log?follow=true"))
        await runner.build()
        async with asyncio.timeout(20):
            version = (await waiting).json()["data"]
            log = [json.loads(line) for line in await following if line]
    assert (version["status"], version["fingerprint"]) == ("ready", "f" * 64)
    assert [entry["content"] for entry in log] == ["Resolved 1 package"]


async def test_a_failed_build_keeps_the_installers_words(here: Plane) -> None:
    runner = here.runner()
    await runner.connect()
    async with here.client() as client:
        await client.post("/v1/workers", data={"name": "demo"}, files={"f": ("w.zip", package())})
        offer = await runner.take()
        await runner.end(offer, succeeded=False, message="No solution found for nonsense==9")
        version = (await client.get("/v1/workers/owner~demo/versions/v1.0.1")).json()["data"]
    assert (version["status"], version["build_error"]) == ("failed", "No solution found for nonsense==9")


async def test_a_log_is_followed_to_its_end_as_ndjson(here: Plane) -> None:
    runner = await ready(here)
    run = await start(here)
    following = asyncio.create_task(lines(here, f"/v1/runs/{run}/log?follow=true"))
    offer = await runner.run()
    async with asyncio.timeout(30):
        entries = [json.loads(line) for line in await following if line]
    assert entries[0]["content"] == f"SYSTEM: Subtask-[{offer.job}] - Running..."
    assert entries[0]["group"] == str(offer.job)
    assert entries[-1]["content"].startswith("SYSTEM: Run succeeded")
    assert [entry["seq"] for entry in entries] == sorted(entry["seq"] for entry in entries)
    rest = await lines(here, f"/v1/runs/last/log?after={entries[0]['seq']}")
    assert [json.loads(line) for line in rest] == entries[1:]


async def test_a_log_is_server_sent_events_for_who_accepts_them(here: Plane) -> None:
    runner = await ready(here)
    run = await start(here)
    await runner.run()
    events = await lines(here, f"/v1/runs/{run}/log", Accept="text/event-stream")
    assert events[0].startswith("id: ")
    assert json.loads(events[1].removeprefix("data: "))["group"]
    assert "event: end" in events
    resumed = await lines(here, f"/v1/runs/{run}/log", **{"Accept": "text/event-stream", "Last-Event-ID": "999999"})
    assert resumed[0] == "event: end"


async def test_asking_for_a_streams_head_does_not_follow_it(here: Plane) -> None:
    await ready(here)
    run = await start(here)
    async with here.client() as client, asyncio.timeout(30):
        answer = await client.head(f"/v1/runs/{run}/log?follow=true")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")


async def test_subtasks_show_who_had_them_and_how_that_ended(here: Plane) -> None:
    runner = await ready(here)
    run = await start(here)
    offer = await runner.take()
    await runner.end(offer, succeeded=False, reason="setup", message="no room")
    await runner.run(succeeded=False, reason="memory", exit_code=None, signal=9, message="It used 600 MB of 512 MB.")
    async with here.client() as client:
        (subtask,) = (await client.get(f"/v1/runs/{run}/subtasks")).json()["data"]["list"]
    assert (subtask["id"], subtask["status"], subtask["index"]) == (str(offer.job), "failed", 0)
    assert (subtask["outcome"]["reason"], subtask["outcome"]["signal"]) == ("memory", 9)
    assert [(item["attempt"], item["end"], item["runner"]) for item in subtask["attempts"]] == [
        (1, "finished", runner.id),
        (2, "finished", runner.id),
    ]


async def test_runners_are_listed_with_what_they_offer(here: Plane) -> None:
    runner = await ready(here)
    async with here.client() as client:
        (shown,) = (await client.get("/v1/runners")).json()["data"]["list"]
    assert (shown["id"], shown["connected"], shown["capabilities"]) == (runner.id, True, ["workers", "builds"])


async def test_events_tell_a_runs_story_to_its_owner_and_all_of_them_to_an_admin(here: Plane) -> None:
    runner = await ready(here)
    run = await start(here)
    await runner.run()
    async with here.client() as client:
        story = (await client.get("/v1/events", params={"subject": run})).json()["data"]["list"]
        assert [event["kind"] for event in story] == ["run.ready", "run.running", "run.succeeded"]
        after = (await client.get("/v1/events", params={"after": story[0]["seq"], "subject": run})).json()
        assert [event["kind"] for event in after["data"]["list"]] == ["run.running", "run.succeeded"]
        assert len((await client.get("/v1/events")).json()["data"]["list"]) > len(story)
    async with here.client(await here.key(Scope.WORKERS, owner="stranger")) as stranger:
        assert (await stranger.get("/v1/events", params={"subject": run})).status_code == 403
        assert (await stranger.get("/v1/events")).status_code == 403


async def test_packages_and_locks_go_to_runners(here: Plane) -> None:
    runner = await ready(here)
    await start(here)
    from plane import spec_of  # noqa: PLC0415

    spec = spec_of(await runner.next_offer())
    async with here.client(RUNNER) as client:
        packed = await client.get(f"/v1/runner/blobs/{spec.package_key}")
        assert packed.content == package()
        assert packed.headers["content-length"] == str(len(package()))
        lock = await client.get(f"/v1/runner/blobs/{spec.environment.lock_key}")
        assert lock.content == b"requests==2.32.0\n"
        for key in ("packages/" + "0" * 64, "packages/../locks", "..%2f..%2fetc", "settings/x"):
            assert (await client.get(f"/v1/runner/blobs/{key}")).status_code == 404


async def test_an_expired_or_forged_link_gives_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    async with plane(tmp_path, clock=clock) as here:
        await ready(here)
        run = await start(here)
        async with here.client() as client:
            url = (await client.get(f"/api/v2/worker-runs/{run}/result/export")).json()["data"]["download_url"]
        async with here.client(None) as stranger:
            assert (await stranger.get(url)).status_code == 200
            forged = await stranger.get(url[:-3] + "AAA")
            clock.advance(3601)
            expired = await stranger.get(url)
    for answer in (forged, expired):
        assert (answer.status_code, answer.json()["code"]) == (401, 12002)
        assert answer.json()["hint"] == "Ask for a new link."
    assert "expired" in expired.json()["message"]


async def test_links_lead_to_the_public_address_when_one_is_set(tmp_path: Path) -> None:
    async with plane(tmp_path, public_url="https://claw.example.com") as here:
        await ready(here)
        run = await start(here)
        async with here.client() as client:
            data: dict[str, Any] = (await client.get(f"/api/v2/worker-runs/{run}/log")).json()["data"]
    assert data["all_logs_url"].startswith("https://claw.example.com/v1/downloads/")


async def test_a_signed_link_never_leads_where_the_host_header_points(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await ready(here)
        run = await start(here)
        headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
        async with here.client() as client:
            answer = await client.get(f"/api/v2/worker-runs/{run}/log", headers=headers)
    assert answer.json()["data"]["all_logs_url"].startswith("http://plane.test/v1/downloads/")
    assert "evil" not in answer.text


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
async def test_a_number_that_json_does_not_have_is_refused_by_the_name_of_its_field(
    tmp_path: Path, number: str
) -> None:
    content = b'{"name": "k", "scopes": ["read"], "expires_at": %s}' % number.encode()
    async with plane(tmp_path) as here, here.client() as client:
        answer = await client.post("/v1/keys", content=content)
        sandbox = await client.post("/sandboxes", content=b'{"templateID": "bare", "timeout": %s}' % number.encode())
    assert answer.status_code == 422
    assert "expires_at" in answer.json()["message"]
    assert sandbox.status_code == 400
    assert sandbox.json()["message"].startswith("timeout: ")
