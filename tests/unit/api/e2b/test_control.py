"""Create, list, describe, connect, prolong, pause, copy and end sandboxes with the published clients."""

from __future__ import annotations

import time
from typing import Any

import pytest
from e2b import (
    AuthenticationException,
    NotFoundException,
    SandboxException,
    SandboxQuery,
    SandboxState,
    ServiceBusyException,
)
from e2b_place import OTHER_KEY, READER_KEY

from clawplane.domain.sessions import EgressRules


@pytest.fixture
def client(place: Any) -> Any:
    return place.client()


def test_a_sandbox_is_created_described_and_killed(place: Any, client: Any) -> None:
    sandbox = client.Sandbox.create(timeout=60, metadata={"who": "me"}, envs={"A": "1"})
    info = sandbox.get_info()
    assert (info.sandbox_id, info.metadata, info.state) == (sandbox.sandbox_id, {"who": "me"}, SandboxState.RUNNING)
    assert 58 < info.end_at.timestamp() - time.time() < 62
    assert place.sessions.sessions[sandbox.sandbox_id].options.environment == {"A": "1"}
    assert sandbox.is_running()
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert sandbox.is_running() is False
    with pytest.raises(NotFoundException):
        sandbox.get_info()


async def test_the_async_client_creates_lists_and_kills(client: Any) -> None:
    sandbox = await client.AsyncSandbox.create(timeout=60)
    assert [found.sandbox_id for found in await client.AsyncSandbox.list().next_items()] == [sandbox.sandbox_id]
    assert await sandbox.is_running()
    assert await sandbox.kill()
    assert not await sandbox.is_running()


def test_a_repeated_order_with_the_same_key_makes_one_sandbox(place: Any, client: Any) -> None:
    made = {client.Sandbox.create(idempotency_key=key).sandbox_id for key in ("a-1", "a-1", "b" * 255, "b" * 255)}
    assert len(made) == len(place.sessions.sessions) == 2


def test_a_sandbox_that_no_runner_takes_is_not_left_behind(place: Any, client: Any) -> None:
    place.sessions.full = True
    with pytest.raises(ServiceBusyException, match="No runner"):
        client.Sandbox.create(retries=0)
    assert client.Sandbox.list().next_items() == []


def test_a_timeout_is_a_fixed_time_that_can_be_moved(client: Any) -> None:
    sandbox = client.Sandbox.create(timeout=60)
    sandbox.set_timeout(600)
    assert 595 < sandbox.get_info().end_at.timestamp() - time.time() < 605


def test_a_connection_finds_the_same_sandbox_and_never_shortens_its_life(client: Any) -> None:
    sandbox = client.Sandbox.create(timeout=600)
    same = client.Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert same.sandbox_id == sandbox.sandbox_id
    assert same.is_running()
    assert same.get_info().end_at.timestamp() - time.time() > 500


def test_a_list_has_pages_and_filters(client: Any) -> None:
    made = [client.Sandbox.create(metadata={"n": f"{number} &=%"}).sandbox_id for number in range(5)]
    pages = client.Sandbox.list(limit=2)
    found = []
    while pages.has_next:
        found.append([item.sandbox_id for item in pages.next_items()])
    assert [len(page) for page in found] == [2, 2, 1]
    assert [name for page in found for name in page] == made[::-1]
    upwards = client.Sandbox.list(limit=3, order="asc")
    assert [item.sandbox_id for item in [*upwards.next_items(), *upwards.next_items()]] == made
    only = client.Sandbox.list(query=SandboxQuery(metadata={"n": "3 &=%"}))
    assert [item.sandbox_id for item in only.next_items()] == [made[3]]
    assert client.Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED])).next_items() == []


def test_a_paused_sandbox_is_listed_as_such_and_pausing_again_changes_nothing(client: Any) -> None:
    sandbox = client.Sandbox.create()
    assert sandbox.pause() is True
    assert sandbox.get_info().state is SandboxState.PAUSED
    assert sandbox.pause() is False


def test_forks_are_sandboxes_of_their_own(client: Any) -> None:
    sandbox = client.Sandbox.create()
    copies = sandbox.fork(count=2)
    assert len({sandbox.sandbox_id, *(copy.sandbox_id for copy in copies)}) == 3
    assert all(copy.is_running() for copy in copies)


@pytest.mark.parametrize(
    ("order", "rules"),
    [
        ({}, EgressRules()),
        ({"allow_internet_access": False}, EgressRules(mode="none")),
        ({"network": {"deny_out": ["0.0.0.0/0"]}}, EgressRules(mode="none")),
        ({"network": {"deny_out": ["10.0.0.0/8"]}}, EgressRules(deny=("10.0.0.0/8",))),
        (
            {"network": {"deny_out": ["0.0.0.0/0"], "allow_out": ["packages.example"]}},
            EgressRules(mode="listed", allow=("packages.example",)),
        ),
        ({"network": {"allow_out": ["packages.example"]}}, EgressRules(mode="listed", allow=("packages.example",))),
        ({"network": {"allow_out": ["0.0.0.0/0"]}}, EgressRules()),
    ],
)
def test_network_rules_become_egress_rules(place: Any, client: Any, order: Any, rules: EgressRules) -> None:
    sandbox = client.Sandbox.create(**order)
    assert place.sessions.sessions[sandbox.sandbox_id].options.egress == rules


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ({"template": "my-template"}, "my-template"),
        ({"timeout": 90_000}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"volume_mounts": {"/data": "vol"}}, "volumes"),
        ({"network": {"egress_proxy": {"address": "proxy:1080"}}}, "egress_proxy"),
        ({"mcp": {"x": {}}}, "MCP gateway"),
    ],
)
def test_an_order_that_cannot_be_met_is_refused_by_name(place: Any, client: Any, order: Any, named: str) -> None:
    with pytest.raises(SandboxException, match=named):
        client.Sandbox.create(**order)
    assert place.sessions.sessions == {}


@pytest.mark.parametrize("what", ["snapshot", "metrics", "network"])
def test_what_is_outside_answers_a_clear_error(client: Any, what: str) -> None:
    sandbox = client.Sandbox.create()
    with pytest.raises(SandboxException, match="501: clawplane does not offer"):
        {
            "snapshot": sandbox.create_snapshot,
            "metrics": sandbox.get_metrics,
            "network": lambda: sandbox.update_network({"deny_out": ["1.1.1.1"]}),
        }[what]()


def test_templates_and_volumes_answer_a_clear_error(client: Any) -> None:
    with pytest.raises(Exception, match="clawplane does not offer volumes"):
        client.Volume.create("v")
    with pytest.raises(Exception, match="clawplane does not offer templates"):
        client.Template.exists("t")


def test_a_key_that_is_not_known_is_refused(place: Any) -> None:
    with pytest.raises(AuthenticationException):
        place.client("scraper_api_nobody").Sandbox.create()


def test_a_key_that_only_reads_creates_nothing(place: Any) -> None:
    with pytest.raises(SandboxException, match="sessions"):
        place.client(READER_KEY).Sandbox.create()


def test_a_key_may_be_written_with_the_prefix_that_older_clients_insist_on(place: Any) -> None:
    assert place.client("e2b_" + "a" * 48).Sandbox.create().is_running()


def test_another_owners_sandbox_cannot_be_found_listed_or_killed(place: Any, client: Any) -> None:
    sandbox = client.Sandbox.create()
    stranger = place.client(OTHER_KEY)
    assert stranger.Sandbox.list().next_items() == []
    assert stranger.Sandbox.kill(sandbox.sandbox_id) is False
    for attempt in (stranger.Sandbox.connect, stranger.Sandbox.get_info):
        with pytest.raises(NotFoundException):
            attempt(sandbox.sandbox_id)
    assert sandbox.is_running()
