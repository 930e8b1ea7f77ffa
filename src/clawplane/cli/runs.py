"""`clawplane runs`: start, watch, read and export runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from cyclopts import App, Parameter

from clawplane.cli import exporting
from clawplane.cli.connection import Api, connect, tell_lost
from clawplane.cli.ending import run
from clawplane.cli.log_printer import LogPrinter, print_log
from clawplane.cli.output import FAILED, plain, say, show_json, show_table, size, tell
from clawplane.cli.progress import progress
from clawplane.cli.run_input import input_object
from clawplane.client.runs import Run

app = App(name="runs", help="Start, watch, read and export runs.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]
Format = Literal["csv", "json", "jsonl"]


async def _watch(api: Api, slug: str, *, quiet: bool, show_log: bool) -> Run:
    """Follow a run to its end and return it."""
    try:
        with progress(f"Running {slug}", quiet=quiet or show_log) as bar:
            count, printer = 0, LogPrinter()
            async with aclosing(api.runs.follow(slug, on_lost=tell_lost(bar.note))) as entries:
                async for entry in entries:
                    count += 1
                    if show_log:
                        printer.show(entry)
                    else:
                        bar.update(f"Running {slug}", f"{count} log lines")
            return await api.runs.show(slug)
    except BaseException:
        if not quiet:
            say(f"{slug} goes on. Follow it with `clawplane runs logs {slug} -f`, end it with `... abort {slug}`.")
        raise


async def _see_through(
    begin: Callable[[Api], Awaitable[str]], *, wait: bool, json: bool, show_log: bool = False
) -> None:
    """Begin a run, and show its slug at once or how it ended."""
    async with connect() as api:
        slug = await begin(api)
        if wait:
            _show_end(await _watch(api, slug, quiet=json, show_log=show_log), json=json)
        elif json:
            show_json({"run_slug": slug})
        else:
            tell(slug)


def _summary(item: Run) -> str:
    text = f"{item['slug']} {item['status']}, {item['results']} rows, {item['duration']} s"
    return plain(f"{text}: {item['err_msg']}" if item.get("err_msg") else text)


def _show_end(item: Run, *, json: bool) -> None:
    if json:
        show_json(item)
    else:
        tell(_summary(item))
    if item["status"] != "succeeded":
        raise SystemExit(FAILED)


@app.command
def start(
    worker: str,
    *,
    input_: Annotated[str | None, Parameter(name="--input")] = None,
    input_file: Annotated[Path | None, Parameter(name="--input-file", allow_leading_hyphen=True)] = None,
    version: str | None = None,
    memory: int | None = None,
    cpus: float | None = None,
    timeout: int | None = None,
    wait: Annotated[bool, Parameter(name="--wait", negative="--no-wait")] = True,
    logs: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Start a run and wait for its end.

    Exit code 0 when the run succeeded (or, with --no-wait, was accepted), 1 when it failed.

    Example: `clawplane runs start local~prices --input '{"query": "tea"}' --logs`

    Parameters
    ----------
    worker
        The Worker's slug, or owner~name.
    input_
        The input object as JSON.
    input_file
        A file that holds it; `-` reads standard input.
    version
        The version; default: the current one.
    memory
        Megabytes: 512, 1024, 2048, 4096, 8192 or 16384.
    cpus
        Cores: 0.125, 0.25, 0.5, 1, 2 or 4.
    timeout
        Seconds until the run is stopped.
    wait
        Follow the run to its end.
    logs
        Show its log lines as they come.
    """
    asked = {"memory": memory, "cpus": cpus, "execute_limit_time_seconds": timeout}
    system = {name: value for name, value in asked.items() if value is not None}
    custom = input_object(input_, input_file)  # before the loop: a Ctrl-C has to end a read from the terminal

    async def begin(api: Api) -> str:
        return await api.runs.start(worker, custom=custom, system=system, version=version)

    run(_see_through(begin, wait=wait, json=json, show_log=logs and not json))


@app.command(name="list")
def list_(
    *,
    worker: str | None = None,
    status: Literal["ready", "running", "succeeded", "failed", "aborting"] | None = None,
    page: int = 1,
    limit: int = 20,
    json: Json = False,
) -> None:
    """List the runs, newest first.

    Example: `clawplane runs list --worker local~prices --status failed`

    Parameters
    ----------
    worker
        Only this Worker's.
    status
        Only runs in this state.
    page
        Page number, from 1.
    limit
        Runs on a page, 1 to 100.
    """

    async def work() -> None:
        async with connect() as api:
            count, runs = await api.runs.page(offset=page, limit=limit, worker=worker, status=status)
        if json:
            show_json({"count": count, "list": runs})
            return
        show_table(
            ["RUN", "WORKER", "VERSION", "STATUS", "ROWS", "SECONDS", "ERROR"],
            [
                [
                    item["slug"],
                    item["scraper_title"],
                    item["version"],
                    item["status"],
                    item["results"],
                    item["duration"],
                    item.get("err_msg", ""),
                ]
                for item in runs
            ],
            empty="There are no runs. Start one with `clawplane runs start WORKER`.",
        )

    run(work())


@app.command
def show(slug: Annotated[str, Parameter(name="run")] = "last", *, json: Json = False) -> None:
    """Show a run and what happened to its subtasks.

    Example: `clawplane runs show`

    Parameters
    ----------
    slug
        The run's slug; default: the most recent one.
    """

    async def work() -> None:
        async with connect() as api:
            item = await api.runs.show(slug)
            subtasks = await api.runs.subtasks(item["slug"])
        if json:
            show_json(cast("dict[str, Any]", item) | {"subtasks": subtasks})
            return
        tell(_summary(item))
        show_table(
            ["SUBTASK", "STATUS", "ATTEMPTS", "WHY"],
            [
                [
                    part["id"],
                    part["status"],
                    len(part["attempts"]),
                    part["outcome"]["message"] if part["outcome"] else "",
                ]
                for part in subtasks
            ],
            empty="It has no subtasks.",
        )

    run(work())


@app.command
def logs(
    slug: Annotated[str, Parameter(name="run")] = "last",
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    json: Json = False,
) -> None:
    """Print a run's log.

    Example: `clawplane runs logs --follow`

    Parameters
    ----------
    slug
        The run's slug; default: the most recent one.
    follow
        Go on until the run has ended.
    """

    async def work() -> None:
        async with connect() as api:
            item = await api.runs.show(slug)
            entries = api.runs.follow(item["slug"], on_lost=tell_lost(say)) if follow else api.runs.log(item["slug"])
            await print_log(entries, json=json)

    run(work())


@app.command
def results(
    slug: Annotated[str, Parameter(name="run")] = "last", *, page: int = 1, limit: int = 20, json: Json = False
) -> None:
    """Print one page of a run's rows.

    Example: `clawplane runs results --limit 5`

    Parameters
    ----------
    slug
        The run's slug; default: the most recent one.
    page
        Page number, from 1.
    limit
        Rows on a page, 1 to 100.
    """

    async def work() -> None:
        async with connect() as api:
            answer = await api.runs.results(slug, offset=page, limit=limit)
        if json:
            show_json(answer)
            return
        keys = [column["key"] for column in answer["headers"]]
        labels = [column["label"] or column["key"] for column in answer["headers"]]
        show_table(
            labels,
            [[_cell(row.get(key)) for key in keys] for row in answer["list"] if isinstance(row, dict)],
            empty="There are no rows.",
        )
        say(f"{len(answer['list'])} of {answer['count']} rows")

    run(work())


def _cell(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    return msgspec.json.encode(value).decode()


@app.command
def export(
    slug: Annotated[str, Parameter(name="run")] = "last",
    *,
    format_: Annotated[Format, Parameter(name=["--format", "-t"])] = "csv",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)] = None,
    columns: Annotated[str, Parameter(name="--columns")] = "",
    json: Json = False,
) -> None:
    """Write all rows of a run to a file or to standard output.

    Example: `clawplane runs export --format jsonl --output rows.jsonl`

    Parameters
    ----------
    slug
        The run's slug; default: the most recent one.
    format_
        csv, json or jsonl.
    output
        The file to write; default: standard output.
    columns
        Only these columns, separated by commas.
    json
        Say what was written as JSON (needs --output).
    """
    wanted = [column.strip() for column in columns.split(",") if column.strip()]

    async def work() -> None:
        async with connect() as api:

            def chunks() -> AsyncGenerator[bytes, None]:
                return api.runs.export(slug, format_=format_, columns=wanted)

            if output is None or exporting.is_stream(output):
                await exporting.write_stream(chunks, output)
                return
            phase = f"Exporting to {output}"
            with progress(phase, quiet=json) as bar:
                written = await exporting.write_file(chunks, output, lambda total: bar.update(phase, size(total)))
        if json:
            show_json({"file": str(output), "bytes": written})
        else:
            say(f"Wrote {size(written)} to {output}.")

    run(work())


@app.command
def abort(slug: Annotated[str, Parameter(name="run")], *, json: Json = False) -> None:
    """Abort a run; its rows so far stay.

    Example: `clawplane runs abort 01KPD6M5YQADCQKGVKPDZVYC63`

    Parameters
    ----------
    slug
        The run's slug.
    """

    async def work() -> None:
        async with connect() as api:
            await api.runs.abort(slug)
        if json:
            show_json({"aborted": slug})
        else:
            say(f"Aborting {slug}.")

    run(work())


@app.command
def rerun(
    slug: Annotated[str, Parameter(name="run")] = "last",
    *,
    wait: Annotated[bool, Parameter(name="--wait", negative="--no-wait")] = True,
    json: Json = False,
) -> None:
    """Run the same Worker, version and input again.

    Example: `clawplane runs rerun`

    Parameters
    ----------
    slug
        The run's slug; default: the most recent one.
    wait
        Follow the new run to its end.
    """

    run(_see_through(lambda api: api.runs.rerun(slug), wait=wait, json=json))
