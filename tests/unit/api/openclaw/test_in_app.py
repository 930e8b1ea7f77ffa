"""The Task API beside the other wires of one application."""

from __future__ import annotations

from pathlib import Path

from plane import plane

from clawplane.domain.access import Scope


async def test_the_task_api_answers_on_the_same_port_as_everything_else(tmp_path: Path) -> None:
    async with plane(tmp_path, host=True) as here:
        token = await here.key(Scope.HOST, Scope.HOST_RUNNER)
        async with here.client(token) as client:
            task = (await client.post("/tasks", json={"command": "x"})).json()["taskId"]
            assert (await client.get("/worker/poll?wait=1000")).json()["id"] == task
            assert (await client.get("/worker/poll?wait=1")).json() is None
            assert (await client.post("/worker/result", json={"taskId": task, "stdout": "o", "exitCode": 0})).json()
            assert (await client.get(f"/tasks/{task}")).json()["stdout"] == "o"
            native = await client.get("/v1/runs")
            assert "access-control-allow-origin" in native.headers
            assert (await client.get("/no-such-path")).json()["error"] == "not_found"
        async with here.client() as admin:
            assert (await admin.get("/tasks/stats")).json()["queue"]["total"] == 0
            assert (await admin.get("/worker/poll")).status_code == 403
            assert "tasks.fetch" in (await admin.get("/metrics")).text
