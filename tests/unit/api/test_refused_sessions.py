"""A runner whose host fails the selftest is offered no sessions, and callers and operators are told why."""

from __future__ import annotations

from pathlib import Path

import pytest
from plane import ScriptedRunner, plane

from clawplane.domain.session_rules import caps_of

REASON = "Code sessions are refused on this runner: its host fails selftest item 7 (looks for files: it got done)."


def host(here, slots: int = 4) -> ScriptedRunner:
    made = here.runner()
    total = {"workers": 8, caps_of(None): slots, caps_of(made.id): slots}
    made.capabilities, made.slots = tuple(total), total
    return made


async def test_callers_and_healthz_say_why_no_session_can_be_had(tmp_path: Path) -> None:
    async with plane(tmp_path) as here, here.client() as client:
        runner = host(here)
        await runner.connect()
        await here.flows.leases.free(runner.id, {**runner.slots}, {"sessions": REASON})
        refused = await client.post("/v1/tools/execute_python", json={"code": "1"})
        assert refused.status_code == 503
        assert REASON in refused.json()["error"]
        assert "clawplane selftest" in refused.text
        health = (await client.get("/healthz")).json()
        assert (health["ready"], health["sessions"]) == (True, REASON)
        assert runner.offers.empty()


@pytest.mark.parametrize("mended", ["the same runner", "another one"])
async def test_sessions_are_offered_where_the_host_holds(tmp_path: Path, mended: str) -> None:
    async with plane(tmp_path) as here, here.client() as client:
        runner = host(here)
        await runner.connect()
        await here.flows.leases.free(runner.id, runner.slots, {"sessions": REASON})
        if mended == "another one":
            other = host(here)
            await other.connect()
        else:
            other = runner
            await here.flows.leases.heartbeat(runner.id, (), runner.slots)  # which says nothing new
            assert here.flows.leases.refusal("sessions") == REASON
            await here.flows.leases.free(runner.id, runner.slots, {})
        made = await client.post("/v1/sessions", json={})
        assert made.status_code == 201, made.text
        assert (await other.next_offer()).subject == made.json()["id"]
        assert (await client.get("/healthz")).json()["sessions"] == ""
