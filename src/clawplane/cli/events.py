"""`clawplane events`: the trail of host tasks."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from clawplane.cli.connection import Api, connect, tell_lost
from clawplane.cli.ending import run
from clawplane.cli.log_printer import LogPrinter
from clawplane.cli.output import moment, plain, say, show_json
from clawplane.client.host_tasks import TaskEvent

app = App(name="events")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]


@app.default
def events(
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    task: str | None = None,
    type_: Annotated[str | None, Parameter(name="--type")] = None,
    limit: int = 20,
    after: int | None = None,
    json: Json = False,
) -> None:
    """Show what happened to host tasks: submitted, started, ended, fetched, called back.

    Example: `clawplane events --follow --type task.failed`

    Parameters
    ----------
    follow
        Go on as more happens, until Ctrl-C.
    task
        Only records of this task.
    type_
        Only records of this type, such as task.failed.
    limit
        How many records to show, 1 to 500; with --follow, how many earlier ones.
    after
        Only what comes behind this sequence number, oldest first.
    json
        Write JSON for machines; with --follow one record a line.
    """

    async def work() -> None:
        async with connect() as api:
            found = await api.host.events(task=task, type=type_, limit=limit, after=after)
            if json and not follow:
                show_json(found)
                return
            await _show(api, found, task=task, type_=type_, follow=follow, after=after, json=json)

    run(work())


async def _show(
    api: Api,
    found: list[TaskEvent],
    *,
    task: str | None,
    type_: str | None,
    follow: bool,
    after: int | None,
    json: bool,
) -> None:
    printer = LogPrinter()
    for event in found:
        printer.write(_line(event, json=json))
    if not follow:
        if not found:
            say("Nothing has happened.")
        return
    last = found[-1]["seq"] if found else after
    if last is None:
        newest = await api.host.events(limit=1)
        last = newest[0]["seq"] if newest else 0
    records = api.host.follow_events(after=last, on_lost=tell_lost(say), task=task, type=type_)
    async with aclosing(records):
        async for event in records:
            printer.write(_line(event, json=json))


def _line(event: TaskEvent, *, json: bool) -> str:
    if json:
        return msgspec.json.encode(event).decode()
    told: list[Any] = [moment(event["created_at"]), event["seq"], event["type"]]
    told += [event["task_id"], event["task_type"], event["task_status"]]
    if event["source"] != "server":
        told.append(f"({event['source']})")
    if event["details"] is not None:
        told.append(msgspec.json.encode(event["details"]).decode())
    return plain("  ".join(str(each) for each in told if each not in (None, "")))


@app.command
def trim(*, vacuum: bool = False, json: Json = False) -> None:
    """Remove records that are too old or too many now, instead of within a minute.

    Example: `clawplane events trim --vacuum`

    Parameters
    ----------
    vacuum
        Give free pages of the database back to the file system; other writes wait for that.
    """

    async def work() -> None:
        async with connect() as api:
            trimmed = await api.host.trim_events(vacuum=vacuum)
        if json:
            show_json(trimmed)
        else:
            say(f"Removed {trimmed['expired'] + trimmed['overflow']} records; {trimmed['count']} are left.")

    run(work())
