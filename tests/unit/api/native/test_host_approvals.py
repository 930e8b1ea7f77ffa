"""Questions about host tasks are answered by link: once, by whoever holds it, and never by looking."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from plane import Plane, ScriptedRunner

from clawplane.domain.host_ports import Parcel
from clawplane.domain.host_tasks import TaskId
from clawplane.domain.tool_uses import Decide, Decided, ToolUse, ToolUses
from clawplane.flows.answer_links import Answerable
from clawplane.flows.host_tasks import HostWork
from clawplane.flows.links import Links
from clawplane.link.asking import Asking

TAKES = ("host", "host@command", "host@claude")
TASKS = "/v1/host/tasks"
HOOK = "https://hook.test/x"
PAGE = {"Accept": "text/html,*/*"}
FOREVER = 1 << 50


@pytest.fixture
async def person(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key."""
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
        yield client


def host_of(here: Plane) -> HostWork:
    assert here.flows.host is not None
    return here.flows.host


async def submit(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    given = {"type": "command", "command": "make", "approval": True, "callback_url": HOOK} | fields
    answer = await api.post(TASKS, json=given)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()["data"]["task"]
    return found


async def parcels(here: Plane) -> list[Parcel]:
    return sorted(await here.store.outbox.due(now=FOREVER, limit=100), key=lambda each: each.created_at)


async def asked(here: Plane) -> dict[str, Any]:
    """Return the last notice that asks."""
    found: dict[str, Any] = json.loads([each for each in await parcels(here) if each.question][-1].body)
    return found


async def link_of(here: Plane, api: httpx.AsyncClient, **fields: Any) -> tuple[str, str]:
    task = await submit(api, **fields)
    link = str((await asked(here))["answerUrl"])
    assert link.startswith(f"{api.base_url}/v1/host/approvals/".replace("//v1", "/v1"))
    return str(task["id"]), link


async def status_of(api: httpx.AsyncClient, task: str) -> tuple[str, str]:
    found = (await api.get(f"{TASKS}/{task}")).json()["data"]
    return found["status"], found["approval"]


async def test_a_yes_lets_the_task_in_and_the_link_is_used_up(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    played = here.runner(capabilities=TAKES, slots={"host": 5})
    await played.connect()
    task, link = await link_of(here, api)
    answered = await person.post(link, json={"answer": "yes"})
    assert (answered.status_code, answered.json()["data"]["answer"]) == (200, "yes")
    await played.take()
    assert await status_of(api, task) == ("running", "given")
    for word in ("yes", "no"):
        again = await person.post(link, data={"answer": word})
        assert (again.status_code, again.json()["message"]) == (
            409,
            "This question has been answered: the task was approved.",
        )
    trail = (await api.get("/v1/host/events", params={"task": task, "type": "task.approved"})).json()["data"]["list"]
    assert [event["details"] for event in trail] == [{"by": "a person with the answer link"}]


async def test_a_no_fails_the_task_with_words_that_say_so(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    task, link = await link_of(here, api)
    page = await person.post(link, data={"answer": "no"}, headers=PAGE)
    assert (page.status_code, "You said no" in page.text) == (200, True)
    result = (await api.get(f"{TASKS}/{task}/result")).json()["data"]
    assert (result["task"]["status"], result["task"]["reason"]) == ("failed", "refused")
    assert result["result"]["error"] == "Refused by a person with the answer link."


async def test_looking_shows_what_is_asked_and_decides_nothing_whatever_the_query_says(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    command = "echo '<script>alert(1)</script>' \u202e\u200b\x1b[2J && make"
    task, link = await link_of(here, api, command=command, cwd="/srv", env={"KEY": "hunter2"}, labels={"a": "b"})
    page = await person.get(f"{link}?answer=yes", headers=PAGE)
    told = (await person.get(link)).json()["data"]
    assert (await person.head(link)).status_code == 200
    assert await status_of(api, task) == ("pending", "waiting")
    assert (
        "echo &#x27;&lt;script&gt;alert(1)&lt;/script&gt;&#x27; \\u202e\\u200b\\u001b[2J &amp;&amp; make" in page.text
    )
    assert told["text"] == "echo '<script>alert(1)</script>' \\u202e\\u200b\\u001b[2J && make"
    assert {"name": "directory", "value": "/srv"} in told["facts"]
    assert {"name": "variables", "value": "KEY (values are not shown)"} in told["facts"]
    assert "hunter2" not in page.text + json.dumps(told) + json.dumps(await asked(here))
    assert "<script" not in page.text


async def test_the_page_may_not_be_kept_framed_or_told_about_and_loads_nothing(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    _, link = await link_of(here, api)
    for answer in (
        await person.get(link, headers=PAGE),
        await person.get(link),
        await person.post(link, json={"answer": "maybe"}),
        await person.get(f"{link}x", headers=PAGE),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        rules = answer.headers["content-security-policy"]
        assert "default-src 'none'" in rules
        assert "frame-ancestors 'none'" in rules
        assert "unsafe" not in rules
        assert not re.search(r"(src|href|url\()=?", answer.text)


async def test_a_token_that_is_changed_cut_or_signed_for_something_else_answers_nothing(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    task, link = await link_of(here, api)
    other, _ = await link_of(here, api)
    head, _, token = link.rpartition("/")
    payload, _, mac = token.partition(".")
    links = host_of(here).questions.links
    other_payload = links.token(Answerable("task", TaskId(other), "", FOREVER)).partition(".")[0]
    forged = [
        f"{payload}.{'A' * len(mac)}",
        f"{other_payload}.{mac}",
        f"{payload[:-2]}.{mac}",
        f"{payload}.{mac}=",
        f"{payload}.{mac[:-1]}{'B' if mac[-1] != 'B' else 'C'}",
        payload,
        f"{payload}.",
        ".",
        "A" * 5000,
        await Links(here.store.keys, here.clock).sign("log", task),
    ]
    for each in forged:
        for answer in (await person.get(f"{head}/{each}"), await person.post(f"{head}/{each}", json={"answer": "yes"})):
            assert answer.status_code == 404, each
    assert await status_of(api, task) == await status_of(api, other) == ("pending", "waiting")


async def test_a_link_answers_its_own_task_and_no_other(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    first, link = await link_of(here, api)
    second, _ = await link_of(here, api)
    assert (await person.post(link, json={"answer": "yes"})).status_code == 200
    assert await status_of(api, first) == ("pending", "given")
    assert await status_of(api, second) == ("pending", "waiting")


async def test_what_has_expired_was_cancelled_or_is_forgotten_says_so(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    task, link = await link_of(here, api)
    links, head = host_of(here).questions.links, link.rpartition("/")[0]
    late = links.token(Answerable("task", TaskId(task), "", here.clock.now_ms()))
    forgotten = links.token(Answerable("task", TaskId("no-such-task"), "", FOREVER))
    for token, status, word in ((late, 410, "has expired"), (forgotten, 404, "is not known any more")):
        for answer in (
            await person.get(f"{head}/{token}"),
            await person.post(f"{head}/{token}", json={"answer": "yes"}),
        ):
            assert (answer.status_code, word in answer.json()["message"]) == (status, True)
    assert await status_of(api, task) == ("pending", "waiting")
    await api.post(f"{TASKS}/{task}/cancel")
    page = await person.post(link, data={"answer": "yes"}, headers=PAGE)
    assert (page.status_code, "failed (cancelled)" in page.text) == (409, True)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"data": {"answer": "perhaps"}}, 422),
        ({"data": {"other": "yes"}}, 422),
        ({"data": {"answer": ["yes", "no"]}}, 422),
        ({"json": {"answer": True}}, 422),
        ({"json": {"answer": "yes", "more": 1}}, 422),
        ({"content": b""}, 422),
        ({"content": b"answer=yes"}, 422),
        ({"data": {"answer": "yes", "pad": "x" * 5000}}, 413),
    ],
)
async def test_an_answer_that_is_no_clear_yes_or_no_is_refused(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient, sent: dict[str, Any], status: int
) -> None:
    task, link = await link_of(here, api)
    assert (await person.post(link, **sent)).status_code == status
    assert await status_of(api, task) == ("pending", "waiting")


async def test_no_log_shows_a_link(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    _, link = await link_of(here, api)
    token = link.rpartition("/")[2]
    caplog.set_level(logging.INFO, "clawplane")
    for path in (f"/v1/host/approvals/{token}", f"/V1/HOST/Approvals/{token}", f"/v1/host/approvals/{token}/x"):
        await person.get(path)
    assert "/v1/host/approvals/(link)" in caplog.text
    assert token not in caplog.text
    assert token.partition(".")[2] not in caplog.text
    assert token not in (await api.get("/v1/host/events")).text


async def test_a_task_that_is_done_again_asks_again_with_a_link_of_its_own(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    task, link = await link_of(here, api)
    await person.post(link, json={"answer": "no"})
    again = (await api.post(f"{TASKS}/{task}/retry")).json()["data"]
    notices = [json.loads(each.body) for each in await parcels(here) if each.question]
    (notice,) = [each for each in notices if each["task"]["id"] == again["id"]]
    assert (notice["task"]["status"], notice["answerUrl"] != link) == ("pending", True)
    assert (await person.post(notice["answerUrl"], json={"answer": "yes"})).status_code == 200
    assert await status_of(api, again["id"]) == ("pending", "given")


async def test_a_submission_that_is_repeated_asks_once_and_one_without_approval_never(
    here: Plane, api: httpx.AsyncClient
) -> None:
    for _ in range(2):
        await api.post(
            TASKS,
            json={"type": "command", "command": "make", "approval": True, "callback_url": HOOK},
            headers={"Idempotency-Key": "k"},
        )
    await submit(api, approval=False)
    (parcel,) = await parcels(here)
    assert (parcel.kind, parcel.destination) == ("webhook-question", HOOK)


async def test_the_task_api_asks_as_well_and_names_the_address_where_the_task_arrived(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    answer = await api.post("/tasks", json={"command": "make", "approval": True, "callbackUrl": HOOK})
    task, link = answer.json()["taskId"], (await asked(here))["answerUrl"]
    assert (await person.post(link, json={"answer": "yes"})).status_code == 200
    assert await status_of(api, task) == ("pending", "given")
    forged = await api.post(
        "/tasks", json={"command": "make", "approval": True, "callbackUrl": HOOK}, headers={"Host": "evil.test"}
    )
    assert forged.status_code == 200
    links = [json.loads(each.body)["answerUrl"] for each in await parcels(here)]
    assert all(each.startswith(str(person.base_url)) for each in links)


def plays(played: ScriptedRunner, *uses: ToolUse) -> list[Decide]:
    """Let a runner hold these tool uses and note what is decided."""
    waiting, decided = list(uses), list[Decide]()

    def play(asking: Asking) -> None:
        if asking.method == "tool_uses":
            asking.answer(msgspec.msgpack.encode(ToolUses(waiting=tuple(waiting))))
            return
        word = msgspec.msgpack.decode(asking.body, type=Decide)
        taken = word.id in [use.id for use in waiting]
        waiting[:] = [use for use in waiting if use.id != word.id]
        decided.extend([word] if taken else [])
        asking.answer(msgspec.msgpack.encode(Decided(taken=taken)))

    played.play = play
    return decided


async def test_one_tool_use_is_answered_and_the_other_still_waits(
    here: Plane, api: httpx.AsyncClient, person: httpx.AsyncClient
) -> None:
    played = here.runner(capabilities=TAKES, slots={"host": 5})
    await played.connect()
    answer = await api.post(
        TASKS, json={"type": "claude-cli", "prompt": "p", "approval": "tools", "callback_url": HOOK}
    )
    task = answer.json()["data"]["task"]["id"]
    uses = [ToolUse(id=name, tool="Bash", detail="ls", cwd="/", asked_at=5) for name in ("u1", "u2")]
    decided = plays(played, *uses)
    host = host_of(here)
    assert await parcels(here) == []  # the task itself asks nothing
    offer = await played.take()
    found = await host.find(task)
    (first,), (second,) = (host.questions.about_tool(found, use) for use in uses)
    one, two = (json.loads(each.body)["answerUrl"] for each in (first, second))
    assert (await person.get(one)).json()["data"]["facts"][0] == {"name": "tool", "value": "Bash"}
    assert (await person.post(one, json={"answer": "no"})).status_code == 200
    assert [(word.id, word.allowed, word.reason) for word in decided] == [
        ("u1", False, "Refused by a person with the answer link.")
    ]
    gone = await person.post(one, json={"answer": "yes"})
    assert (gone.status_code, "has been answered" in gone.json()["message"]) == (409, True)
    assert (await person.post(two, json={"answer": "yes"})).status_code == 200
    assert (decided[-1].id, decided[-1].allowed) == ("u2", True)
    await played.disconnect()
    away = await person.get(two)
    assert (away.status_code, "cannot be asked now" in away.json()["message"]) == (503, True)
    assert offer.subject == task
