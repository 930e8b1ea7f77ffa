"""What host_ports.TaskEvents promises: an ordered, bounded trail that keeps whatever JSON it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.host_ports import Retention
from clawplane.domain.host_tasks import TaskEvent, TaskReport
from clawplane.store import open_store

DAY = 86_400_000


def event(number: int = 0, **changes: Any) -> TaskEvent:
    values: dict[str, Any] = {"seq": 0, "id": f"e{number}", "type": "x", "created_at": number, "source": "runner"}
    return TaskEvent(**(values | changes))


async def listed(bench: Any, **wanted: Any) -> list[str]:
    values = {"task": "", "type_": "", "limit": 500, "since": None} | wanted
    return [each.id for each in await bench.store.task_events.page(**values)]


async def test_a_record_is_returned_as_it_was_stored_with_its_place_in_the_order(bench: Any) -> None:
    told = event(
        5, task_id="t", task_type="command", task_status="running", session_id="s", origin="o", dispatch_mode="d",
        response_mode="r", entrypoint="cc", details={"a": [1, None]},
    )  # fmt: skip
    stored = await bench.store.task_events.append(told)
    assert stored.seq > 0
    assert [stored] == await bench.store.task_events.page(task="", type_="", limit=9, since=None)
    again = await bench.store.task_events.append(event(6))
    assert again.seq > stored.seq


@pytest.mark.parametrize(
    "details",
    ["half \ud83d", 10**300, -1.5, True, [], {"": {"\udc00": None}}, "\x00", "\u2028", {"a": "x" * 100_000}],
)
async def test_any_json_value_comes_back_as_it_was_told(bench: Any, details: Any) -> None:
    stored = await bench.store.task_events.append(event(details=details))
    assert stored.details == details
    (read,) = await bench.store.task_events.page(task="", type_="", limit=9, since=None)
    assert read.details == details


async def test_half_surrogate_pairs_in_names_are_replaced_in_what_is_stored_and_told(bench: Any) -> None:
    stored = await bench.store.task_events.append(event(type="a\ud83d", task_id="t\ud83d", origin="\udfff"))
    assert (stored.type, stored.task_id, stored.origin) == ("a\ufffd", "t\ufffd", "\ufffd")
    assert await listed(bench, type_="a\ud83d") == ["e0"]


async def test_records_of_one_millisecond_come_back_in_the_order_in_which_they_were_told(bench: Any) -> None:
    await asyncio.gather(*(bench.store.task_events.append(event(0, id=f"e{number}")) for number in range(300)))
    assert await listed(bench) == [f"e{number}" for number in reversed(range(300))]


async def test_records_are_filtered_by_task_and_type_and_both_and_limited(bench: Any) -> None:
    for number in range(12):
        await bench.store.task_events.append(event(number, task_id=f"t{number % 2}", type=f"y{number % 3}"))
    assert await listed(bench, limit=2) == ["e11", "e10"]
    assert await listed(bench, task="t1") == ["e11", "e9", "e7", "e5", "e3", "e1"]
    assert await listed(bench, type_="y0") == ["e9", "e6", "e3", "e0"]
    assert await listed(bench, task="t1", type_="y0") == ["e9", "e3"]
    assert await listed(bench, task="nobody") == []


async def test_what_comes_behind_a_place_is_read_forward_page_by_page_and_nothing_is_missed(bench: Any) -> None:
    stored = [await bench.store.task_events.append(event(number, task_id=f"t{number % 2}")) for number in range(6)]
    assert await listed(bench, since=0, limit=3) == ["e0", "e1", "e2"]
    assert await listed(bench, since=stored[2].seq) == ["e3", "e4", "e5"]
    assert await listed(bench, since=stored[2].seq, task="t0") == ["e4"]
    assert await listed(bench, since=stored[2].seq, type_="x", limit=1) == ["e3"]
    assert await listed(bench, since=stored[5].seq) == []


async def test_a_place_is_never_given_out_twice_also_after_all_records_were_trimmed(bench: Any) -> None:
    before = await bench.store.task_events.append(event())
    await bench.store.task_events.trim(Retention(event_days=1), now=2 * DAY)
    assert (await bench.store.task_events.append(event(2))).seq > before.seq


async def test_the_numbers_are_those_of_the_records(bench: Any) -> None:
    empty = await bench.store.task_events.stats()
    assert empty == {"count": 0, "oldestCreatedAt": None, "newestCreatedAt": None, "byType": [], "byStatus": []}
    for number, (type_, status) in enumerate([("b", "running"), ("a", None), ("b", "running"), ("c", None)]):
        await bench.store.task_events.append(event(number, type=type_, task_status=status))
    assert await bench.store.task_events.stats() == {
        "count": 4,
        "oldestCreatedAt": 0,
        "newestCreatedAt": 3,
        "byType": [{"type": "b", "count": 2}, {"type": "a", "count": 1}, {"type": "c", "count": 1}],
        "byStatus": [{"taskStatus": "running", "count": 2}, {"taskStatus": "unknown", "count": 2}],
    }


async def test_records_are_trimmed_by_age_and_by_number_and_the_newest_stay(bench: Any) -> None:
    for number in range(10):
        await bench.store.task_events.append(event(number * DAY))
    kept = Retention(event_days=4, max_events=3)
    told = await bench.store.task_events.trim(kept, now=9 * DAY)
    assert told == {"cutoff": 5 * DAY, "deletedExpired": 5, "deletedOverflow": 2, "count": 3}
    assert await listed(bench) == [f"e{number * DAY}" for number in (9, 8, 7)]
    again = await bench.store.task_events.trim(kept, now=9 * DAY)
    assert (again["deletedExpired"], again["deletedOverflow"], again["count"]) == (0, 0, 3)
    gone = await bench.store.task_events.trim(kept, now=90 * DAY)
    assert (gone["deletedExpired"], gone["count"]) == (3, 0)


async def test_what_a_runner_reports_changes_no_state_and_no_number_of_tasks(host: Any) -> None:
    new = host.command()
    await host.submit(new)
    for type_ in ("task.started", "task.completed", "task.reconciled", "task.expired"):
        await host.store.task_events.append(event(type=type_, task_id=new.id, task_status="completed"))
    assert await host.status(new.id) == "pending"
    assert await host.counts() == ({"pending": 1}, 0)
    assert [each.source for each in await host.events(new.id)] == ["server", *["runner"] * 4]
    assert (await host.claimed()).task.id == new.id


async def test_a_whole_life_is_told_in_order_within_one_millisecond(host: Any) -> None:
    new = host.prompt()
    await host.submit(new)
    await host.claimed()
    await host.report(new.id, TaskReport(exit_code=17, error="e"))
    await host.tasks.take_result(new.id, now=host.now)
    assert await host.trail(new.id) == ["created", "started", "failed", "reconciled"]
    assert [each.task_status for each in await host.events(new.id)] == ["pending", "running", "failed", "failed"]
    assert len({each.created_at for each in await host.events(new.id)}) == 1


async def test_free_pages_are_given_back_to_the_file_system(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    try:
        for number in range(40):
            await store.task_events.append(event(number, details="x" * 200_000))
        await store.task_events.vacuum()
        full = (tmp_path / "clawplane.db").stat().st_size
        await store.task_events.trim(Retention(max_events=1), now=0)
        writing = [asyncio.ensure_future(store.task_events.append(event(99))) for _ in range(20)]
        await store.task_events.vacuum()
        await asyncio.gather(*writing)
        assert full > 8_000_000
        assert (tmp_path / "clawplane.db").stat().st_size < 1_500_000
        assert (await store.task_events.stats())["count"] == 21
    finally:
        await store.close()


async def test_the_numbers_follow_what_is_undone_and_what_is_trimmed(host: Any) -> None:
    async def numbers() -> dict[str, int]:
        return {each["type"]: each["count"] for each in (await host.store.task_events.stats())["byType"]}

    new = host.command()
    await host.submit(new)
    claimed = await host.claimed()
    await host.tasks.unclaim(new.id, claimed.fence, now=host.now)
    assert await numbers() == {"task.created": 1}
    await host.claimed()
    await host.report(new.id)
    await host.tasks.take_result(new.id, now=host.now)
    await host.tasks.put_back(new.id)
    assert (await host.store.task_events.stats())["count"] == 3
    await host.store.task_events.trim(Retention(max_events=1), now=host.now)
    assert await numbers() == {"task.completed": 1}
    assert [each["taskStatus"] for each in (await host.store.task_events.stats())["byStatus"]] == ["completed"]


async def test_of_very_many_names_the_most_frequent_are_told(bench: Any) -> None:
    names = [f"n{number}" for number in range(1100)]
    await asyncio.gather(*(bench.store.task_events.append(event(type=name, task_status=name)) for name in names))
    await bench.store.task_events.append(event(type="z", task_status="z"))
    await bench.store.task_events.append(event(type="z", task_status="z"))
    told = await bench.store.task_events.stats()
    assert (told["count"], len(told["byType"]), len(told["byStatus"])) == (1102, 1000, 1000)
    assert told["byType"][0] == {"type": "z", "count": 2}


async def test_the_newest_place_is_told_and_what_comes_is_behind_it(bench: Any) -> None:
    assert await bench.store.task_events.newest() == 0
    first = await bench.store.task_events.append(event())
    assert await bench.store.task_events.newest() == first.seq
    second = await bench.store.task_events.append(event())
    assert await listed(bench, since=first.seq) == [second.id]
