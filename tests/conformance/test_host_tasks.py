"""What host_ports.HostTasks promises of submitting, claiming and reporting."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from clawplane.domain.errors import Conflict
from clawplane.domain.host_ports import TaskFilter
from clawplane.domain.host_tasks import (
    HOST_SILENCE_MS,
    Approval,
    FileWrite,
    HostSpec,
    OnLoss,
    Target,
    TaskEvent,
    TaskId,
    TaskReport,
    TaskStatus,
    TaskType,
)
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import AttemptEnd, Claim, Finish, Outcome, Want
from clawplane.store import open_store

MINUTE = 60_000
STEP = 10 * MINUTE
DONE = TaskReport(stdout="hi\n", exit_code=0, duration=5)
FAILED = TaskReport(stdout="no", stderr="bad", exit_code=17, error="Exit code 17")
SILENCE_MS = 12_000


# submit


async def test_a_submitted_task_is_pending_counted_recorded_and_found_as_it_was_given(host: Any) -> None:
    new = host.prompt("chat", callback_channel="42", labels={"a": "b"}, env={"K": "v"}, cwd="~/x", priority=3)
    task = await host.submit(new)
    assert task == await host.tasks.find(new.id)
    assert (task.status, task.work, task.owner, task.created_at) == (TaskStatus.PENDING, new.work, "ann", host.now)
    assert (task.labels, task.env, task.cwd, task.priority) == ({"a": "b"}, {"K": "v"}, "~/x", 3)
    assert await host.counts() == ({"pending": 1}, 0)
    (event,) = await host.events(new.id)
    assert (event.type, event.task_status, event.session_id, event.source) == (
        "task.created",
        "pending",
        "chat",
        "server",
    )
    assert event.details is None


async def test_the_same_key_and_request_give_the_task_that_was_made_before(host: Any) -> None:
    first = await host.tasks.submit(host.command(idempotency=("k", "d")), now=host.now)
    again = await host.tasks.submit(host.command(idempotency=("k", "d")), now=host.now)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.task == first.task
    assert await host.counts() == ({"pending": 1}, 0)


async def test_the_same_key_with_another_request_is_a_conflict_and_stores_nothing(host: Any) -> None:
    await host.submit(host.command(idempotency=("k", "d")))
    with pytest.raises(Conflict, match="Idempotency-Key"):
        await host.submit(host.command(idempotency=("k", "other")))
    assert await host.counts() == ({"pending": 1}, 0)


async def test_keys_are_each_owners_own(host: Any) -> None:
    await host.submit(host.command(idempotency=("k", "d")))
    other = await host.tasks.submit(host.command(idempotency=("k", "x"), owner="bob"), now=host.now)
    assert not other.replayed


async def test_of_many_at_once_with_one_key_one_is_stored_and_the_others_are_told_of_it(host: Any) -> None:
    made = [host.command(idempotency=("k", "d")) for _ in range(20)] + [host.command() for _ in range(5)]
    answers = await asyncio.gather(*(host.tasks.submit(new, now=host.now) for new in made))
    assert len({answer.task.id for answer in answers[:20]}) == 1
    assert Counter(answer.replayed for answer in answers) == {True: 19, False: 6}
    assert await host.depth() == (6, 0)


async def test_a_task_whose_id_is_taken_is_refused_and_those_beside_it_are_stored(host: Any) -> None:
    taken = host.command()
    await host.submit(taken)
    made = [host.command(), host.command(id=taken.id), host.command()]
    answers = await asyncio.gather(*(host.tasks.submit(new, now=host.now) for new in made), return_exceptions=True)
    assert [isinstance(answer, Conflict) for answer in answers] == [False, True, False]
    assert await host.counts() == ({"pending": 3}, 0)


ODD = 'half \ud83d, whole \U0001f600, nul \x00, "quoted", ÿ'


async def test_half_surrogate_pairs_and_huge_numbers_are_kept_as_given_and_printable_for_a_link(host: Any) -> None:
    work = FileWrite(path=f"~/{ODD}", content=[10**40, ODD, {ODD: -(10**400)}])
    new = msgspec.structs.replace(host.read(), type=TaskType.FILE_WRITE, work=work)
    await host.submit(new)
    assert (await host.tasks.find(new.id)).work == work
    (offer,) = await link_offer(host)
    spec = msgspec.msgpack.decode(offer.spec, type=HostSpec)
    assert spec.work.path == f"~/{ODD}".replace("\ud83d", "\ufffd")  # type: ignore[union-attr]
    assert spec.work.content[0] == 1e40  # type: ignore[union-attr]


async def test_half_surrogate_pairs_in_ids_channels_and_names_harm_nobody(host: Any) -> None:
    new = host.prompt("s\ud83d", callback_channel="c\ud83d", origin="o\ud83d", entrypoint="\udc00", owner="\ud800")
    task = await host.submit(new)
    assert task.session_id == "s\ufffd"
    await host.claimed()
    await host.report(new.id, TaskReport(exit_code=0, metadata={"sessionId": "p\ud83d", "\ud83d": "\ud83d"}))
    assert (await host.result(new.id))["metadata"]["\ud83d"] == "\ud83d"
    assert {row.session_id for row in await host.store.agent_sessions.page(cli_type="", limit=9)} == {
        "s\ufffd",
        "p\ufffd",
    }
    assert await host.tasks.find(TaskId("\ud83d")) is None


# claim: order, delay, approval


async def test_the_oldest_is_claimed_first_across_types_and_equals_in_the_order_of_submission(host: Any) -> None:
    made = [host.command(), host.prompt(), host.read(), host.command()]
    for new in made:
        await host.submit(new)
    assert await host.claimed_ids() == [new.id for new in made]


async def test_a_claim_is_a_lease_a_started_record_and_a_running_task_in_one(host: Any) -> None:
    new = host.prompt(callback_token=b"sealed")
    await host.submit(new)
    host.pass_ms(7)
    claimed = await host.claimed("poll:mac")
    task = claimed.task
    assert (task.status, task.started_at, task.attempt, task.runner) == (
        TaskStatus.RUNNING,
        host.now,
        1,
        "poll:mac",
    )
    assert claimed.callback_token == b"sealed"
    (lease,) = await host.store.queue.leases()
    assert (lease.fence, lease.confirmed, lease.deadline_at) == (claimed.fence, True, host.now + new.timeout_ms)
    assert await host.trail(new.id) == ["created", "started"]
    assert await host.counts() == ({"running": 1}, 0)


async def test_nothing_is_claimed_where_nothing_waits(host: Any) -> None:
    assert await host.tasks.claim([host.poll(), host.poll()], now=host.now) == [None, None]


async def test_higher_priority_comes_first_but_whoever_has_waited_a_step_longer_is_not_overtaken(host: Any) -> None:
    old = host.command()
    await host.submit(old)
    host.pass_ms(STEP - 1)
    soon = host.command(priority=1)
    await host.submit(soon)
    host.pass_ms(2)
    late = host.command(priority=1)
    await host.submit(late)
    low = host.command(priority=-1)
    await host.submit(low)
    assert await host.claimed_ids() == [soon.id, old.id, late.id, low.id]


async def test_a_delayed_task_is_claimed_when_its_time_has_come_and_not_before(host: Any) -> None:
    new = host.command(not_before=host.now + 1000)
    await host.submit(new)
    assert await host.store.queue.next_expiry(silence_ms=SILENCE_MS) == host.now + 1000
    host.pass_ms(999)
    assert await host.claim() is None
    host.pass_ms(1)
    assert (await host.claimed()).task.id == new.id


async def test_a_task_that_needs_a_yes_waits_for_it_and_runs_then(host: Any) -> None:
    new = host.command(approval=Approval.WAITING)
    await host.submit(new)
    assert await host.claim() is None
    approved = await host.tasks.approve(new.id, given=True, by="eve", now=host.now)
    assert approved.approval is Approval.GIVEN
    assert (await host.claimed()).task.id == new.id
    assert await host.trail(new.id) == ["created", "approval-needed", "approved", "started"]
    assert await host.tasks.approve(new.id, given=True, by="eve", now=host.now) is None


async def test_a_refused_task_fails_and_says_who_refused_it(host: Any) -> None:
    new = host.command(approval=Approval.WAITING)
    await host.submit(new)
    refused = await host.tasks.approve(new.id, given=False, by="eve", now=host.now)
    assert (refused.status, refused.reason, refused.approval) == (TaskStatus.FAILED, "refused", Approval.REFUSED)
    assert (await host.result(new.id))["error"] == "Refused by eve."
    assert await host.claim() is None
    assert await host.counts() == ({"failed": 1}, 1)
    assert await host.tasks.approve(new.id, given=True, by="eve", now=host.now) is None


# claim: reach


@pytest.mark.parametrize(
    ("groups", "expected"),
    [(("command",), "command"), (("files",), "read"), (("claude", "codex"), "prompt"), (("gemini",), None)],
)
async def test_a_runner_is_given_only_the_groups_that_it_can_do(
    host: Any, groups: tuple[str, ...], expected: str | None
) -> None:
    made = {"command": host.command(), "read": host.read(), "prompt": host.prompt()}
    for new in made.values():
        await host.submit(new)
    claimed = await host.claim(reach={"groups": groups})
    assert (claimed and claimed.task.id) == (expected and made[expected].id)


@pytest.mark.parametrize("named", [{"runner": "id-1"}, {"runner": "x", "name": "mac mini @home, =1%"}])
async def test_a_task_for_a_runner_goes_to_it_by_id_or_name_and_to_nobody_else(
    host: Any, named: dict[str, str]
) -> None:
    target = Target(runner=named.get("name", "id-1"))
    new = host.command(target=target)
    await host.submit(new)
    assert await host.claim(reach={"runner": "other", "name": "other"}) is None
    assert await host.claim(reach={"runner": ""}) is None
    assert (await host.claimed(reach=named)).task.id == new.id


HARD = {"a": "1,b=2", "x@y": "=", "%": "%2C", "ü": "", "e,f": "\ud83d"}


async def test_a_task_with_labels_goes_to_a_runner_that_has_them_all_whatever_is_in_them(host: Any) -> None:
    new = host.command(target=Target(labels=HARD))
    await host.submit(new)
    assert await host.claim(reach={"labels": {"a": "1", "b": "2", "x@y": "=", "%": "%2C", "ü": ""}}) is None
    for missing in HARD:
        assert await host.claim(reach={"labels": {key: value for key, value in HARD.items() if key != missing}}) is None
    assert (await host.claimed(reach={"labels": {**HARD, "more": "1"}})).task.id == new.id


async def test_of_two_polls_the_one_with_less_choice_is_not_left_without_what_only_it_could_have(host: Any) -> None:
    await host.submit(host.command())
    await host.submit(host.prompt())
    wide, narrow = host.poll("poll:wide"), host.poll("poll:narrow", reach={"groups": ("command",)})
    first, second = await host.tasks.claim([wide, narrow], now=host.now)
    assert (first.task.type, second.task.type) == ("claude-cli", "command")


async def test_one_runner_may_have_several_polls_parked_and_each_gets_one(host: Any) -> None:
    made = [host.command() for _ in range(3)]
    for new in made:
        await host.submit(new)
    claims = await host.tasks.claim([host.poll("poll:a")] * 4, now=host.now)
    assert [claimed and claimed.task.id for claimed in claims] == [*(new.id for new in made), None]


async def test_a_thousand_tasks_are_claimed_once_each_by_two_that_claim_at_the_same_time(host: Any) -> None:
    made = [host.command() for _ in range(1000)]
    await asyncio.gather(*map(host.submit, made))
    claims: list[TaskId] = []

    async def take(runner: str) -> None:
        while (claimed := await host.claim(runner)) is not None:
            claims.append(claimed.task.id)

    await asyncio.gather(*(take(f"poll:{name}") for name in "ab" for _ in range(25)))
    assert Counter(claims) == Counter(new.id for new in made)
    assert await host.depth() == (0, 1000)


# unclaim


async def test_an_undone_claim_leaves_no_trace_and_the_task_at_its_old_place(host: Any) -> None:
    first, second = host.command(), host.command()
    for new in (first, second):
        await host.submit(new)
    before = await host.tasks.find(first.id)
    claimed = await host.claimed()
    assert await host.tasks.unclaim(first.id, claimed.fence, now=host.now)
    assert await host.tasks.find(first.id) == before
    assert await host.trail(first.id) == ["created"]
    assert await host.depth() == (2, 0)
    assert await host.counts() == ({"pending": 2}, 0)
    again = await host.claimed()
    assert (again.task.id, again.task.attempt) == (first.id, 1)
    assert again.fence > claimed.fence


async def test_only_the_claim_that_is_meant_is_undone_and_only_once(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    stale = await host.claimed()
    assert not await host.tasks.unclaim(new.id, stale.fence + 1, now=host.now)
    assert await host.tasks.unclaim(new.id, stale.fence, now=host.now)
    assert not await host.tasks.unclaim(new.id, stale.fence, now=host.now)
    await host.claimed()
    assert not await host.tasks.unclaim(new.id, stale.fence, now=host.now)
    assert await host.status(new.id) is TaskStatus.RUNNING
    assert not await host.tasks.unclaim(TaskId("unknown"), 1, now=host.now)


async def test_undoing_a_claim_never_removes_a_record_that_a_runner_reported(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    claimed = await host.claimed()
    forged = TaskEvent(
        seq=0, id="e", type="task.started", created_at=host.now, task_id=new.id, source="runner", details=1
    )
    await host.store.task_events.append(forged)
    await host.tasks.unclaim(new.id, claimed.fence, now=host.now)
    assert [(event.type, event.source) for event in await host.events(new.id)] == [
        ("task.created", "server"),
        ("task.started", "runner"),
    ]


async def test_a_claim_that_was_cancelled_meanwhile_ends_when_it_is_undone(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    claimed = await host.claimed()
    await host.tasks.cancel(new.id, "Cancelled by ann.", now=host.now)
    assert await host.tasks.unclaim(new.id, claimed.fence, now=host.now)
    assert (await host.tasks.find(new.id)).reason == "cancelled"
    assert await host.depth() == (0, 0)
    assert await host.counts() == ({"failed": 1}, 1)


# report


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, "completed"), (0.0, "completed"), (1, "failed"), ("0", "failed"), (False, "failed"), (None, "failed"),
     ([], "failed"), ({"a": 0}, "failed"), (10**50, "failed")],
)  # fmt: skip
async def test_only_the_number_zero_is_success_and_the_code_is_shown_as_it_was_said(
    host: Any, code: Any, status: str
) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed()
    reported = await host.report(new.id, TaskReport(exit_code=code, error="e"))
    assert (reported.outcome, reported.task, await host.status(new.id)) == ("accepted", new.id, status)
    shown = -1 if code is None else code
    assert (await host.result(new.id))["exitCode"] == shown
    assert (await host.events(new.id))[-1].details == {"exitCode": shown, "error": "e"}


async def test_a_result_has_the_keys_of_the_contract_in_their_order_and_the_runners_metadata_on_top(host: Any) -> None:
    new = host.prompt(origin="bridge", entrypoint="cc")
    await host.submit(new)
    await host.claimed()
    await host.report(new.id, TaskReport(stdout="a\n", exit_code=0, metadata={"sessionId": "p", "origin": "mine"}))
    stored = await host.tasks.result(new.id)
    assert list(json.loads(stored.body)) == [
        "taskId", "stdout", "stderr", "exitCode", "error", "completedAt", "metadata", "duration",
    ]  # fmt: skip
    result = json.loads(stored.body)
    assert (result["stdout"], result["stderr"], result["error"], result["completedAt"]) == ("a\n", "", None, host.now)
    assert result["metadata"] == {
        "origin": "mine",
        "dispatchMode": "unspecified",
        "responseMode": "direct-callback",
        "entrypoint": "cc",
        "sessionId": "p",
    }


async def test_the_first_terminal_result_wins_a_repeat_is_recognised_and_a_conflict_recorded_once(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed()
    await host.report(new.id)
    before = await host.tasks.result(new.id)
    assert (await host.report(new.id)).outcome == "repeated"
    assert await host.trail(new.id) == ["created", "started", "completed"]
    assert (await host.report(new.id, FAILED)).outcome == "conflict"
    assert await host.trail(new.id) == ["created", "started", "completed", "report-conflict"]
    assert await host.tasks.result(new.id) == before
    assert await host.status(new.id) is TaskStatus.COMPLETED
    assert await host.counts() == ({"completed": 1}, 1)


async def test_of_two_different_reports_at_once_one_is_accepted(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed()
    answers = await asyncio.gather(host.report(new.id, FAILED), host.report(new.id, DONE), host.report(new.id, FAILED))
    assert [answer.outcome for answer in answers] == ["accepted", "conflict", "repeated"]


async def test_a_repeat_is_recognised_also_after_the_result_was_fetched(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.report(new.id)
    await host.tasks.take_result(new.id, now=host.now)
    assert (await host.report(new.id)).outcome == "repeated"
    assert (await host.report(new.id, FAILED)).outcome == "conflict"
    assert await host.counts() == ({}, 0)


async def test_a_report_of_a_pending_task_ends_it_and_it_is_never_handed_out(host: Any) -> None:
    made = [
        host.command(),
        host.command(not_before=host.now + 1000),
        host.command(approval=Approval.WAITING),
    ]
    for new in made:
        await host.submit(new)
        assert (await host.report(new.id)).outcome == "accepted"
    host.pass_ms(5000)
    assert await host.claim() is None
    assert await host.depth() == (0, 0)
    assert await host.counts() == ({"completed": 3}, 3)


async def test_a_late_report_of_a_requeued_task_ends_it(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed()
    await host.tasks.reopen(now=host.now)
    assert (await host.report(new.id)).outcome == "accepted"
    assert await host.claim() is None
    assert await host.depth() == (0, 0)


async def test_a_late_report_of_a_task_that_another_runs_ends_it_and_names_the_others_lease(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed("poll:old")
    await host.tasks.reopen(now=host.now)
    other = await host.claimed("poll:new")
    reported = await host.report(new.id)
    assert [(lease.runner, lease.fence) for lease in reported.leases] == [("poll:new", other.fence)]
    assert await host.depth() == (0, 0)
    assert (await host.report(new.id, FAILED)).outcome == "conflict"


async def test_a_report_of_an_offered_task_takes_the_offer_back(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    (offer,) = await link_offer(host)
    reported = await host.report(new.id)
    assert [lease.confirmed for lease in reported.leases] == [False]
    claim = claim_of(offer)
    assert not await host.store.queue.confirm(claim, offer.runner, now=host.now)
    assert await host.depth() == (0, 0)


async def test_a_report_of_an_unknown_task_is_kept_once_and_touches_its_session(host: Any) -> None:
    report = TaskReport(stdout="late", exit_code=0, metadata={"sessionId": "p"})
    reported = await host.report(TaskId("gone"), report)
    assert (reported.outcome, reported.task) == ("unknown", None)
    await host.report(TaskId("gone"), FAILED)
    result = await host.result(TaskId("gone"))
    assert (result["stdout"], result["metadata"]["origin"]) == ("late", "unknown")
    assert await host.counts() == ({}, 1)
    outlook = await host.tasks.outlook(TaskId("gone"))
    assert (outlook.status, outlook.ready) == (None, True)
    (session,) = await host.store.agent_sessions.page(cli_type="", limit=9)
    assert (session.session_id, session.cli_type, session.task_count) == ("p", "unknown", 0)
    assert await host.tasks.take_result(TaskId("gone"), now=host.now) is not None
    assert await host.tasks.take_result(TaskId("gone"), now=host.now) is None
    assert await host.counts() == ({}, 0)


@pytest.mark.parametrize("size", [5 << 20])
async def test_large_outputs_come_back_byte_for_byte_and_are_kept_once(host: Any, size: int, tmp_path: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed()
    text = "ä" * (size // 4) + "x" * (size // 2)
    assert (await host.report(new.id, TaskReport(stdout=text, exit_code=0))).outcome == "accepted"
    assert (await host.result(new.id))["stdout"] == text
    (attempt,) = await host.store.queue.attempts(new.job)
    assert attempt.outcome.result == b""


async def test_long_errors_are_cut_in_the_trail_and_whole_in_the_result(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.report(new.id, TaskReport(exit_code=["x" * 100_000], error={"why": "y" * 100_000}))
    assert (await host.result(new.id))["error"] == {"why": "y" * 100_000}
    details = (await host.events(new.id))[-1].details
    assert len(json.dumps(details)) < 10_000
    assert "100" in details["error"]


async def test_numbers_that_json_cannot_say_are_null(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.report(new.id, TaskReport(exit_code=float("inf"), metadata={"a": [float("nan")]}, duration=float("inf")))
    result = await host.result(new.id)
    assert (result["exitCode"], result["metadata"]["a"], result["duration"]) == (None, [None], None)
    assert (await host.events(new.id))[-1].details["exitCode"] is None


# over the link


def claim_of(offer: Any) -> Claim:
    return Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)


async def link_offer(host: Any, runner: str = "mac", count: int = 1) -> Any:
    reach = host.poll(runner).reach
    want = Want(runner=RunnerId(runner), caps="host", count=count, reach=reach)
    return await host.store.queue.offer([want], now=host.now, offer_ms=10_000)


async def test_a_linked_runner_is_offered_the_same_queue_and_its_end_is_the_tasks(host: Any) -> None:
    new = host.prompt()
    await host.submit(new)
    (offer,) = await link_offer(host)
    assert await host.status(new.id) is TaskStatus.PENDING
    assert await host.claim() is None
    assert msgspec.msgpack.decode(offer.spec, type=HostSpec).task == new.id
    claim = claim_of(offer)
    assert await host.store.queue.confirm(claim, offer.runner, now=host.now)
    assert (await host.tasks.find(new.id)).runner == "mac"
    report = TaskReport(stdout="done", exit_code=0, metadata={"sessionId": "p"})
    outcome = Outcome(succeeded=True, reason="exit", result=msgspec.msgpack.encode(report))
    ended = await host.store.queue.finish(Finish(claim=claim, outcome=outcome), now=host.now)
    assert ended.accepted
    assert (await host.result(new.id))["stdout"] == "done"
    assert await host.trail(new.id) == ["created", "started", "completed"]
    again = await host.store.queue.finish(Finish(claim=claim, outcome=outcome), now=host.now)
    assert (again.accepted, again.repeated) == (False, True)


@pytest.mark.parametrize(
    "result", [b"\xc1", b"\x92\x01", msgspec.msgpack.encode({"exit_code": {b"\xff": 1}, "metadata": {}})]
)
async def test_whatever_a_linked_runner_sends_as_its_report_the_task_ends(host: Any, result: bytes) -> None:
    new = host.command()
    await host.submit(new)
    (offer,) = await link_offer(host)
    claim = claim_of(offer)
    await host.store.queue.confirm(claim, offer.runner, now=host.now)
    outcome = Outcome(succeeded=True, reason="exit", result=result)
    assert (await host.store.queue.finish(Finish(claim=claim, outcome=outcome), now=host.now)).accepted
    assert await host.status(new.id) is TaskStatus.FAILED
    assert "cannot be read" in (await host.result(new.id))["error"]


async def test_keys_of_any_kind_in_what_a_linked_runner_reports_are_texts(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    (offer,) = await link_offer(host)
    claim = claim_of(offer)
    await host.store.queue.confirm(claim, offer.runner, now=host.now)
    result = msgspec.msgpack.encode({"exit_code": 0, "metadata": {"a": {1: 2, "b": None, None: 3}}})
    outcome = Outcome(succeeded=True, reason="exit", result=result)
    assert (await host.store.queue.finish(Finish(claim=claim, outcome=outcome), now=host.now)).accepted
    assert (await host.result(new.id))["metadata"]["a"] == {"1": 2, "b": None, "null": 3}


# loss


async def test_a_poller_without_heartbeats_keeps_its_task_until_the_deadline_and_then_it_fails(host: Any) -> None:
    new = host.command(timeout_ms=30 * MINUTE)
    await host.submit(new)
    await host.claimed()
    host.pass_ms(30 * MINUTE - 1)
    assert (await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)).lost == ()
    host.pass_ms(1)
    (lost,) = (await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)).lost
    assert (lost.end, lost.requeued) == (AttemptEnd.DEADLINE, False)
    task = await host.tasks.find(new.id)
    assert (task.status, task.reason) == (TaskStatus.FAILED, "expired")
    assert await host.trail(new.id) == ["created", "started", "expired", "failed"]
    assert (await host.result(new.id))["exitCode"] == -1


@pytest.mark.parametrize("on_loss", list(OnLoss))
async def test_no_task_is_queued_again_after_its_deadline(host: Any, on_loss: OnLoss) -> None:
    new = host.command(on_loss=on_loss)
    await host.submit(new)
    await host.claimed(silence_ms=HOST_SILENCE_MS)
    host.pass_ms(new.timeout_ms)
    await host.store.queue.heartbeat(RunnerId("poll:anonymous"), [], now=host.now)
    await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)
    assert await host.status(new.id) is TaskStatus.FAILED


async def test_a_silent_runner_keeps_its_task_through_a_cut_and_loses_it_after_its_own_patience(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed("poll:a", silence_ms=HOST_SILENCE_MS)
    host.pass_ms(HOST_SILENCE_MS - 1)
    assert (await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)).lost == ()
    await host.store.queue.heartbeat(RunnerId("poll:a"), [], now=host.now)
    host.pass_ms(HOST_SILENCE_MS - 1)
    assert (await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)).lost == ()
    host.pass_ms(1)
    (lost,) = (await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)).lost
    assert (lost.end, lost.requeued) == (AttemptEnd.RUNNER_LOST, True)
    task = await host.tasks.find(new.id)
    assert (task.status, task.started_at, task.runner, task.attempt) == (TaskStatus.PENDING, None, None, 1)
    requeued = (await host.events(new.id))[-1]
    assert (requeued.type, requeued.created_at) == ("task.requeued", host.now)
    assert (await host.claimed()).task.attempt == 2


@pytest.mark.parametrize(
    ("on_loss", "status", "trail"),
    [
        (OnLoss.REQUEUE, "pending", ["created", "started", "requeued"]),
        (OnLoss.FAIL, "failed", ["created", "started", "failed"]),
        (OnLoss.HOLD, "running", ["created", "started", "recovery-preserved"]),
    ],
)
@pytest.mark.parametrize("how", ["start", "word"])
async def test_a_start_of_the_server_and_a_runners_word_take_tasks_back_by_their_policy(
    host: Any, on_loss: OnLoss, status: str, trail: list[str], how: str
) -> None:
    new, later = host.command(on_loss=on_loss), host.command()
    await host.submit(new)
    claimed = await host.claimed()
    await host.submit(later)
    if how == "start":
        told = await host.tasks.reopen(now=host.now)
    else:
        told = await host.tasks.lose([(new.job, claimed.fence)], now=host.now)
    assert [(task.id, policy) for task, policy in told] == [(new.id, on_loss)]
    assert await host.status(new.id) == status
    assert await host.trail(new.id) == trail
    expected = [new.id, later.id] if on_loss is OnLoss.REQUEUE else [later.id]
    assert await host.claimed_ids() == expected


async def test_a_task_on_hold_waits_for_a_late_report_until_its_deadline(host: Any) -> None:
    late, never = host.command(on_loss=OnLoss.HOLD), host.command(on_loss=OnLoss.HOLD)
    for new in (late, never):
        await host.submit(new)
        await host.claimed("poll:a", silence_ms=HOST_SILENCE_MS)
    host.pass_ms(HOST_SILENCE_MS * 2)
    assert (await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)).lost == ()
    assert (await host.report(late.id)).outcome == "accepted"
    host.pass_ms(never.timeout_ms)
    await host.store.queue.expire(now=host.now, silence_ms=SILENCE_MS)
    assert (await host.tasks.find(never.id)).reason == "expired"


async def test_a_start_leaves_to_runners_with_heartbeats_and_to_linked_ones_what_they_hold(host: Any) -> None:
    for _ in range(2):
        await host.submit(host.command())
    await host.claimed("poll:a", silence_ms=HOST_SILENCE_MS)
    await link_offer(host)
    assert await host.tasks.reopen(now=host.now) == []


async def test_a_word_about_another_claim_takes_nothing_back(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    claimed = await host.claimed()
    assert await host.tasks.lose([(new.job, claimed.fence - 1), (JobId(1 << 50), 1)], now=host.now) == []
    assert await host.status(new.id) is TaskStatus.RUNNING


# cancel


async def test_a_waiting_task_is_cancelled_at_once_wherever_it_waits(host: Any) -> None:
    made = [
        host.command(),
        host.command(not_before=host.now + 1000),
        host.command(approval=Approval.WAITING),
        host.prompt("s"),
        host.prompt("s"),
    ]
    for new in made:
        await host.submit(new)
    for new in reversed(made):
        task, leases = await host.tasks.cancel(new.id, "Cancelled by ann.", now=host.now)
        assert (task.status, task.reason, leases) == (TaskStatus.FAILED, "cancelled", [])
        asked = ["approval-needed"] if new.approval is Approval.WAITING else []
        assert await host.trail(new.id) == ["created", *asked, "cancel-requested", "failed"]
        assert (await host.result(new.id))["error"] == "Cancelled by ann."
    assert await host.depth() == (0, 0)
    assert await host.counts() == ({"failed": 5}, 5)
    assert await host.claim() is None


async def test_a_cancel_of_a_running_task_marks_its_lease_and_its_report_is_a_cancelled_one(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    (offer,) = await link_offer(host)
    claim = claim_of(offer)
    await host.store.queue.confirm(claim, offer.runner, now=host.now)
    task, (lease,) = await host.tasks.cancel(new.id, "Cancelled by ann.", now=host.now)
    assert (task.status, lease.cancel) == (TaskStatus.RUNNING, "Cancelled by ann.")
    partial = TaskReport(stdout="half", exit_code=143)
    outcome = Outcome(succeeded=False, reason="signal", result=msgspec.msgpack.encode(partial))
    await host.store.queue.finish(Finish(claim=claim, outcome=outcome), now=host.now)
    assert (await host.tasks.find(new.id)).reason == "cancelled"
    assert (await host.result(new.id))["stdout"] == "half"


async def test_a_cancelled_lease_that_is_lost_ends_and_is_not_queued_again(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.claimed()
    await host.tasks.cancel(new.id, "no", now=host.now)
    await host.tasks.reopen(now=host.now)
    assert (await host.tasks.find(new.id)).reason == "cancelled"
    assert await host.depth() == (0, 0)


async def test_a_cancel_of_an_offered_task_ends_it(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await link_offer(host)
    task, (lease,) = await host.tasks.cancel(new.id, "no", now=host.now)
    assert (task.status, lease.confirmed) == (TaskStatus.FAILED, False)
    assert await host.store.queue.leases() == []


async def test_what_has_ended_or_is_unknown_cannot_be_cancelled(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    await host.report(new.id)
    assert await host.tasks.cancel(new.id, "no", now=host.now) is None
    assert await host.tasks.cancel(TaskId("unknown"), "no", now=host.now) is None


# retry, list, explain


async def test_an_ended_task_is_submitted_again_with_all_that_it_asked_for(host: Any) -> None:
    new = host.prompt("s", priority=2, labels={"a": "b"}, callback_channel="7", callback_url="http://h/", cwd="/x")
    await host.submit(new)
    assert await host.tasks.retry(new.id, TaskId("again"), JobId(900_001), now=host.now) is None
    await host.report(new.id, FAILED)
    await host.tasks.take_result(new.id, now=host.now)
    host.pass_ms(5)
    again = await host.tasks.retry(new.id, TaskId("again"), JobId(900_001), now=host.now)
    old = await host.tasks.find(new.id)
    same = ("work", "type", "priority", "labels", "callback_channel", "callback_url", "cwd", "session_key", "owner")
    assert [getattr(again, name) for name in same] == [getattr(old, name) for name in same]
    assert (again.status, again.attempt, again.created_at) == (TaskStatus.PENDING, 0, host.now)
    assert (await host.claimed()).task.id == "again"
    assert await host.tasks.retry(TaskId("unknown"), TaskId("b"), JobId(900_002), now=host.now) is None


async def test_a_task_that_needed_a_yes_needs_one_again_when_it_is_retried(host: Any) -> None:
    new = host.command(approval=Approval.WAITING)
    await host.submit(new)
    await host.tasks.approve(new.id, given=False, by="eve", now=host.now)
    again = await host.tasks.retry(new.id, TaskId("again"), JobId(900_003), now=host.now)
    assert again.approval is Approval.WAITING
    assert await host.claim() is None


async def test_tasks_are_listed_newest_first_page_by_page_and_by_every_filter(host: Any) -> None:
    made = [host.command(), host.prompt("s"), host.prompt("s"), host.command(owner="bob")]
    for new in made:
        await host.submit(new)
    await host.claimed("poll:a")

    async def listed(limit: int = 9, before: Any = None, **filters: Any) -> list[int]:
        tasks = await host.tasks.page(TaskFilter(**filters), limit=limit, before=before)
        return [[new.id for new in made].index(task.id) for task in tasks]

    assert await listed() == [3, 2, 1, 0]
    assert await listed(2) == [3, 2]
    assert await listed(2, made[2].job) == [1, 0]
    assert await listed(owner="bob") == [3]
    assert await listed(status=TaskStatus.RUNNING) == [0]
    assert await listed(session_id="s") == [2, 1]
    assert await listed(session_id="s", before=made[2].job) == [1]
    assert await listed(type=made[0].type, runner="poll:a") == [0]


async def test_a_pending_task_says_what_it_waits_for(host: Any) -> None:
    first, second, third = host.command(), host.command(), host.command(not_before=host.now + 500)
    head, behind = host.prompt("s"), host.prompt("s")
    for new in (first, second, third, head, behind):
        await host.submit(new)
    waits = [await host.tasks.waiting(new.id) for new in (first, second, third, head, behind)]
    assert [wait.ahead for wait in waits[:2]] == [0, 1]
    assert waits[2].due_at == host.now + 500
    assert (waits[3].session_head, waits[4].session_head) == (None, head.id)
    await host.report(first.id)
    assert await host.tasks.waiting(first.id) is None
    assert await host.tasks.waiting(TaskId("unknown")) is None


async def test_how_many_wait_of_each_kind_and_since_when_is_known(host: Any) -> None:
    since = host.now
    await host.submit(host.command())
    host.pass_ms(10)
    for new in (host.command(priority=5), host.read()):
        await host.submit(new)
    assert await host.tasks.waits() == {"host@command": (2, since), "host@files": (1, since + 10)}


async def test_everything_is_there_after_the_store_was_closed_and_opened(host: Any, tmp_path: Any) -> None:
    done, running, waiting, behind = host.command(), host.prompt("s"), host.command(), host.prompt("s")
    for new in (done, running, waiting, behind):
        await host.submit(new)
    await host.claimed()
    await host.report(done.id)
    await host.claimed()
    before = [await host.tasks.find(new.id) for new in (waiting, running, done, behind)]
    counts, depth = await host.counts(), await host.depth()
    await host.store.close()
    host._bench.store = await open_store(tmp_path / "data", clock=host._bench.clock)
    assert [await host.tasks.find(new.id) for new in (waiting, running, done, behind)] == before
    assert (await host.counts(), await host.depth()) == (counts, depth)
    assert [task.id for task, _ in await host.tasks.reopen(now=host.now)] == [running.id]
    assert await host.claimed_ids() == [running.id, waiting.id]
