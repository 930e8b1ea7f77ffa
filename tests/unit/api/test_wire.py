"""API v2 as clients read it: the documented exchanges, field by field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from plane import Plane, ScriptedRunner, plane

from clawplane.domain.access import Scope
from clawplane.domain.ids import is_ulid
from clawplane.domain.runs import HeaderItem

V2 = "/api/v2"
WORKER = f"{V2}/workers/owner~demo-worker"
INPUT = {"parameters": {"system": {"proxy_region": "US"}, "custom": {"keywords": ["coffee"], "max_results": 1}}}
RUN_FIELDS = {
    "slug": str,
    "scraper_slug": str,
    "scraper_title": str,
    "version": str,
    "status": str,
    "results": int,
    "usage": str,
    "traffic": int,
    "origin": str,
    "started_at": int,
    "finished_at": int,
    "duration": int,
}


@dataclass
class World:
    here: Plane
    runner: ScriptedRunner
    client: httpx.AsyncClient
    slug: str

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = await self.client.get(f"{V2}{path}", params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert list(body) == ["code", "message", "request_id", "data"]
        assert (body["code"], body["message"]) == (0, "success")
        return body["data"]  # type: ignore[no-any-return]

    async def post(self, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        answer = await self.client.post(f"{V2}{path}", json=body, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def start(self, **more: Any) -> str:
        answer = await self.post("/workers/owner~demo-worker/runs", {"input": INPUT, **more})
        return str(answer["data"]["run_slug"])

    async def refused(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, int]:
        answer = await self.client.request(method, f"{V2}{path}", json=body, params=query)
        envelope = answer.json()
        assert isinstance(envelope["details"], list)
        return answer.status_code, envelope["code"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with plane(tmp_path) as here, here.client() as client:
        runner = here.runner()
        await runner.connect()
        yield World(here, runner, client, await here.worker(runner))


# 6.7


async def test_regions_are_all_there_in_one_answer(world: World) -> None:
    data = await world.get("/proxy/region", language="tlh")
    names = {item["code"]: item["name"] for item in data["list"]}
    assert len(names) == 250
    assert (names["US"], names["DE"], names["XK"]) == ("United States", "Germany", "Kosovo")
    assert all(len(code) == 2 and code.isupper() for code in names)


@pytest.mark.parametrize("path", ["/store", "/workers"])
async def test_listings_of_workers(world: World, path: str) -> None:
    data = await world.get(path, offset=1, limit=20, keyword="demo")
    assert data["scraper"] == data["list"]
    assert data["scraper"] == [
        {
            "description": "Demo worker description",
            "name": "demo-worker",
            "path": "owner~demo-worker",
            "slug": world.slug,
            "title": "Demo Worker",
            "username": "owner",
        }
    ]
    assert (await world.get(path, keyword="nothing like it"))["scraper"] == []
    assert len((await world.get(path, keyword=""))["scraper"]) == 1


async def test_own_workers_are_ones_own_and_the_store_shows_all(world: World) -> None:
    key = await world.here.key(Scope.WORKERS, owner="stranger")
    async with world.here.client(key) as stranger:
        assert (await stranger.get(f"{V2}/workers")).json()["data"]["scraper"] == []
        assert len((await stranger.get(f"{V2}/store")).json()["data"]["scraper"]) == 1


async def test_the_account(world: World) -> None:
    data = await world.get("/users/account")
    assert data["balance"] == "100.00"
    assert data["balance_expiration_at"] > world.here.clock.now_ms() // 1000


async def test_a_workers_detail(world: World) -> None:
    for worker_id in ("owner~demo-worker", world.slug):
        data = await world.get(f"/workers/{worker_id}")
        assert (data["name"], data["username"], data["version"]) == ("demo-worker", "owner", "v1.0.1")
        assert data["readme"] == "# Demo\n"
        assert data["parameters"]["system"] == {
            "cpus": 0.125,
            "memory": 512,
            "execute_limit_time_seconds": 1800,
            "max_total_charge": 0,
            "max_total_traffic": 0,
            "proxy_region": "",
        }
        assert data["parameters"]["custom"]["properties"][0]["name"] == "keywords"


async def test_an_input_schema_stands_at_top_level_and_beside(world: World) -> None:
    data = await world.get("/workers/owner~demo-worker/input-schema")
    assert data["properties"][0]["name"] == "keywords"
    inner = data.pop("input_schema")
    assert inner == data


async def test_what_publishing_clients_read(world: World) -> None:
    async with world.here.client(None) as stranger:
        data = (await stranger.get(f"{WORKER}/internal")).json()["data"]
    assert (data["title"], data["description"]) == ("Demo Worker", "Demo worker description")
    assert (data["categories"], data["version"]) == ([], "v1.0.1")


@pytest.mark.parametrize("worker", ["nobody", "owner~nobody", "01KPD6M5YQADCQKGVKPDZVYC63", "1786001196232214890"])
async def test_unknown_workers_are_404_to_read_and_50001_to_run(world: World, worker: str) -> None:
    assert await world.refused("GET", f"/workers/{worker}") == (404, 11004)
    assert await world.refused("GET", f"/workers/{worker}/input-schema") == (404, 11004)
    assert await world.refused("GET", f"/workers/{worker}/runs/last") == (404, 11004)
    assert await world.refused("POST", f"/workers/{worker}/runs", {"input": INPUT}) == (400, 50001)


# 6.8


async def test_an_asynchronous_start_answers_with_the_slug_alone(world: World) -> None:
    answer = await world.post("/workers/owner~demo-worker/runs", {"input": INPUT, "is_async": True, "offset": 0})
    assert list(answer["data"]) == ["run_slug"]
    assert is_ulid(answer["data"]["run_slug"])


async def test_a_synchronous_run_answers_with_its_results(world: World) -> None:
    call = asyncio.create_task(
        world.post("/workers/owner~demo-worker/runs", {"input": INPUT, "is_async": False, "offset": 0, "limit": 20})
    )
    await world.runner.run()
    data = (await call)["data"]
    assert list(data) == [
        "run_slug",
        "run_status",
        "error_message",
        "execution_start_timestamp",
        "execution_end_timestamp",
        "running_duration",
        "result_message",
        "results",
    ]
    assert (data["run_status"], data["error_message"], data["result_message"]) == ("succeeded", "", "")
    assert data["execution_end_timestamp"] >= data["execution_start_timestamp"] > 1_600_000_000
    assert data["results"] == {
        "count": 1,
        "headers": [{"key": "title", "label": "Title", "format": "text"}],
        "list": [{"title": "Example result", "__coreclaw_data_id__": "record_1"}],
        "page_index": 1,
        "page_size": 20,
    }


async def test_a_synchronous_rerun_says_whether_it_is_finished_and_carries_no_messages(world: World) -> None:
    first = await world.start()
    await world.runner.run()
    call = asyncio.create_task(world.post(f"/worker-runs/{first}/rerun", {"is_async": False}))
    await world.runner.run()
    data = (await call)["data"]
    assert list(data) == [
        "run_slug",
        "run_status",
        "execution_start_timestamp",
        "execution_end_timestamp",
        "running_duration",
        "is_finished",
        "results",
    ]
    assert (data["run_status"], data["is_finished"]) == ("succeeded", True)
    assert data["run_slug"] != first


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": {"keyword": "coffee"}}, (400, 11000)),
        ({"input": INPUT, "version": "latest"}, (400, 50003)),
        ({"input": INPUT, "version": "v9.9.9"}, (400, 50003)),
        ({"input": INPUT, "unknown": 1}, (422, 11000)),
        ({"input": {"parameters": {"custom": {"keywords": "coffee"}}}}, (400, 11000)),
        ({"input": {"parameters": {"custom": {"keywords": []}}}}, (400, 11000)),
        ({"input": {"parameters": {"custom": {"keywords": [str(n) for n in range(1001)]}}}}, (400, 11000)),
        ({"input": INPUT, "callback_url": "nonsense"}, (400, 11000)),
    ],
)
async def test_refused_starts_and_that_they_leave_no_run(
    world: World, body: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert await world.refused("POST", "/workers/owner~demo-worker/runs", body) == expected
    assert (await world.get("/worker-runs"))["count"] == 0


async def test_the_subtask_limit_is_told_in_the_platforms_words(world: World) -> None:
    custom = {"keywords": [str(number) for number in range(1001)]}
    answer = await world.client.post(f"{WORKER}/runs", json={"input": {"parameters": {"custom": custom}}})
    assert answer.json()["message"] == "concurrency_num (1001) exceeds limit (1000)"


async def test_nulls_stand_for_defaults(world: World) -> None:
    await world.start(version=None, callback_url=None, is_async=None, offset=None, limit=None)


# 6.9


async def test_a_run_in_each_state_has_exactly_the_documented_fields(world: World) -> None:
    slug = await world.start()
    ready = await world.get(f"/worker-runs/{slug}")
    assert {name: type(value) for name, value in ready.items()} == RUN_FIELDS
    assert (ready["status"], ready["started_at"], ready["finished_at"], ready["duration"]) == ("ready", 0, 0, 0)
    assert (ready["scraper_slug"], ready["scraper_title"]) == (world.slug, "Demo Worker")
    assert (ready["version"], ready["origin"], ready["usage"]) == ("v1.0.1", "api_v2", "0.00")
    offer = await world.runner.take()
    running = await world.get(f"/worker-runs/{slug}")
    assert (running["status"], running["finished_at"]) == ("running", 0)
    assert running["started_at"] > 1_600_000_000
    await world.runner.ship(offer, 1, rows=[{"title": "x"}])
    await world.runner.end(offer, cpu_ms=1_000_000)
    ended = await world.get(f"/worker-runs/{slug}")
    assert (ended["status"], ended["results"], ended["usage"]) == ("succeeded", 1, "0.02")
    assert ended["finished_at"] >= ended["started_at"]
    assert {name: type(value) for name, value in ended.items()} == RUN_FIELDS


async def test_only_failed_runs_say_why_in_lists_and_alone(world: World) -> None:
    slug = await world.start()
    await world.runner.run([], succeeded=False, message="Navigation timeout of 30000 ms exceeded")
    detail = await world.get(f"/worker-runs/{slug}")
    listed = (await world.get("/worker-runs", worker_id="owner~demo-worker", status="failed"))["list"][0]
    assert detail == listed
    assert detail["err_msg"] == "Navigation timeout of 30000 ms exceeded"


async def test_lists_are_filtered_and_newest_first(world: World) -> None:
    slugs = [await world.start() for _ in range(3)]
    data = await world.get("/worker-runs", offset=1, limit=2)
    assert (data["count"], [run["slug"] for run in data["list"]]) == (3, [slugs[2], slugs[1]])
    assert [run["slug"] for run in (await world.get("/worker-runs", offset=2, limit=2))["list"]] == [slugs[0]]
    assert (await world.get("/worker-runs", status="failed"))["list"] == []
    assert (await world.get("/worker-runs", worker_id=world.slug))["count"] == 3
    assert (await world.get("/worker-runs", worker_id="owner~nobody"))["count"] == 0
    assert (await world.get("/worker-runs", worker_id="", status=""))["count"] == 3
    assert await world.refused("GET", "/worker-runs", status="aborted") == (422, 11000)


async def test_a_time_range_lies_within_one_month_of_utc_plus_8(world: World) -> None:
    slug = await world.start()
    now = world.here.clock.now_ms() // 1000
    data = await world.get("/worker-runs", start_time=now - 60, end_time=now)
    if datetime.fromtimestamp(now - 60 + 28_800, UTC).month == datetime.fromtimestamp(now + 28_800, UTC).month:
        assert [run["slug"] for run in data["list"]] == [slug]
    # 2026-06-30 23:59:59 and 2026-07-01 00:00:00 at UTC+8
    crossing = await world.client.get(f"{V2}/worker-runs", params={"start_time": 1782835199, "end_time": 1782835200})
    assert (crossing.status_code, crossing.json()["code"]) == (400, 11000)
    assert crossing.json()["message"] == "run list time range cannot cross months"
    assert (await world.get("/worker-runs", start_time=1782835200, end_time=1782835200))["count"] == 0
    assert await world.refused("GET", "/worker-runs", start_time=now) == (400, 11000)
    assert await world.refused("GET", "/worker-runs", start_time="x", end_time=now) == (422, 11000)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"anything": 1}', None])
async def test_abort_takes_any_body_and_answers_without_data(world: World, body: bytes | None) -> None:
    slug = await world.start()
    headers = {} if body is None else {"Content-Type": "application/json"}
    answer = await world.client.post(f"{V2}/worker-runs/{slug}/abort", content=body, headers=headers)
    assert list(answer.json()) == ["code", "message", "request_id"]
    assert (answer.status_code, answer.json()["code"]) == (200, 0)
    assert (await world.get(f"/worker-runs/{slug}"))["status"] == "aborting"


async def test_a_finished_run_is_not_abortable(world: World) -> None:
    slug = await world.start()
    await world.runner.run()
    assert await world.refused("POST", f"/worker-runs/{slug}/abort") == (400, 70002)


async def test_a_run_that_ends_at_once_can_still_be_aborted_in_the_next_request(world: World) -> None:
    slug = await world.start()
    ending = asyncio.create_task(world.runner.end(await world.runner.take()))
    await world.post(f"/worker-runs/{slug}/abort", {})
    await ending
    assert (await world.get(f"/worker-runs/{slug}"))["status"] == "aborting"


@pytest.mark.parametrize("content", [None, b"", b"{}"])
async def test_rerun_takes_empty_and_absent_bodies(world: World, content: bytes | None) -> None:
    slug = await world.start()
    answer = await world.client.post(
        f"{V2}/worker-runs/{slug}/rerun", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200
    assert answer.json()["data"]["run_slug"] != slug


async def test_rerun_knows_no_input(world: World) -> None:
    slug = await world.start()
    assert await world.refused("POST", f"/worker-runs/{slug}/rerun", {"input": INPUT}) == (422, 11000)


async def test_a_log_holds_objects_and_a_link_to_all_of_it(world: World) -> None:
    slug = await world.start()
    offer = await world.runner.run()
    data = await world.get(f"/worker-runs/{slug}/log")
    assert list(data) == ["all_logs_url", "list", "result_count"]
    assert data["list"][0] == {
        "type": 2,
        "group": str(offer.job),
        "content": f"SYSTEM: Subtask-[{offer.job}] - Running...",
        "timestamp": 1782091200438,
    }
    assert data["result_count"] == 1
    async with world.here.client(None) as stranger:
        text = (await stranger.get(data["all_logs_url"])).text
    assert text.splitlines()[0] == f"SYSTEM: Subtask-[{offer.job}] - Running..."


async def test_results_are_there_while_the_run_goes_on(world: World) -> None:
    slug = await world.start()
    offer = await world.runner.take()
    header = [HeaderItem(key="id"), HeaderItem(key="title", label="Title", format="text")]
    await world.runner.ship(offer, 1, rows=[{"id": number, "n": {"deep": [1]}} for number in range(25)], header=header)
    data = await world.get(f"/worker-runs/{slug}/result", offset=2, limit=20)
    assert (data["count"], len(data["list"]), data["page_index"], data["page_size"]) == (25, 5, 2, 20)
    assert data["headers"][0] == {"key": "id", "label": "id", "format": "text"}
    assert data["list"][0] == {"id": 20, "n": {"deep": [1]}, "__coreclaw_data_id__": "record_21"}


async def test_an_export_is_a_link_that_needs_no_key(world: World) -> None:
    slug = await world.start()
    await world.runner.run()
    for query in ({}, {"format": "CSV"}, {"format": "json", "filter_keys": "title,unknown"}):
        data = await world.get(f"/worker-runs/{slug}/result/export", **query)
        async with world.here.client(None) as stranger:
            file = await stranger.get(data["download_url"])
        assert file.status_code == 200
        assert "attachment" in file.headers["content-disposition"]
        assert "__coreclaw_data_id__" not in file.text
    assert await world.refused("GET", f"/worker-runs/{slug}/result/export", format="docx") == (422, 11000)
    assert await world.refused("GET", f"/worker-runs/{slug}/result/export", format="xlsx") == (501, 16000)


@pytest.mark.parametrize("action", ["", "/log", "/result", "/result/export"])
async def test_unknown_runs_are_404(world: World, action: str) -> None:
    assert await world.refused("GET", f"/worker-runs/01KKDXV2G26BT7NH4ZQR2R4NPZ{action}") == (404, 11004)


async def test_unknown_runs_cannot_be_aborted_or_rerun(world: World) -> None:
    for action in ("abort", "rerun"):
        assert await world.refused("POST", f"/worker-runs/nobody/{action}") == (404, 11004)


# the last families, with the CLI's spelling


FAMILIES = ["/worker-runs/last", "/workers/owner~demo-worker/runs/last", "/workers/runs/last"]


@pytest.mark.parametrize("family", FAMILIES)
async def test_there_may_be_no_last_run(world: World, family: str) -> None:
    for action in ("", "/log", "/result", "/export"):
        assert await world.refused("GET", f"{family}{action}") == (404, 11004)
    for action in ("/abort", "/rerun"):
        assert await world.refused("POST", f"{family}{action}") == (404, 11004)


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_last_run_is_the_most_recently_created(world: World, family: str) -> None:
    await world.start()
    slug = await world.start()
    assert (await world.get(family))["slug"] == slug
    assert "list" in await world.get(f"{family}/log")
    assert (await world.get(f"{family}/result"))["page_index"] == 1
    assert "download_url" in await world.get(f"{family}/export", format="jsonl")
    assert "data" not in await world.post(f"{family}/abort", {})
    assert (await world.get(f"/worker-runs/{slug}"))["status"] == "aborting"
    rerun = (await world.post(f"{family}/rerun"))["data"]["run_slug"]
    assert (await world.get(family))["slug"] == rerun != slug


async def test_the_last_run_is_ones_own(world: World) -> None:
    await world.start()
    async with world.here.client(await world.here.key(Scope.WORKERS, owner="stranger")) as stranger:
        assert (await stranger.get(f"{V2}/worker-runs/last")).status_code == 404


# pages


@pytest.mark.parametrize("path", ["/store", "/workers", "/worker-runs", "/worker-runs/last/result"])
async def test_pages_at_their_edges(world: World, path: str) -> None:
    await world.start()
    assert (await world.get(path, offset=0)) == (await world.get(path, offset=1)) == (await world.get(path))
    past = await world.get(path, offset=999_999_999, limit=100)
    assert (past.get("list") or []) == []
    for query in (
        {"limit": 0},
        {"limit": 101},
        {"limit": -1},
        {"offset": -1},
        {"offset": "one"},
        {"offset": 1.5},
        {"limit": "1e2"},
        {"offset": 10**30},
        {"offset": "٣"},
    ):
        assert await world.refused("GET", path, **query) == (422, 11000)


# what later releases bring


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/worker-tasks"),
        ("POST", "/worker-tasks"),
        ("DELETE", "/worker-tasks/x"),
        ("PUT", "/worker-tasks/x/input"),
        ("POST", "/worker-tasks/x/runs"),
        ("GET", "/run-queue/items"),
        ("POST", "/run-queue/items/activate"),
        ("POST", "/run-queue/items/1/release"),
        ("POST", "/workers/x/queued-runs"),
        ("GET", "/queued-worker-runs"),
    ],
)
async def test_operations_that_are_not_offered_say_so(world: World, method: str, path: str) -> None:
    assert await world.refused(method, path) == (501, 16000)


async def test_integers_beyond_2_to_the_53_come_back_as_they_were_sent(world: World) -> None:
    slug = await world.start()
    big = 2**63 + 1
    await world.runner.run([{"id": big}])
    text = (await world.client.get(f"{V2}/worker-runs/{slug}/result")).text
    assert f'"id":{big}' in text.replace(" ", "")
    assert json.loads(text)["data"]["list"][0]["id"] == big
