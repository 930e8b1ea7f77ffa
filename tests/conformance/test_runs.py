"""What ports.Runs promises."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from clawplane.domain.batches import Batch, LogLine, ShippedRow
from clawplane.domain.errors import ConcurrencyLimited, Conflict, InvalidArgument, TooLarge
from clawplane.domain.ids import JobId, RunSlug, WorkerSlug
from clawplane.domain.leases import AttemptEnd, JobKind
from clawplane.domain.lifecycle import RunStatus, SubtaskStatus
from clawplane.domain.runs import HeaderItem, NewRun, RunFilter, RunSystem


def upsert(key: str, value: str, **members: Any) -> ShippedRow:
    return ShippedRow(json.dumps(members).encode(), (key, value))


async def streamed(bench: Any, new: NewRun, batch: int = 2000) -> list[list[bytes]]:
    return [rows async for rows in bench.store.runs.stream_rows(new.run.slug, batch=batch)]


# start, find


async def test_a_started_run_is_found_as_it_was_given(bench: Any) -> None:
    new = await bench.start(
        2,
        system=RunSystem(cpus=0.5, memory=1024, proxy_region="DE"),
        callback_url="http://x/",
        rerun_of=RunSlug("old"),
        origin="cli",
        input=b'{"k":"\xc3\xa9"}',
    )
    assert await bench.store.runs.find(new.run.slug) == new.run
    assert await bench.store.runs.find("unknown") is None


async def test_the_subtasks_of_a_started_run_are_queued(bench: Any) -> None:
    new = await bench.start(3)
    subtasks = await bench.store.runs.subtasks(new.run.slug)
    assert [(subtask.id, subtask.index, subtask.status) for subtask in subtasks] == [
        (job.id, index, SubtaskStatus.READY) for index, job in enumerate(new.jobs)
    ]
    assert [(offer.job, offer.subject) for offer in await bench.offer(9)] == [
        (job.id, new.run.slug) for job in new.jobs
    ]


async def test_a_run_that_cannot_be_stored_whole_is_not_stored_at_all(bench: Any) -> None:
    first = await bench.start()
    second = bench.new_run(2)
    broken = NewRun(run=second.run, jobs=(*second.jobs, first.jobs[0]))
    with pytest.raises(Conflict):
        await bench.store.runs.start(broken, max_running=9)
    assert await bench.store.runs.find(second.run.slug) is None
    assert [offer.job for offer in await bench.offer(9)] == [first.jobs[0].id]


async def test_a_run_without_subtasks_is_refused(bench: Any) -> None:
    with pytest.raises(InvalidArgument):
        await bench.store.runs.start(bench.new_run(0), max_running=9)


async def test_a_run_is_refused_while_the_limit_of_running_runs_is_reached_and_nothing_is_created(bench: Any) -> None:
    await bench.start()
    (offer,) = await bench.lease(1)
    refused = bench.new_run()
    with pytest.raises(ConcurrencyLimited):
        await bench.store.runs.start(refused, max_running=1)
    assert await bench.store.runs.find(refused.run.slug) is None
    assert await bench.offer(9) == []
    await bench.finish(offer)
    await bench.store.runs.start(bench.new_run(), max_running=1)


async def test_the_limit_counts_the_running_runs_of_the_same_owner_and_no_others(bench: Any) -> None:
    await bench.start(owner="bob")
    await bench.start()
    await bench.lease(2)
    aborted = await bench.start()
    await bench.lease(1)
    await bench.store.runs.abort(aborted.run.slug, now=bench.now)
    waiting = [bench.new_run() for _ in range(3)]
    for new in waiting:
        await bench.store.runs.start(new, max_running=2)
    with pytest.raises(ConcurrencyLimited):
        await bench.store.runs.start(bench.new_run(), max_running=1)


# last, page


async def test_the_last_run_is_the_most_recently_created_of_owner_or_worker(bench: Any) -> None:
    first = await bench.start(worker=WorkerSlug("w1"))
    second = await bench.start(worker=WorkerSlug("w2"), created_at=bench.now + 1)
    await bench.start(worker=WorkerSlug("w1"), owner="bob", created_at=bench.now + 2)
    runs = bench.store.runs
    assert await runs.last(owner="ann", worker=None) == second.run
    assert await runs.last(owner="ann", worker=WorkerSlug("w1")) == first.run
    assert await runs.last(owner="eve", worker=None) is None


async def test_a_page_has_the_count_of_all_and_the_newest_runs_first(bench: Any) -> None:
    runs = [await bench.start(created_at=bench.now + index // 2) for index in range(5)]
    slugs = [new.run.slug for new in reversed(runs)]
    count, page = await bench.store.runs.page(RunFilter(), limit=2, offset=1)
    assert (count, [run.slug for run in page]) == (5, slugs[1:3])
    assert await bench.store.runs.page(RunFilter(), limit=2, offset=9) == (5, [])


async def test_a_page_shows_only_what_the_filter_asks_for(bench: Any) -> None:
    one = await bench.start(owner="ann", worker=WorkerSlug("w1"))
    two = await bench.start(owner="bob", worker=WorkerSlug("w2"), created_at=bench.now + 10)
    await bench.lease()

    async def slugs(**wanted: Any) -> list[str]:
        count, page = await bench.store.runs.page(RunFilter(**wanted), limit=9, offset=0)
        assert count == len(page)
        return [run.slug for run in page]

    assert await slugs(owner="bob") == [two.run.slug]
    assert await slugs(worker=WorkerSlug("w1")) == [one.run.slug]
    assert await slugs(status=RunStatus.RUNNING) == [one.run.slug]
    assert await slugs(created_from=bench.now + 10) == [two.run.slug]
    assert await slugs(created_before=bench.now + 10) == [one.run.slug]
    assert await slugs(owner="bob", worker=WorkerSlug("w1")) == []


# abort


async def test_an_aborted_run_drops_what_waits_and_marks_what_runs(bench: Any) -> None:
    new = await bench.start(4)
    (running,) = await bench.lease()
    (offered,) = await bench.offer()
    leases = await bench.store.runs.abort(new.run.slug, now=bench.now)
    assert [(lease.job, lease.confirmed) for lease in leases] == [(running.job, True), (offered.job, False)]
    assert all(lease.cancel for lease in leases)
    assert await bench.offer(9) == []
    assert not await bench.confirm(offered)
    statuses = [subtask.status for subtask in await bench.store.runs.subtasks(new.run.slug)]
    assert statuses == [SubtaskStatus.RUNNING] + [SubtaskStatus.ABORTED] * 3
    run = await bench.run(new)
    assert (run.status, run.finished_at) == (RunStatus.ABORTING, None)


async def test_a_run_of_which_nothing_runs_is_finished_when_it_is_aborted(bench: Any) -> None:
    new = await bench.start(2)
    assert await bench.store.runs.abort(new.run.slug, now=bench.now + 5) == []
    run = await bench.run(new)
    assert (run.status, run.finished_at) == (RunStatus.ABORTING, bench.now + 5)


async def test_an_aborted_run_is_finished_with_the_last_end_of_what_ran(bench: Any) -> None:
    new = await bench.start(2)
    first, second = await bench.lease(2)
    await bench.store.runs.abort(new.run.slug, now=bench.now)
    assert (await bench.finish(first)).run is None
    bench.clock.advance(1)
    end = (await bench.finish(second)).run
    assert end is not None
    assert (end.status, end.totals.aborted) == (RunStatus.ABORTING, 2)
    run = await bench.run(new)
    assert (run.status, run.finished_at) == (RunStatus.ABORTING, bench.now)
    assert [entry.end for entry in await bench.store.queue.attempts(first.job)] == [AttemptEnd.ABORTED]


async def test_an_aborted_run_is_finished_when_its_last_runner_is_lost(bench: Any) -> None:
    new = await bench.start()
    await bench.lease()
    await bench.store.runs.abort(new.run.slug, now=bench.now)
    bench.clock.advance(13)
    (end,) = (await bench.expire()).runs
    assert (end.slug, end.status) == (new.run.slug, RunStatus.ABORTING)
    assert (await bench.run(new)).finished_at == bench.now


async def test_a_run_that_has_ended_or_is_being_aborted_cannot_be_aborted(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.finish(offer)
    assert await bench.store.runs.abort(new.run.slug, now=bench.now) is None
    other = await bench.start()
    await bench.store.runs.abort(other.run.slug, now=bench.now)
    assert await bench.store.runs.abort(other.run.slug, now=bench.now) is None
    assert await bench.store.runs.abort(RunSlug("unknown"), now=bench.now) is None


# append


async def test_batches_are_stored_in_order_and_rows_keep_theirs(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    assert (await bench.ship(offer, 1, b'{"n":1}', b'{"n":2}')).stored_up_to == 1
    assert (await bench.ship(offer, 2, b'{"n":3}')).stored_up_to == 2
    count, rows = await bench.store.runs.rows(new.run.slug, limit=9, offset=0)
    assert (count, [(row.ordinal, row.body) for row in rows]) == (
        3,
        [(1, b'{"n":1}'), (2, b'{"n":2}'), (3, b'{"n":3}')],
    )


async def test_a_batch_that_is_sent_again_is_acknowledged_and_not_stored_again(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    for seq in (1, 2, 2, 1):
        answer = await bench.ship(offer, seq, b"%d" % seq, logs=("line",))
    assert (answer.stored_up_to, answer.stale) == (2, False)
    assert await bench.bodies(new) == [b"1", b"2"]
    assert len(await bench.store.runs.log_tail(new.run.slug, limit=9)) == 2


async def test_a_batch_sent_twice_at_once_is_stored_once(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    answers = await asyncio.gather(*(bench.ship(offer, 1, b"1") for _ in range(5)))
    assert {answer.stored_up_to for answer in answers} == {1}
    assert await bench.bodies(new) == [b"1"]


async def test_a_batch_behind_a_gap_is_refused_with_how_far_the_others_are_stored(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(offer, 1, b"1")
    assert (await bench.ship(offer, 3, b"3")).stored_up_to == 1
    assert await bench.bodies(new) == [b"1"]


async def test_a_batch_of_another_fence_or_of_no_lease_is_stale_and_not_stored(bench: Any) -> None:
    new = await bench.start()
    (offered,) = await bench.offer()
    assert (await bench.ship(offered, 1, b"1")).stale
    await bench.confirm(offered)
    assert (
        await bench.store.runs.append(Batch(job=offered.job, fence=offered.fence - 1, seq=1, rows=(ShippedRow(b"1"),)))
    ).stale
    await bench.finish(offered)
    assert (await bench.ship(offered, 1, b"1")).stale
    assert await bench.bodies(new) == []


async def test_batches_of_many_jobs_that_arrive_together_are_all_stored(bench: Any) -> None:
    runs = [await bench.start(2) for _ in range(3)]
    offers = await bench.lease(6)
    await asyncio.gather(*(bench.ship(offer, seq, b"%d" % seq) for seq in (1, 2, 3) for offer in offers))
    for new in runs:
        assert sorted(await bench.bodies(new)) == [b"1", b"1", b"2", b"2", b"3", b"3"]


async def test_the_last_header_wins_and_none_is_none(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(offer, 1, b"1")
    assert (await bench.run(new)).header is None
    for seq, key in [(2, "a"), (3, "b")]:
        header = (HeaderItem(key=key, label=key.upper(), format="integer"),)
        await bench.store.runs.append(Batch(job=offer.job, fence=offer.fence, seq=seq, header=header))
    assert (await bench.run(new)).header == header


async def test_a_build_ships_logs_and_no_rows(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(kind=JobKind.BUILD, subject="w@v1")])
    (offer,) = await bench.lease()
    with pytest.raises(InvalidArgument):
        await bench.ship(offer, 1, b"{}")
    assert (await bench.ship(offer, 1, logs=("resolving",))).stored_up_to == 1
    assert [line.content for line in await bench.store.runs.log_tail("w@v1", limit=5)] == ["resolving"]


# upserts


async def test_an_upsert_lays_its_members_over_the_row_of_the_same_key_and_value(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(offer, 1, upsert("id", "1", id=1, a=1), b'{"plain":0}', upsert("id", "2", id=2))
    await bench.ship(offer, 2, upsert("id", "1", a=2, b=3), upsert("other", "1", x=1))
    assert [json.loads(body) for body in await bench.bodies(new)] == [
        {"id": 1, "a": 2, "b": 3},
        {"plain": 0},
        {"id": 2},
        {"x": 1},
    ]
    assert (await bench.run(new)).result_count == 4


async def test_upserts_of_one_row_within_a_batch_are_one_row(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(offer, 1, *(upsert("id", "1", n=number, **{f"k{number}": 1}) for number in range(3)))
    assert [json.loads(body) for body in await bench.bodies(new)] == [{"n": 2, "k0": 1, "k1": 1, "k2": 1}]


async def test_the_common_pattern_of_upserting_every_third_row_again_keeps_the_count(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(offer, 1, *(upsert("id", f"test-{n}", id=n, round=1) for n in range(30)))
    await bench.ship(offer, 2, *(upsert("id", f"test-{n}", round=2) for n in range(0, 30, 3)))
    bodies = [json.loads(body) for body in await bench.bodies(new)]
    assert [body["id"] for body in bodies] == list(range(30))
    assert sum(body["round"] == 2 for body in bodies) == 10


async def test_subtasks_of_a_run_share_upserted_rows_and_other_runs_do_not(bench: Any) -> None:
    new, other = await bench.start(2), await bench.start()
    first, second, third = await bench.lease(3)
    await bench.ship(first, 1, upsert("id", "1", a=1))
    await bench.ship(second, 1, upsert("id", "1", b=2))
    await bench.ship(third, 1, upsert("id", "1", c=3))
    assert [json.loads(body) for body in await bench.bodies(new)] == [{"a": 1, "b": 2}]
    assert [json.loads(body) for body in await bench.bodies(other)] == [{"c": 3}]


async def test_a_row_that_another_subtask_has_upserted_too_outlives_its_first_attempt(bench: Any) -> None:
    new = await bench.start(2)
    (lost,) = await bench.lease()
    (living,) = await bench.lease(1, "r2")
    await bench.ship(lost, 1, upsert("id", "1", a=1), upsert("id", "2", a=2), b'{"p":1}')
    await bench.ship(living, 1, upsert("id", "1", b=1))
    bench.clock.advance(11)
    await bench.store.queue.heartbeat("r2", [], now=bench.now)
    bench.clock.advance(2)
    assert len((await bench.expire()).lost) == 1
    (again,) = await bench.lease(1, "r2")
    assert [json.loads(body) for body in await bench.bodies(new)] == [{"a": 1, "b": 1}]
    await bench.ship(again, 1, upsert("id", "1", a=5), upsert("id", "2", a=6))
    assert [json.loads(body) for body in await bench.bodies(new)] == [{"a": 5, "b": 1}, {"a": 6}]


# rows, streams, columns


async def test_pages_of_rows_join_without_gap_or_overlap(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    bodies = [b"%d" % number for number in range(57)]
    for seq, at in enumerate(range(0, 57, 10), 1):
        await bench.ship(offer, seq, *bodies[at : at + 10])
    pages = [await bench.store.runs.rows(new.run.slug, limit=7, offset=offset) for offset in range(0, 63, 7)]
    assert {count for count, _ in pages} == {57}
    assert [row.body for _, page in pages for row in page] == bodies
    assert await bench.store.runs.rows(RunSlug("unknown"), limit=7, offset=0) == (0, [])


async def test_pages_leave_out_dropped_rows_and_ordinals_never_change(bench: Any) -> None:
    new = await bench.start(2)
    (kept,) = await bench.lease(1, "r1")
    (lost,) = await bench.lease(1, "r2")
    for seq in range(1, 6):
        await bench.ship(kept, seq, b"%d" % seq)
        await bench.ship(lost, seq, b"-1", b"-2")
    bench.clock.advance(11)
    await bench.store.queue.heartbeat("r1", [], now=bench.now)
    bench.clock.advance(2)
    await bench.expire()
    (again,) = await bench.lease(1, "r3")
    await bench.ship(again, 1, b"6")
    count, rows = await bench.store.runs.rows(new.run.slug, limit=3, offset=3)
    assert (count, [(row.ordinal, row.body) for row in rows]) == (6, [(10, b"4"), (13, b"5"), (16, b"6")])
    assert await streamed(bench, new) == [[b"1", b"2", b"3", b"4", b"5", b"6"]]


async def test_rows_of_failed_subtasks_of_a_succeeded_split_run_are_not_visible(bench: Any) -> None:
    new = await bench.start(2)
    good, bad = await bench.lease(2)
    await bench.ship(bad, 1, b'{"bad":1}', b'{"bad":2}')
    await bench.ship(good, 1, b'{"good":1}')
    await bench.finish(bad, succeeded=False)
    assert len(await bench.bodies(new)) == 3
    await bench.finish(good)
    assert await bench.bodies(new) == [b'{"good":1}']
    assert await streamed(bench, new) == [[b'{"good":1}']]
    assert [item.key for item in await bench.store.runs.columns(new.run.slug)] == ["good"]


async def test_rows_of_a_failed_run_stay_visible(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(offer, 1, b"1")
    await bench.finish(offer, succeeded=False)
    assert await bench.bodies(new) == [b"1"]


async def test_a_stream_yields_all_rows_in_order_in_lists_of_the_asked_size(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    bodies = [b'{"n":%d}' % number for number in range(2500)]
    await bench.ship(offer, 1, *bodies[:1])
    await bench.ship(offer, 2, *bodies[1:2300])
    await bench.ship(offer, 3, *bodies[2300:])
    lists = await streamed(bench, new, 700)
    assert [len(rows) for rows in lists] == [700, 700, 700, 400]
    assert [body for rows in lists for body in rows] == bodies
    assert [row async for row in bench.store.runs.stream_rows(RunSlug("unknown"))] == []


async def test_large_rows_are_kept_whole(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    bodies = [b'"%s"' % (b"x" * size) for size in (10, 300_000, 10, 200_000, 100_000)]
    await bench.ship(offer, 1, *bodies)
    assert await bench.bodies(new) == bodies
    assert await streamed(bench, new) == [bodies]


async def test_large_rows_are_streamed_a_few_at_a_time_and_a_page_of_too_many_is_refused(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    row = b'"%s"' % (b"x" * (7 << 20))
    for number in range(1, 11):
        await bench.ship(offer, number, row)
    lists = await streamed(bench, new)
    assert [len(rows) for rows in lists] == [2] * 5
    with pytest.raises(TooLarge, match="larger than 64 MB"):
        await bench.store.runs.rows(new.run.slug, limit=100, offset=0)
    _, rows = await bench.store.runs.rows(new.run.slug, limit=5, offset=3)
    assert len(rows) == 5


async def test_keys_that_nobody_meant_as_columns_are_left_out(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(
        offer, 1, b'{"a":1,"%s":1}' % (b"k" * 5000), json.dumps({f"k{n}": 1 for n in range(20_000)}).encode()
    )
    keys = [item.key for item in await bench.store.runs.columns(new.run.slug)]
    assert keys[:2] == ["a", "k0"]
    assert len(keys) == 10_000


async def test_columns_are_the_union_of_keys_in_order_of_first_sight(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.ship(offer, 1, b'{"b":1,"a":{"z":1}}', b"[1]", b'"text"', b'{"c":1}')
    await bench.ship(offer, 2, b'{"a":1,"d":1}')
    assert [item.key for item in await bench.store.runs.columns(new.run.slug)] == ["b", "a", "c", "d"]


# logs


async def test_log_lines_are_numbered_in_order_and_name_their_subtask(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    lines = (LogLine(4, "two\nlines", bench.now, "stderr"), LogLine(1, "", bench.now + 1))
    await bench.store.runs.append_system_log(new.run.slug, "", [LogLine(2, "queued", bench.now, "system")])
    await bench.store.runs.append(Batch(job=offer.job, fence=offer.fence, seq=1, logs=lines))
    stored = await bench.store.runs.log_tail(new.run.slug, limit=9)
    assert [(line.seq, line.type, line.group, line.content, line.at, line.source) for line in stored] == [
        (1, 2, "", "queued", bench.now, "system"),
        (2, 4, str(offer.job), "two\nlines", bench.now, "stderr"),
        (3, 1, str(offer.job), "", bench.now + 1, "sdk"),
    ]


async def test_the_tail_of_a_log_is_its_newest_lines_oldest_first(bench: Any) -> None:
    for start in range(0, 100, 3):
        lines = [LogLine(2, str(number), 0) for number in range(start, min(start + 3, 100))]
        await bench.store.runs.append_system_log("w@v1", "", lines)
    tail = await bench.store.runs.log_tail("w@v1", limit=70)
    assert [line.content for line in tail] == [str(number) for number in range(30, 100)]
    assert len(await bench.store.runs.log_tail("w@v1", limit=1000)) == 100
    assert await bench.store.runs.log_tail("unknown", limit=5) == []


async def test_a_log_is_read_on_from_where_a_reader_stopped(bench: Any) -> None:
    for start in range(0, 100, 3):
        lines = [LogLine(2, str(number), 0) for number in range(start, min(start + 3, 100))]
        await bench.store.runs.append_system_log("w@v1", "", lines)
    seen: list[str] = []
    seq = 0
    while lines := await bench.store.runs.log_after("w@v1", seq, limit=7):
        assert len(lines) <= 7
        seen += [line.content for line in lines]
        seq = lines[-1].seq
    assert seen == [str(number) for number in range(100)]
    assert await bench.store.runs.log_after("unknown", 0, limit=5) == []


async def test_logs_of_a_lost_attempt_are_kept(bench: Any) -> None:
    new = await bench.start()
    (lost,) = await bench.lease()
    await bench.ship(lost, 1, b"1", logs=("the last words",))
    bench.clock.advance(13)
    await bench.expire()
    await bench.lease(1, "r2")
    assert [line.content for line in await bench.store.runs.log_tail(new.run.slug, limit=5)] == ["the last words"]


async def test_a_subtask_keeps_the_outcome_of_its_end(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.finish(offer, succeeded=False, reason="timeout", message="too slow", exit_code=None, signal=9)
    (subtask,) = await bench.store.runs.subtasks(new.run.slug)
    assert subtask.outcome is not None
    assert (subtask.outcome.reason, subtask.outcome.message, subtask.outcome.signal) == ("timeout", "too slow", 9)
    assert subtask.id == JobId(offer.job)
