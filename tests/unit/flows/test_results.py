"""Columns, pages, exports and logs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from plane import Plane, ScriptedRunner, package, plane

from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import InvalidSchema, NotImplementedHere
from clawplane.domain.runs import HeaderItem, Run

CALLER = Caller(key_id="k", owner="owner", scopes=frozenset({Scope.WORKERS}))
ONE = b'{"parameters":{"custom":{"keywords":["a"]}}}'
NO_OUTPUT_SCHEMA = {
    "main.py": "import sdk\n",
    "requirements.txt": "",
    "input_schema.json": '{"properties":[{"name":"keywords","type":"array","editor":"stringList"}]}',
}


async def begin(here: Plane, content: bytes | None = None) -> tuple[ScriptedRunner, Run]:
    runner = here.runner()
    await runner.connect()
    await here.worker(runner, content=content)
    return runner, await here.flows.runs.start(CALLER, "owner~demo-worker", ONE)


async def keys(here: Plane, run: Run) -> list[str]:
    return [column.key for column in await here.flows.results.columns(await here.flows.runs.find(CALLER, run.slug))]


async def test_columns_are_the_run_time_header_when_one_was_set(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await begin(here)
        offer = await runner.take()
        await runner.ship(offer, 1, rows=[{"id": 1}], header=[HeaderItem(key="id", label="Id", format="integer")])
        assert await keys(here, run) == ["id"]


async def test_columns_are_the_output_schema_when_no_header_was_set(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        _, run = await begin(here)
        columns = await here.flows.results.columns(run)
        assert columns == [HeaderItem(key="title", label="Title", format="text")]


async def test_columns_are_the_keys_seen_when_there_is_neither(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await begin(here, package(NO_OUTPUT_SCHEMA))
        await runner.run([{"b": 1}, {"a": 2, "b": 3}])
        assert await keys(here, run) == ["b", "a"]


async def export(here: Plane, run: Run, format_: str, *columns: str) -> str:
    token = await here.flows.results.export_link(run, format_, columns)
    file = await here.flows.results.download(token)
    return b"".join([chunk async for chunk in file.chunks]).decode()


async def test_a_json_export_drops_no_key_and_a_table_shows_its_columns(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await begin(here)
        await runner.run([{"title": "x", "undeclared": 1}])
        assert json.loads(await export(here, run, "jsonl")) == {"title": "x", "undeclared": 1}
        assert await export(here, run, "CSV") == "title\r\nx\r\n"


async def test_chosen_columns_are_kept_and_unknown_ones_ignored(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await begin(here)
        await runner.run([{"title": "x", "undeclared": 1}])
        assert await export(here, run, "csv", "undeclared", "nobody", "title") == "undeclared,title\r\n1,x\r\n"
        assert await export(here, run, "csv", "nobody") == "title\r\nx\r\n"


async def test_a_run_without_rows_can_be_exported(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        _, run = await begin(here)
        assert await export(here, run, "csv") == "title\r\n"


async def test_formats_are_known_unknown_or_not_offered(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        _, run = await begin(here)
        with pytest.raises(InvalidSchema):
            await here.flows.results.export_link(run, "docx", [])
        with pytest.raises(NotImplementedHere):
            await here.flows.results.export_link(run, "xlsx", [])


async def test_following_a_log_delivers_every_line_and_ends_with_the_closing_one(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await begin(here)
        seen: list[str] = []

        async def ended() -> bool:
            return (await here.flows.runs.find(CALLER, run.slug)).status.ended

        async def follow() -> None:
            async for lines in here.flows.results.follow_log(run.slug, 0, ended):
                seen.extend(line.content for line in lines)

        following = asyncio.create_task(follow())
        offer = await runner.take()
        for seq in range(1, 6):
            await runner.ship(offer, seq, logs=[f"line {seq}"])
        await runner.end(offer)
        async with asyncio.timeout(30):
            await following
        assert [line for line in seen if line.startswith("line")] == [f"line {seq}" for seq in range(1, 6)]
        assert seen[-1].startswith("SYSTEM: Run succeeded")


async def test_following_begins_behind_the_given_line(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await begin(here)
        await runner.run()
        lines = await here.flows.results.log_after(run.slug, 0)

        async def ended() -> bool:
            return True

        rest = [
            line.seq
            async for page in here.flows.results.follow_log(run.slug, lines[0].seq, ended, closes=False)
            for line in page
        ]
        assert rest == [line.seq for line in lines[1:]]


async def test_a_log_link_gives_the_whole_log_as_text(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await begin(here)
        offer = await runner.take()
        await runner.ship(offer, 1, logs=["first", "two\nlines"])
        file = await here.flows.results.download(await here.flows.results.log_link(run.slug))
        text = b"".join([chunk async for chunk in file.chunks]).decode()
        assert text == "first\ntwo\nlines\n"
        assert file.filename == f"{run.slug}-logs.txt"
