"""`clawplane runs`: start, watch, read and export runs."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from cyclopts import App, Parameter

from clawplane.cli.connection import Api, connect
from clawplane.cli.output import FAILED, log_text, out, plain, progress, run, say, show_json, show_table, size
from clawplane.domain.errors import InvalidArgument

app = App(name="runs", help="Start, watch, read and export runs.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]
Format = Literal["csv", "json", "jsonl"]
_LEVELS = {1: "debug", 2: "info", 3: "warn", 4: "error"}


def _input_object(text: str | None, file: Path | None) -> dict[str, Any]:
    if text is not None and file is not None:
        raise InvalidArgument("--input and --input-file exclude each other.", hint="Give one of them.")
    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"The input file cannot be read: {error}", hint="Name a UTF-8 JSON file.") from None
    try:
        value = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"The input is not JSON: {error}", hint='Give an object, such as {"n": 1}.') from None
    if not isinstance(value, dict):
        raise InvalidArgument("The input is not a JSON object.", hint='Give an object, such as {"n": 1}.')
    return value


async def _watch(api: Api, slug: str, *, quiet: bool, show_log: bool) -> dict[str, Any]:
    """Follow a run to its end and return it."""
    with progress(f"Running {slug}", quiet=quiet) as bar:
        count = 0
        async for entry in api.runs.log(slug, follow=True):
            count += 1
            if show_log:
                _print_entry(entry)
            else:
                bar.update(f"Running {slug}: {count} log lines")
    return await api.runs.show(slug)


def _print_entry(entry: dict[str, Any]) -> None:
    moment = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    level = _LEVELS.get(entry["type"], "info")
    sys.stdout.write(f"{moment} {level:<5} {log_text(str(entry['content']))}\n")
    sys.stdout.flush()


def _summary(item: dict[str, Any]) -> str:
    text = f"{item['slug']} {item['status']}, {item['results']} rows, {item['duration']} s"
    return f"{text}: {plain(item['err_msg'])}" if item.get("err_msg") else text


def _exit_if_failed(item: dict[str, Any]) -> None:
    if item["status"] != "succeeded":
        raise SystemExit(FAILED)


@app.command
def start(
    worker: str,
    *,
    input_: Annotated[str | None, Parameter(name="--input")] = None,
    input_file: Path | None = None,
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

    async def work() -> None:
        custom = _input_object(input_, input_file)
        async with connect() as api:
            slug = await api.runs.start(worker, custom=custom, system=system, version=version)
            if not wait:
                if json:
                    show_json({"run_slug": slug})
                else:
                    out().print(slug)
                return
            item = await _watch(api, slug, quiet=json, show_log=logs and not json)
        if json:
            show_json(item)
        else:
            out().print(_summary(item), markup=False)
        _exit_if_failed(item)

    run(work())


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
            show_json(item | {"subtasks": subtasks})
            return
        out().print(_summary(item), markup=False)
        show_table(
            ["SUBTASK", "STATUS", "ATTEMPTS", "WHY"],
            [
                [part["id"], part["status"], len(part["attempts"]), (part.get("outcome") or {}).get("message", "")]
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
            async for entry in api.runs.log(item["slug"], follow=follow):
                if json:
                    show_json(entry)
                else:
                    _print_entry(entry)

    run(work())


@app.command
def results(
    slug: Annotated[str, Parameter(name="run")] = "last", *, page: int = 1, limit: int = 20, json: Json = False
) -> None:
    """Print one page of a run's rows.

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
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    columns: Annotated[str, Parameter(name="--columns")] = "",
    json: Json = False,
) -> None:
    """Write all rows of a run to a file or to standard output.

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
            chunks = api.runs.export(slug, format_=format_, columns=wanted)
            if output is None:
                async for chunk in chunks:
                    sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
                return
            temporary = output.with_name(f".{output.name}.part")
            try:
                with temporary.open("wb") as file, progress(f"Exporting to {output}", quiet=json) as bar:
                    written = await _copy(chunks, file, lambda total: bar.update(f"Exporting: {size(total)}"))
                temporary.replace(output)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        if json:
            show_json({"file": str(output), "bytes": written})
        else:
            say(f"Wrote {size(written)} to {output}.")

    run(work())


async def _copy(chunks: AsyncIterator[bytes], file: BinaryIO, on_total: Any) -> int:
    total = 0
    async for chunk in chunks:
        file.write(chunk)
        total += len(chunk)
        on_total(total)
    return total


@app.command
def abort(slug: Annotated[str, Parameter(name="run")], *, json: Json = False) -> None:
    """Abort a run; its rows so far stay.

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

    Parameters
    ----------
    slug
        The run's slug; default: the most recent one.
    wait
        Follow the new run to its end.
    """

    async def work() -> None:
        async with connect() as api:
            new = await api.runs.rerun(slug)
            if not wait:
                if json:
                    show_json({"run_slug": new})
                else:
                    out().print(new)
                return
            item = await _watch(api, new, quiet=json, show_log=False)
        if json:
            show_json(item)
        else:
            out().print(_summary(item), markup=False)
        _exit_if_failed(item)

    run(work())
