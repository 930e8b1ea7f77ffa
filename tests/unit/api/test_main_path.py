"""Upload, run, read, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

from plane import plane


async def test_a_worker_is_uploaded_built_run_and_its_rows_come_back(tmp_path: Path) -> None:
    async with plane(tmp_path) as here, here.client() as client:
        runner = here.runner()
        await runner.connect()
        slug = await here.worker(runner)
        body = {"input": {"parameters": {"custom": {"keywords": ["coffee"]}}}}
        started = (await client.post("/api/v2/workers/owner~demo-worker/runs", json=body)).json()
        assert started["code"] == 0, started
        run = started["data"]["run_slug"]
        await runner.run()
        shown = (await client.get(f"/api/v2/worker-runs/{run}")).json()["data"]
        assert (shown["status"], shown["results"], shown["scraper_slug"]) == ("succeeded", 1, slug)
        page = (await client.get(f"/api/v2/worker-runs/{run}/result")).json()["data"]
        assert page["list"] == [{"title": "Example result", "__coreclaw_data_id__": "record_1"}]
        link = (await client.get(f"/api/v2/worker-runs/{run}/result/export?format=jsonl")).json()["data"]
        async with here.client(None) as stranger:
            file = await stranger.get(link["download_url"])
        assert json.loads(file.text) == {"title": "Example result"}
